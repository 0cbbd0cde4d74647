from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.filesystem.xattrs import drop_xattrs, set_xattrs
from tests.support.tools import need, need_root, run

CAPABILITY = b"\1\0\0\2\0\x20" + bytes(14)  # cap_net_raw=ep
IMAGES = (
    (b"user.a", b"\0\xff"),
    (b"security.capability", CAPABILITY),
    (b"security.selinux", b"x"),
    (b"trusted.t", b"y"),
)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT, 0o600)
    yield opened
    os.close(opened)


def attributes(file: int) -> dict[str, bytes]:
    return {name: os.getxattr(file, name) for name in os.listxattr(file)}


def test_a_user_sets_those_of_users(file: int) -> None:
    set_xattrs(file, IMAGES, privileged=False)
    assert attributes(file) == {"user.a": b"\0\xff"}


def test_root_sets_capabilities_too(file: int, tmp_path: Path) -> None:
    """But none that belong to the machine where the image was made."""
    need_root()
    need("getcap")
    set_xattrs(file, IMAGES, privileged=True)
    assert attributes(file) == {"user.a": b"\0\xff", "security.capability": CAPABILITY}
    assert run("getcap", tmp_path / "file") == f"{tmp_path}/file cap_net_raw=ep\n"


def test_what_was_set_can_be_taken_away(file: int) -> None:
    os.setxattr(file, "user.kept", b"")
    set_xattrs(file, IMAGES, privileged=os.geteuid() == 0)
    drop_xattrs(file, IMAGES)
    drop_xattrs(file, IMAGES)
    assert attributes(file) == {"user.kept": b""}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"user.", b"no name"),
        (b"user." + b"n" * 300, b"too long a name"),
        (b"user.big", bytes(2**17)),
        (b"user.much", bytes(60000)),
        (b"security.capability", b"nonsense"),
    ],
)
def test_what_can_not_be_set_is_left_out(file: int, name: bytes, value: bytes) -> None:
    set_xattrs(file, [(name, value), (b"user.next", b"1")], privileged=True)
    assert attributes(file)["user.next"] == b"1"


def test_a_file_system_without_attributes_will_do() -> None:
    file = os.open("/proc/self/comm", os.O_WRONLY)
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
            os.setxattr(file, "user.a", b"")
        set_xattrs(file, IMAGES, privileged=True)
        drop_xattrs(file, IMAGES)
    finally:
        os.close(file)


def test_other_errors_are_raised(file: int) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        set_xattrs(2**20, IMAGES, privileged=False)


def test_a_python_without_the_calls_goes_on(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as Termux's, which is simulated here."""
    for name in ("setxattr", "removexattr", "getxattr", "listxattr"):
        monkeypatch.delattr(os, name)
    set_xattrs(file, IMAGES, privileged=False)
    drop_xattrs(file, IMAGES)
