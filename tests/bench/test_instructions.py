"""What instructions count as, assembled by LLVM: those of each kind, and others that look alike."""

import subprocess
import sys

import pytest
from elftools.elf.elffile import ELFFile

from bench.arm.instructions import TABLE, Counts, count, falls_through, kind_of

EXTENSIONS = ".arch armv9.2-a+fp16+bf16+i8mm+dotprod+lse+fp16fml+memtag"
BY_KIND = {
    "fmla": """
        fmla v0.4s, v1.4s, v2.4s
        fmla v31.2s, v30.2s, v29.2s
        fmla v0.2d, v1.2d, v2.2d
        fmla v0.8h, v1.8h, v2.8h
        fmla v3.4h, v4.4h, v5.4h
        fmla v0.4s, v1.4s, v2.s[0]
        fmla v0.4s, v1.4s, v31.s[3]
        fmla v0.2s, v1.2s, v2.s[1]
        fmla v0.2d, v1.2d, v2.d[1]
        fmla v0.8h, v1.8h, v15.h[7]
    """,
    "dot": """
        sdot v0.4s, v1.16b, v2.16b
        udot v0.2s, v1.8b, v2.8b
        sdot v0.4s, v1.16b, v31.4b[3]
        udot v0.2s, v1.8b, v2.4b[0]
        usdot v0.4s, v1.16b, v2.16b
        usdot v0.4s, v1.16b, v2.4b[1]
        sudot v0.4s, v1.16b, v2.4b[2]
        smmla v0.4s, v1.16b, v2.16b
        ummla v0.4s, v1.16b, v2.16b
        usmmla v0.4s, v1.16b, v2.16b
        bfdot v0.4s, v1.8h, v2.8h
        bfdot v0.4s, v1.8h, v2.2h[3]
        bfmmla v0.4s, v1.8h, v2.8h
        bfmlalb v0.4s, v1.8h, v2.8h
        bfmlalt v0.4s, v1.8h, v2.h[5]
    """,
    "scalar": """
        fmadd s0, s1, s2, s3
        fnmsub d0, d1, d2, d3
        fmul s0, s1, s2
        fadd d0, d1, d2
        fdiv h0, h1, h2
        fsqrt s0, s1
        fmaxnm s0, s1, s2
        fcmp s0, s1
        fcmp s0, #0.0
        fccmp s0, s1, #0, eq
    """,
    "load": """
        ldr x0, [x1]
        ldr w0, [x1, #8]!
        ldr q0, [x1], #16
        ldr q0, [x1, x2]
        ldr d0, [x1, #8]
        ldr s0, [x1, x2, lsl #2]
        ldur q0, [x1, #-16]
        ldur x0, [x1, #-8]
        ldrb w0, [x1]
        ldrh w0, [x1, x2]
        ldrsw x0, [x1]
        ldrsb w0, [x1]
        ldrsh x0, [x1, #2]
        ldr b0, [x1]
        ldp x0, x1, [sp]
        ldp q0, q1, [x0], #32
        ldp s0, s1, [x0, #8]!
        ldnp q0, q1, [x0]
        ldpsw x0, x1, [x2]
        ldr x0, . + 8
        ldr q0, . + 16
        ldrsw x0, . + 8
        ld1 {v0.4s}, [x0]
        ld1 {v0.4s, v1.4s}, [x0], #32
        ld4 {v0.16b, v1.16b, v2.16b, v3.16b}, [x0]
        ld1 {v0.s}[1], [x0]
        ld1r {v0.4s}, [x0]
        ld1r {v0.4s}, [x0], #4
        ldxr x0, [x1]
        ldaxrb w0, [x1]
        ldar w0, [x1]
        ldxp x0, x1, [x2]
        ldapr x0, [x1]
        ldapur w0, [x1, #4]
        ldtr x0, [x1]
        cas x0, x1, [x2]
        casal w0, w1, [x2]
        casp x0, x1, x2, x3, [x4]
        ldadd x0, x1, [x2]
        swp w0, w1, [x2]
        stadd w0, [x1]
        ldraa x0, [x1]
    """,
    "store": """
        str x0, [x1]
        str w0, [x1, #4]!
        str q0, [x1]
        str q0, [x1], #16
        str q0, [x1, x2]
        str d0, [x1, #8]
        stur q0, [x1, #-16]
        stur s0, [x1, #-3]
        strb w0, [x1]
        strh w0, [x1, x2]
        stp x0, x1, [sp, #-16]!
        stp q0, q1, [x0]
        stnp q0, q1, [x0]
        st1 {v0.4s}, [x0]
        st1 {v0.4s, v1.4s, v2.4s, v3.4s}, [x0], #64
        st2 {v0.4s, v1.4s}, [x0]
        st1 {v0.s}[3], [x0], #4
        stxr w0, x1, [x2]
        stlr w0, [x1]
        stlur w0, [x1, #4]
        stxp w0, x1, x2, [x3]
    """,
    "branch": """
        b . + 16
        bl . + 16
        b.ne . - 16
        cbz x0, . + 8
        cbnz w0, . - 8
        tbz x0, #3, . + 8
        tbnz x0, #33, . + 8
        br x0
        blr x0
        ret
    """,
    # Each differs from one above in a bit or two.
    "other": """
        fmls v0.4s, v1.4s, v2.4s
        fmls v0.8h, v1.8h, v2.8h
        fmls v0.4s, v1.4s, v2.s[0]
        fmul v0.4s, v1.4s, v2.4s
        fmul v0.4s, v1.4s, v2.s[0]
        fmulx v0.4s, v1.4s, v2.s[0]
        fadd v0.4s, v1.4s, v2.4s
        fmlal v0.4s, v1.4h, v2.4h
        fmlal v0.4s, v1.4h, v2.h[0]
        mla v0.4s, v1.4s, v2.4s
        mla v0.4s, v1.4s, v2.s[0]
        smlal v0.4s, v1.4h, v2.4h
        sqdmlal v0.4s, v1.4h, v2.4h
        sqrdmlah v0.4s, v1.4s, v2.4s
        fcmla v0.4s, v1.4s, v2.4s, #90
        fmov s0, s1
        fcvtzs w0, s0
        scvtf s0, w0
        fcsel s0, s1, s2, eq
        prfm pldl1keep, [x0]
        prfm pldl1keep, [x0, x1]
        prfum pldl1keep, [x0, #-8]
        prfm pldl1keep, . + 8
        dup v0.4s, v1.s[0]
        mov v0.16b, v1.16b
        movi v0.4s, #0
        tbl v0.16b, {v1.16b}, v2.16b
        zip1 v0.4s, v1.4s, v2.4s
        add x0, x1, x2
        subs x0, x0, #1
        madd x0, x1, x2, x3
        adr x0, . + 8
        nop
        svc #0
        mrs x0, tpidr_el0
        dmb ish
        csel x0, x1, x2, eq
    """,
}
CASES = [
    (kind, line.strip()) for kind, text in BY_KIND.items() for line in text.strip().splitlines()
]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Every line of CASES as LLVM's assembler encodes it."""
    folder = tmp_path_factory.mktemp("assembled")
    lines = "\n".join(line for _, line in CASES)
    (folder / "all.s").write_text(f"{EXTENSIONS}\n.text\n{lines}\n")
    subprocess.run(
        [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu", "-c",
         "all.s", "-o", "all.o"],
        cwd=folder, check=True, capture_output=True,
    )
    with (folder / "all.o").open("rb") as file:
        code = ELFFile(file).get_section_by_name(".text").data()
    found = [int.from_bytes(code[i : i + 4], "little") for i in range(0, len(code), 4)]
    assert len(found) == len(CASES)
    return dict(zip((line for _, line in CASES), found, strict=True))


@pytest.mark.parametrize(("kind", "line"), CASES, ids=[line for _, line in CASES])
def test_instruction_counts_as(kind, line, words):
    assert kind_of(words[line]) == kind


def test_every_line_of_the_table_has_an_instruction(words):
    decided = set()
    for word in words.values():
        decided |= {i for i, (_, mask, value) in enumerate(TABLE) if word & mask == value}
    assert decided == set(range(len(TABLE)))


def test_counts_add_up(words):
    names = ("fmla v0.4s, v1.4s, v2.4s", "ldp q0, q1, [x0], #32", "ret", "nop")
    counts = count(words[name] for name in names)
    assert counts == Counts(fmla=1, load=1, branch=1, other=1)
    assert (counts * 3 + counts).total == 16


@pytest.mark.parametrize("line", ["b . + 16", "bl . + 16", "br x0", "blr x0", "ret", "svc #0"])
def test_code_after_a_jump_does_not_run_next(line, words):
    assert not falls_through(words[line])


@pytest.mark.parametrize("line", ["b.ne . - 16", "cbz x0, . + 8", "tbz x0, #3, . + 8", "nop"])
def test_code_after_a_condition_may_run_next(line, words):
    assert falls_through(words[line])
