"""Address: what is taken for one, and what is not."""

import pytest

from pocketformer.compiler.device.address import Address
from pocketformer.compiler.errors import BadInput


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("rpc://127.0.0.1:9190/pixel8", Address("127.0.0.1", 9190, "pixel8")),
        ("rpc://phones.example.org:80", Address("phones.example.org", 80)),
        ("localhost:9190", Address("localhost", 9190)),
        ("localhost:9190/", Address("localhost", 9190)),
        (" rpc://[::1]:9190/pixel8 ", Address("::1", 9190, "pixel8")),
    ],
)
def test_an_address_is_read_and_written_again(text, address):
    assert Address.parse(text) == address
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "", "pixel8", "127.0.0.1", "127.0.0.1:", ":9190", "host:0", "host:65536", "host:-1",
        "http://host:9190", "rpc://host:9190/a/b", "rpc://host:9190/two words", "::1:9190",
        "rpc://user@host:9190", "host:9190\n/pixel8", "rpc://[::1:9190",
    ],
)    # fmt: skip
def test_other_text_is_refused_with_an_example(text):
    with pytest.raises(BadInput, match="write rpc://HOST:PORT/KEY, such as rpc://") as error:
        Address.parse(text)
    assert repr(text) in str(error.value)
