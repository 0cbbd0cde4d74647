from __future__ import annotations

import pytest

from provisioner.errors import UsageError
from provisioner.image.server_address import ServerAddress


@pytest.mark.parametrize(
    ("text", "url", "is_private"),
    [
        ("images.linuxcontainers.org", "https://images.linuxcontainers.org", True),
        ("mirror.example/lxc-images/", "https://mirror.example/lxc-images", True),
        ("https://Mirror.example:8443/a/b", "https://mirror.example:8443/a/b", True),
        ("http://nas.lan/lxc", "http://nas.lan/lxc", False),
        ("127.0.0.1:5000", "http://127.0.0.1:5000", True),
        ("localhost:5000/x", "http://localhost:5000/x", True),
        ("https://[::1]:5000", "https://[::1]:5000", True),
    ],
)
def test_addresses(text: str, url: str, is_private: bool) -> None:
    address = ServerAddress.parse(text)
    assert (address.url, address.is_private) == (url, is_private)


@pytest.mark.parametrize(
    "text",
    ["", "/", "http://", "ftp://x.example", "a b", "x.example/../y", "x.example/a?b", "x.example/\x1b",
     "x.example:99999", "x.example/%2e", "x.example//a", "https:///x"],
)  # fmt: skip
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="is not an LXC image server") as caught:
        ServerAddress.parse(text)
    assert caught.value.message.isprintable()
    assert caught.value.hint


def test_a_password_is_refused_and_not_shown() -> None:
    with pytest.raises(UsageError) as caught:
        ServerAddress.parse("https://me:secret@x.example")
    assert "secret" not in caught.value.message
