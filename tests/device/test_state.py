"""What a device tells of its temperature and clock, as it is read here."""

import pytest

from pocketformer.compiler.device.info import State


@pytest.mark.parametrize(("text", "state"), [
    ('{"celsius": 41.5, "mhz": 2850.0}', State(41.5, 2850.0)),
    ('{"celsius": null, "mhz": 2850}', State(None, 2850.0)),
    ('{"celsius": null, "mhz": null}', State(None, None)),
    ('{"celsius": NaN, "mhz": 1e999}', State(None, None)),
    ('{"celsius": "warm", "mhz": []}', State(None, None)),
    ('{"celsius": 40.0}', State(None, None)),
    ("[" * 100_000, State(None, None)),
    ("40 degrees", State(None, None)),
    (7, State(None, None)),
], ids=["both", "clock", "nothing", "infinite", "kinds", "half", "deep", "words", "number"])
def test_a_state_that_makes_no_sense_is_none(text: str, state: State) -> None:
    assert State.from_json(text) == state
