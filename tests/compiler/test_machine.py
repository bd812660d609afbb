"""What a machine can do, read from the text that Linux gives."""

import pytest

from pocketformer.compiler.machine import Machine, cpus, read_words, this_machine

ZEN4 = (
    "flags\t\t: fpu sse4_1 sse4_2 fma avx avx2 avx512f avx512dq avx512cd avx512bw avx512vl "
    "avx512_bf16 avx512_vnni"
)
KNIGHTS_LANDING = "flags\t\t: sse4_1 sse4_2 fma avx avx2 avx512f avx512cd avx512er avx512pf"
CORTEX_X3 = "Features\t: fp asimd aes fphp asimdhp asimddp sve sve2 i8mm bf16"
CORTEX_A53 = "Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
KRAIT = "Features\t: swp half thumb fastmult vfp edsp neon vfpv3"


@pytest.mark.parametrize(
    ("arch", "text", "isa"),
    [
        ("x86_64", ZEN4, "sse4 avx avx2 fma avx512f avx512vnni avx512bf16"),
        ("x86_64", KNIGHTS_LANDING, "sse4 avx avx2 fma"),
        ("aarch64", CORTEX_X3, "neon fp16 dotprod i8mm bf16 sve sve2"),
        ("aarch64", CORTEX_A53, "neon"),
        ("arm", KRAIT, "neon"),
        ("arm", CORTEX_A53, "neon"),
    ],
    ids=["zen4", "knights-landing", "cortex-x3", "cortex-a53", "krait", "32-bit on cortex-a53"],
)
def test_the_instruction_sets_have_the_names_of_targets(arch, text, isa, tmp_path):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{text}\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert Machine(arch, "linux", read_words(tmp_path / "cpuinfo")).isa == set(isa.split())


def test_what_the_system_does_not_tell_is_unknown(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\n")
    assert read_words(tmp_path / "cpuinfo") is None
    assert read_words(tmp_path / "nothing") is None
    assert Machine("x86_64", "linux").isa is None
    assert Machine("riscv64", "linux", frozenset({"zba"})).isa is None


def test_this_machine_has_a_name_and_cpus():
    assert this_machine().arch in str(this_machine())
    assert len(cpus()) >= 1
