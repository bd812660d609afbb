"""The counter against kernels whose number of multiply-adds is known, and against itself."""

import numpy as np
import onnx
import pytest

import pocketformer as pf
from bench.arm import engines
from bench.arm.blocks import KERNEL, RUN, Block, Region, chains
from bench.arm.counting import compile_c, run_counted
from bench.arm.kernels import judge, runner
from bench.arm.setting import arm_target
from bench.kernels import linear
from pocketformer.compiler.errors import BadTarget, BuildFailed, DeviceFailed
from tests.encoder import encoder

CPU = "cortex-a76"
LANES = 4


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """A program that marks two runs, with two kernels of 10 and 20 times 3 fmla in each."""
    source = tmp_path_factory.mktemp("marked") / "marked.c"
    source.write_text("""
        #include <unistd.h>
        static void mark(long phase, long index) { syscall(0x5155, phase, index); }
        static void work(long times) {
          for (long i = 0; i < times; i++)
            __asm__ volatile("fmla v0.4s, v1.4s, v2.4s\\n fmla v3.4s, v1.4s, v2.s[1]\\n"
                             "fmla v4.4s, v1.4s, v2.4s" ::: "v0", "v3", "v4");
        }
        int main(void) {
          work(5);
          for (long run = 0; run < 2; run++) {
            mark(3, run);
            mark(1, 0); work(10); mark(2, 0);
            work(7);
            mark(1, 1); work(20); mark(2, 1);
            mark(4, run);
          }
          return 0;
        }
    """)
    return compile_c(source, "aarch64-linux-gnu.2.17")


def test_regions_hold_what_ran_between_their_marks(marked):
    regions = run_counted([marked], CPU).regions
    found = [(region.phase, region.index, region.counts.fmla) for region in regions]
    once = [(KERNEL, 0, 30), (KERNEL, 1, 60)]
    assert found == [*once, (RUN, 0, 111), *once, (RUN, 1, 111)]


def test_other_threads_are_not_counted(tmp_path):
    source = tmp_path / "threads.c"
    source.write_text("""
        #include <pthread.h>
        #include <unistd.h>
        static volatile int stop;
        static void* spin(void* nothing) {
          while (!stop) __asm__ volatile("sdot v0.4s, v1.16b, v2.16b" ::: "v0");
          return nothing;
        }
        int main(void) {
          pthread_t other;
          pthread_create(&other, 0, spin, 0);
          syscall(0x5155, 3, 0);
          for (int i = 0; i < 100; i++) usleep(100);
          syscall(0x5155, 4, 0);
          stop = 1;
          return pthread_join(other, 0);
        }
    """)
    program = compile_c(source, "aarch64-linux-gnu.2.17", "-mcpu=cortex_a76", "-pthread")
    (region,) = run_counted([program], CPU).regions
    assert region.counts.dot == 0
    assert region.counts.branch > 100


def test_no_program_sees_vectors_that_no_phone_has(tmp_path):
    source = tmp_path / "sees_sve.c"
    source.write_text("""
        #include <sys/auxv.h>
        int main(void) { return getauxval(AT_HWCAP) >> 22 & 1; }
    """)
    run_counted([compile_c(source, "aarch64-linux-gnu.2.17")], "max")


def test_linear_kernel_multiplies_as_often_as_it_must():
    work, _, _, flops = linear(["16", "48", "64"])
    found = judge(work, flops, arm_target("arm64-linux"), CPU, [])
    assert found.counts.fmla == 16 * 48 * 64 / LANES
    assert found.counts.total < 2 * found.counts.fmla


def test_kernel_counts_repeat_exactly():
    work, _, _, flops = linear(["7", "40", "33", "bias", "gelu"])
    target = arm_target("arm64-linux")
    first, second = (judge(work, flops, target, CPU, []) for _ in range(2))
    assert first == second


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    onnx.save(encoder(1, 16), folder / "encoder.onnx")
    bundle = pf.compile(folder / "encoder.onnx", arm_target("arm64-linux"))
    bundle.save(folder / "encoder.pf")
    return folder / "encoder.pf"


def test_runs_of_a_bundle_repeat_exactly(bundle, tmp_path):
    loaded = pf.Bundle.load(bundle, check_machine=False)
    inputs = {spec.name: np.ones(spec.shape, spec.dtype) for spec in loaded.manifest.inputs}

    def once():
        return engines.pocketformer(bundle, inputs, CPU, tmp_path, lambda step, part: None)

    first, second = once(), once()
    counts = [(name, region.counts) for name, region in first.kernels]
    assert counts == [(name, region.counts) for name, region in second.kernels]
    assert [name for name, _ in counts] == [kernel.function for kernel in loaded.manifest.kernels]
    assert first.region.counts == second.region.counts
    assert first.region.counts.total >= sum(each.total for _, each in counts)


def test_program_that_fails_is_told_by_its_last_words():
    with pytest.raises(DeviceFailed, match=r"run_kernel failed in the emulator: .*no-such\.so"):
        run_counted([runner(), "no-such.so", "1x2"], CPU)


def test_source_that_does_not_compile_is_told_by_the_compiler_s_words(tmp_path):
    (tmp_path / "wrong.c").write_text("int main(void) { return nothing; }\n")
    with pytest.raises(BuildFailed, match=r"zig cannot compile wrong\.c: .*nothing"):
        compile_c(tmp_path / "wrong.c", "aarch64-linux-gnu.2.17")


def test_target_of_another_architecture_is_refused():
    with pytest.raises(BadTarget, match="x86_64-linux is x86_64"):
        arm_target("x86_64-linux")


NOP, BACK = 0xD503201F, 0x54FFFF81      # b.ne backwards


def test_code_that_always_runs_together_is_one_piece():
    """A loop that crosses a page, entered from above: QEMU's blocks are before+head, head, tail."""
    before, head, tail = (0,), (NOP, NOP), (NOP, BACK)
    times = {Block(0xFF4, before + head): 1, Block(0xFF8, head): 9, Block(0x1000, tail): 10}
    assert chains(Region(RUN, 0, times)) == {Block(0xFF4, before): 1, Block(0xFF8, head + tail): 10}


def test_code_behind_a_call_is_another_piece():
    call = 0x94000010
    times = {Block(0x100, (NOP, call)): 4, Block(0x108, (NOP,)): 4}
    assert chains(Region(RUN, 0, times)) == times
