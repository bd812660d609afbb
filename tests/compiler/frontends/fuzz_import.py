"""Imports mutated models: `python -m tests.compiler.frontends.fuzz_import SEED COUNT [FILE...]`.

Each import has to succeed or to raise a PocketformerError in time. The model at hand lies in the
file that is named on standard output, so a crash of the interpreter leaves it behind.
"""

from __future__ import annotations

import random
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import helper

from pocketformer.compiler.errors import PocketformerError
from pocketformer.compiler.frontends.onnx import SUPPORTED, load_onnx
from tests.compiler.frontends.test_onnx_fuzz import base_models

SECONDS = 120           # for one import, on a busy machine
MEMORY = 12 << 30       # of address space; TVM alone takes a few GiB
EXTREMES = [0, 1, -1, 2, 3, 7, 255, 2**31 - 1, 2**31, -(2**31), 2**40, 2**62, -(2**63), 2**63 - 1]

Mutation = Callable[[random.Random, onnx.ModelProto], None]


def _number(pick: random.Random, old: int) -> int:
    near = [old + 1, old - 1, -old, old * 2]
    chosen = pick.choice(EXTREMES + near * 2)
    return chosen if -(2**63) <= chosen < 2**63 else 1


def _tensors(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    attributes = [attribute for node in proto.graph.node for attribute in node.attribute]
    return [*proto.graph.initializer, *(a.t for a in attributes if a.HasField("t"))]


def mutate_input(pick: random.Random, proto: onnx.ModelProto) -> None:
    kind = pick.choice(proto.graph.input).type.tensor_type
    what = pick.randrange(4)
    if what == 0:
        kind.elem_type = pick.randrange(25)
    elif what == 1 and kind.shape.dim:
        dim = pick.choice(kind.shape.dim)
        dim.dim_value = _number(pick, dim.dim_value)
    elif what == 2 and kind.shape.dim:
        pick.choice(kind.shape.dim).dim_param = pick.choice(["n", "m", "n*n", "n - 9", "?", "é("])
    else:
        kind.shape.dim.add(dim_value=_number(pick, 2))


def mutate_tensor(pick: random.Random, proto: onnx.ModelProto) -> None:
    if not (tensors := _tensors(proto)):
        return
    tensor = pick.choice(tensors)
    what = pick.randrange(4)
    if what == 0:
        tensor.data_type = pick.randrange(25)
    elif what == 1 and tensor.dims:
        index = pick.randrange(len(tensor.dims))
        tensor.dims[index] = _number(pick, tensor.dims[index])
    elif what == 2 and tensor.data_type == onnx.TensorProto.INT64 and len(tensor.raw_data) >= 8:
        at = pick.randrange(len(tensor.raw_data) // 8) * 8
        number = _number(pick, 1).to_bytes(8, "little", signed=True)
        tensor.raw_data = tensor.raw_data[:at] + number + tensor.raw_data[at + 8 :]
    else:
        tensor.raw_data = tensor.raw_data[: pick.randrange(len(tensor.raw_data) + 1)]


def mutate_attribute(pick: random.Random, proto: onnx.ModelProto) -> None:
    attributes = [attribute for node in proto.graph.node for attribute in node.attribute]
    if not attributes:
        return
    attribute = pick.choice(attributes)
    what = pick.randrange(5)
    if what == 0:
        attribute.type = pick.randrange(15)
    elif what == 1:
        attribute.f = pick.choice([0.0, -1.0, 1e38, float("nan"), float("inf")])
    elif what == 2 and attribute.ints:
        index = pick.randrange(len(attribute.ints))
        attribute.ints[index] = _number(pick, attribute.ints[index])
    elif what == 3 and attribute.ints:
        attribute.ints.append(_number(pick, 1))
    else:
        attribute.i = _number(pick, attribute.i)


def mutate_node(pick: random.Random, proto: onnx.ModelProto) -> None:
    node = pick.choice(proto.graph.node)
    names = [name for other in proto.graph.node for name in (*other.input, *other.output)]
    what = pick.randrange(6)
    if what == 0:
        kind = pick.choice(sorted(SUPPORTED))
        node.domain, _, node.op_type = kind.rpartition(".")
    elif what == 1 and node.input:
        node.input[pick.randrange(len(node.input))] = pick.choice([*names, "", "nowhere"])
    elif what == 2 and node.input:
        del node.input[pick.randrange(len(node.input))]
    elif what == 3:
        node.input.append(pick.choice(names))
    elif what == 4 and node.output:
        node.output[pick.randrange(len(node.output))] = pick.choice([*names, "", "new"])
    else:
        name, value = pick.choice(["axis", "axes", "perm", "pads"]), _number(pick, 1)
        node.attribute.append(helper.make_attribute(name, pick.choice([value, [value, 1]])))


def mutate_graph(pick: random.Random, proto: onnx.ModelProto) -> None:
    what, nodes = pick.randrange(4), proto.graph.node
    if what == 0:
        del nodes[pick.randrange(len(nodes))]
    elif what == 1:
        nodes.append(pick.choice(nodes))
    elif what == 2:
        shuffled = list(nodes)
        pick.shuffle(shuffled)
        del nodes[:]
        nodes.extend(shuffled)
    else:
        proto.opset_import[0].version = pick.choice([0, 7, 11, 13, 18, 23, 25, 99, 2**40])


def mutate_bytes(pick: random.Random, content: bytes) -> bytes:
    data = bytearray(content)
    what, at = pick.randrange(4), pick.randrange(len(content))
    if what == 0:
        return bytes(data[:at])
    if what == 1:
        del data[at : at + pick.randrange(1, 9)]
    elif what == 2:
        data[at:at] = pick.randbytes(pick.randrange(1, 9))
    else:
        for _ in range(pick.randrange(1, 9)):
            data[pick.randrange(len(data))] = pick.randrange(256)
    return bytes(data)


MUTATIONS: list[Mutation] = [
    mutate_input, mutate_tensor, mutate_tensor, mutate_attribute, mutate_node, mutate_graph,
]    # fmt: skip


def mutant(pick: random.Random, bases: list[bytes]) -> bytes:
    """A model's bytes with one to three things changed."""
    content = pick.choice(bases)
    if pick.random() < 0.25:
        return mutate_bytes(pick, content)
    proto = onnx.ModelProto.FromString(content)
    for _ in range(pick.randrange(1, 4)):
        if proto.graph.node:
            pick.choice(MUTATIONS)(pick, proto)
    return proto.SerializeToString()


def main(seed: int, count: int, files: list[str]) -> int:
    bases = [Path(file).read_bytes() for file in files] or base_models()
    pick = random.Random(seed)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    path = Path(tempfile.mkdtemp()) / "mutant.onnx"
    print(f"the model at hand is {path}", flush=True)
    imported = 0
    for number in range(count):
        path.write_bytes(mutant(pick, bases))
        signal.alarm(SECONDS)    # a hang ends the process, which the test sees
        try:
            load_onnx(path)
            imported += 1
        except PocketformerError as error:
            if "\n" in str(error) or not str(error):
                print(f"mutant {number} of seed {seed} gives no sentence: {error!r}")
                return 1
        except BaseException:
            print(f"mutant {number} of seed {seed}:")
            traceback.print_exc(file=sys.stdout)
            return 1
        signal.alarm(0)
    path.unlink()
    path.parent.rmdir()
    print(f"{imported} of {count} mutants imported")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
