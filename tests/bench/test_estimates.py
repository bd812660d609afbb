"""Records of processors that nobody has here, from what their code executes."""

import pytest

from bench.arm.records import TILES, chosen, estimates
from bench.arm.setting import arm_target
from pocketformer.compiler.tuning.candidates import layout_of
from pocketformer.compiler.tuning.points import legal, points_of
from pocketformer.schedules.workloads import Linear

BOARD = arm_target("raspberrypi5")
LINEAR = Linear(24, 48, 32, bias=True)


def test_only_what_an_estimate_sees_is_compared():
    default, *others = chosen(LINEAR, BOARD, most=1000, seed=0)
    assert default == points_of(LINEAR, BOARD)[0]
    assert 3 < len(others) < len(points_of(LINEAR, BOARD)) / 2
    assert all(layout_of(point) == layout_of(default) for point in others)
    assert {"rows", "unroll"} <= TILES
    assert chosen(LINEAR, BOARD, 3, 0) == chosen(LINEAR, BOARD, 3, 0)


def test_estimates_say_that_they_are_and_for_which_core():
    default, *others = chosen(LINEAR, BOARD, most=1000, seed=0)
    low = min(others, key=lambda point: (point.rows, point.unroll))
    (record,) = estimates(LINEAR, [default, low], BOARD, "cortex-a76")
    assert (record.source, record.core, record.threads) == ("estimated", "cortex-a76", 1)
    assert record.device is None
    assert legal(record.point, LINEAR, BOARD)
    # Two multiply-adds of four lanes a cycle at 2.4 GHz are all that the core can.
    assert record.default_us == pytest.approx(24 * 48 * 32 / 8 / 2.4e3, rel=1.0)
    assert record.gain < 1
