"""POSIX access lists (acl(5)) of an image: files have theirs, and no other, through updates, repairs and copies."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import builders
from tests.support.access_lists import GROUP_OBJ, MASK, NO_ID, OTHER, USER, USER_OBJ, acl
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import as_user, need, need_root, provision, run

ONE = acl((USER_OBJ, 6, NO_ID), (USER, 4, 33), (GROUP_OBJ, 4, NO_ID), (MASK, 4, NO_ID), (OTHER, 0, NO_ID))
CLOSED = acl((USER_OBJ, 6, NO_ID), (USER, 4, 33), (GROUP_OBJ, 4, NO_ID), (MASK, 0, NO_ID), (OTHER, 0, NO_ID))
"""What becomes of ONE where the image's mode allows nobody else anything."""
INHERITED = acl((USER_OBJ, 7, NO_ID), (USER, 7, 34), (GROUP_OBJ, 5, NO_ID), (MASK, 7, NO_ID), (OTHER, 0, NO_ID))
Lists = dict[tuple[str, str], bytes]


def layer(passwd: bytes) -> builders.Layer:
    """Return a layer in which new files in etc inherit a list."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content, mode, kind, value in (
            ("etc", None, 0o755, "default", INHERITED),
            ("etc/passwd", passwd, 0o640, "access", ONE),
            ("etc/plain", b"plain", 0o640, "", b""),
            ("usr/listed", b"listed", 0o640, "access", ONE),
            ("usr/lying", b"closed", 0o600, "access", ONE),
        ):
            header = tarfile.TarInfo(name)
            header.mode, header.type = mode, tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            header.size = len(content or b"")
            if kind:
                header.pax_headers = {f"SCHILY.xattr.system.posix_acl_{kind}": value.decode("utf-8", "surrogateescape")}
            archive.addfile(header, io.BytesIO(content or b""))
    return builders.layer_of(buffer.getvalue())


def lists_of(directory: Path) -> Lists:
    """The access lists of a directory and all in it."""
    return {
        (str(path.relative_to(directory)), name): os.getxattr(path, name, follow_symlinks=False)
        for path in (directory, *directory.rglob("*"))
        for name in os.listxattr(path, follow_symlinks=False)
        if name.startswith("system.posix_acl_")
    }


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    with ScriptedRegistry() as running:
        running.push("image", builders.image(layer(b"root:x:0:0::/:/bin/sh\n")))
        yield running


@pytest.fixture
def directory(place: Path, registry: ScriptedRegistry) -> Path:
    need_root()
    provision(f"{registry.host}/image", place / "dir", "--platform=linux/amd64", status=0)
    assert lists_of(place / "dir") == {
        ("rootfs/etc", "system.posix_acl_default"): INHERITED,
        ("rootfs/etc/passwd", "system.posix_acl_access"): ONE,
        ("rootfs/usr/listed", "system.posix_acl_access"): ONE,
        ("rootfs/usr/lying", "system.posix_acl_access"): CLOSED,
    }
    return place / "dir"


def test_an_update_gives_no_file_a_list_that_it_had_not(directory: Path, registry: ScriptedRegistry) -> None:
    """Neither those that the user has changed, nor those that are merged by line."""
    etc = directory / "rootfs/etc"
    before = lists_of(directory)
    (etc / "plain").write_bytes(b"mine")
    with (etc / "passwd").open("ab") as passwd:
        passwd.write(b"me:x:1000:1000::/:/bin/sh\n")
    (etc / "sub").mkdir()
    (etc / "sub/added").write_bytes(b"added")
    run("setfacl", "--recursive", "--remove-all", etc / "sub")
    registry.push("image", builders.image(layer(b"root:x:0:0::/:/bin/sh\napp:x:60:60::/:/bin/sh\n")))
    provision("update", directory, "--yes", "--no-keep", status=0)
    assert (etc / "plain").read_bytes() == b"mine"
    assert (etc / "sub/added").read_bytes() == b"added"
    assert len((etc / "passwd").read_bytes().splitlines()) == 3
    assert lists_of(directory) == before


def test_a_repair_puts_lists_back_with_their_files(directory: Path) -> None:
    before = lists_of(directory)
    (directory / "rootfs/usr/listed").unlink()
    shutil.rmtree(directory / "rootfs/etc")
    provision("repair", directory, "--yes", "--all", status=0)
    assert lists_of(directory) == before


def test_a_copy_inherits_none(directory: Path, place: Path) -> None:
    need("setfacl")
    (place / "shared").mkdir(mode=0o755)
    run("setfacl", "--default", "--modify", "u:35:rwx", place / "shared")
    provision("copy", directory, place / "shared/new", status=0)
    assert lists_of(place / "shared/new") == lists_of(directory)


def test_a_container_of_a_user_has_them_in_its_archives_alone(place: Path, registry: ScriptedRegistry) -> None:
    provision(f"{registry.host}/image", place / "dir", "--platform=linux/amd64", **as_user(), status=0)
    assert lists_of(place / "dir") == {}
    provision("export", place / "dir", place / "root.tar", **as_user(), status=0)
    with tarfile.open(place / "root.tar") as archive:
        listed = {member.name for member in archive if any("posix_acl" in key for key in member.pax_headers)}
    assert listed == {"etc", "etc/passwd", "usr/listed", "usr/lying"}
