"""Token: where it is looked for, and the file that is made for it."""

import stat
import threading

import pytest

from pocketformer.compiler.device.token import find_token, make_token, read_token, token_file
from pocketformer.compiler.errors import BadInput


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POCKETFORMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("POCKETFORMER_TOKEN", raising=False)


def test_a_told_token_comes_before_the_environments_and_that_before_the_file(monkeypatch):
    made = make_token()
    assert find_token() == made
    monkeypatch.setenv("POCKETFORMER_TOKEN", "from-environment")
    assert find_token() == "from-environment"
    assert find_token("told") == "told"


def test_the_first_use_makes_a_file_that_only_its_user_can_read():
    token = find_token()
    assert len(token) > 30
    assert stat.S_IMODE(token_file().stat().st_mode) == 0o600
    assert find_token() == token == read_token(token_file())
    assert [file.name for file in token_file().parent.iterdir()] == ["device-token"]


def test_all_who_make_it_at_once_get_the_same():
    found = []
    threads = [threading.Thread(target=lambda: found.append(make_token())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


@pytest.mark.parametrize("token", ["", "two words", "a\ttab", "new\nline", "umläut", "x" * 257])
def test_what_cannot_be_a_token_is_refused_and_not_repeated(token, monkeypatch, tmp_path):
    with pytest.raises(BadInput, match="the token is no token") as error:
        find_token(token)
    assert not token or token not in str(error.value)
    (tmp_path / "file").write_text(token)
    with pytest.raises(BadInput, match="file is no token"):
        read_token(tmp_path / "file")
    if token:
        monkeypatch.setenv("POCKETFORMER_TOKEN", token)
        with pytest.raises(BadInput, match="POCKETFORMER_TOKEN is no token"):
            find_token()
