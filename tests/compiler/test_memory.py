"""What the manifest says about memory is what a run takes."""

import subprocess
import sys
import textwrap

import numpy as np
from onnx import numpy_helper, parser
from tvm import tirx
from tvm.script import tirx as T

import pocketformer as pf
from pocketformer.compiler.memory import Scratch, scratch_of
from tests.encoder import encoder

CHAIN = """
<ir_version: 8, opset_import: ["": 17]>
chain (float[ROWS, 256] x) => (float[ROWS, 8] y) {
    a = MatMul(x, w)
    b = Relu(a)
    c = MatMul(b, w)
    d = Relu(c)
    e = MatMul(d, w)
    y = MatMul(e, last)
}
"""
RUN = """
    import re, sys
    import numpy as np
    import pocketformer as pf

    def peak():
        with open("/proc/self/status") as status:
            return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status.read())[1])

    session = pf.Session(pf.Bundle.load(sys.argv[1]), threads=1)
    session.run(x=np.ones((1, 256), "float32"))
    flat = np.ones(40000 * 256 + 16, "float32")    # one that is not aligned would be copied
    skipped = -flat.ctypes.data % 64 // 4
    x = flat[skipped : skipped + 40000 * 256].reshape(40000, 256)
    before = peak()
    session.run(x=x)
    print(peak() - before)
"""


def chain(rows):
    proto = parser.parse_model(CHAIN.replace("ROWS", str(rows)))
    for name, columns in (("w", 256), ("last", 8)):
        array = np.random.default_rng().standard_normal((256, columns)).astype("float32") / 16
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return proto


def test_a_run_takes_the_arena_that_the_manifest_tells(tmp_path):
    bundle = pf.compile(chain("rows"))
    bundle.save(tmp_path / "chain.pf")
    (record,) = bundle.manifest.memory
    assert record.entry == "main"
    assert record.arena == "rows * 2048"    # two results of 256 numbers live at a time
    command = [sys.executable, "-c", textwrap.dedent(RUN), tmp_path / "chain.pf"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    arena, output = 40000 * 2048, 40000 * 8 * 4
    assert abs(int(done.stdout) - arena - output) < 0.05 * arena


def test_every_entry_has_an_arena_for_its_sizes():
    manifest = pf.compile(encoder(), dims={"seq": "8,32"}).manifest
    small, large = (
        next(each.arena for each in manifest.memory if each.entry == f"main_seq_{size}")
        for size in (8, 32)
    )
    assert 0 < small < large < 10 * small


@T.prim_func(s_tir=True)
def busy(x: T.Buffer((64,), "float32"), y: T.Buffer((64,), "float32")):
    whole = T.alloc_buffer((1000,), "float32", scope="local")
    registers = T.alloc_buffer((16,), "float32", scope="global")
    for i in T.parallel(4):
        own = T.alloc_buffer((500,), "float32", scope="global")
        if i < 2:
            few = T.alloc_buffer((10,), "float32", scope="local")
            few[0] = x[i]
            own[i] = few[0]
        else:
            many = T.alloc_buffer((20,), "float32", scope="local")
            many[0] = x[i]
            own[i] = many[0]
        registers[0] = own[i]
        whole[i] = registers[0]
    y[0] = whole[0]


def test_scratch_counts_what_is_no_register_once_or_on_every_thread():
    assert isinstance(busy, tirx.PrimFunc)
    assert scratch_of(busy, []) == Scratch(4000, 2000 + 80)
