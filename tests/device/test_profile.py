"""A profile of a run on a device: by its clock, beside its own limits."""

import json

import pytest
from typer.testing import CliRunner

import pocketformer as pf
from pocketformer.compiler.cli import app
from pocketformer.compiler.device.emulator import Phone
from tests.device.phones import TOKEN
from tests.encoder import encoder, inputs


@pytest.fixture(scope="module")
def bundle() -> pf.Bundle:
    return pf.compile(encoder(), "arm64-linux", dims={"seq": "1..64"})


def test_kernels_on_a_phone_are_explained_and_held_to_its_own_limits(bundle, phone: Phone):
    found = pf.profile(
        bundle, inputs(1, 9), device=phone.address, token=TOKEN, runs=2, threads=1
    )
    assert [call.function for call in found.calls] == [
        each.function for each in bundle.manifest.kernels
    ]
    assert found.emulated
    assert "say nothing about the speed of a phone" in found.notes[0]
    assert dict(found.sizes) == {"seq": 9}
    assert found.unattributed_ms == 0
    assert found.limits is not None
    assert 0 < found.limits.gflops < 100
    assert all(call.ms > 0 for call in found.calls)


def test_the_command_profiles_on_a_device(bundle, phone: Phone, tmp_path, monkeypatch):
    monkeypatch.setenv("POCKETFORMER_TOKEN", TOKEN)
    bundle.save(tmp_path / "model.pf")
    arguments = ["profile", str(tmp_path / "model.pf"), "--device", phone.address]
    done = CliRunner().invoke(app, [*arguments, "--dim", "seq=5", "--runs", "1", "--json"])
    assert done.exit_code == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["device"]["emulated"]
    assert len(data["calls"]) == len(bundle.manifest.kernels)


def test_a_wrong_token_is_one_sentence(bundle, phone: Phone):
    with pytest.raises(pf.PocketformerError, match="token"):
        pf.profile(bundle, device=phone.address, token="not-the-token-at-all", runs=1)
