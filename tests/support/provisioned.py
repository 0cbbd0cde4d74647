"""Provisioned directories of a small image that has files of all kinds, made by the command line."""

from __future__ import annotations

import os
import socket
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support import builders
from tests.support.archives import Member, hard, special
from tests.support.containers import static_busybox
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import provision

MEMBERS: tuple[Member, ...] = (
    ("etc", None),
    ("etc/os-release", b"ID=tiny\n"),
    ("etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv/web:/bin/false\n"),
    special("etc/shadow", tarfile.REGTYPE, mode=0o640, gid=42),
    ("bin", None),
    ("tmp", None),
    ("usr", None),
    ("usr/one", b"shared content"),
    hard("usr/two", "usr/one"),
    ("usr/link", "../etc/passwd"),
    ("usr/absolute", "/etc"),
    special("usr/fifo", tarfile.FIFOTYPE, mode=0o600),
    special("usr/null", tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3),
    special("usr/owned", tarfile.REGTYPE, mode=0o4755, uid=33, gid=34),
    special("usr/closed", tarfile.REGTYPE, mode=0o000),
)


def image(*members: Member) -> builders.Image:
    """Return an image with MEMBERS, busybox as /bin/sh and more members."""
    programs: tuple[Member, ...] = (
        special("bin/sh", tarfile.SYMTYPE, "busybox"),
        special("bin/sleep", tarfile.SYMTYPE, "busybox"),
        special("bin/cat", tarfile.SYMTYPE, "busybox"),
    )
    return builders.image(
        builders.layer(*MEMBERS, *members, *programs), busybox_layer(), run={"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]}
    )


def busybox_layer() -> builders.Layer:
    """Return a layer with /bin/busybox, executable."""
    return builders.layer(("bin/busybox", static_busybox().read_bytes(), 0o755), compression="")


@contextmanager
def served(made: builders.Image | None = None) -> Iterator[str]:
    """Run a registry with an image, by default `image()`, and give its reference."""
    with ScriptedRegistry() as registry:
        registry.push("image", made or image())
        yield f"{registry.host}/image"


def provisioned(directory: Path, made: builders.Image | None = None, **options: Any) -> Path:
    """Provision a directory with an image, by default `image()`, and return it. `options` are those of `provision`."""
    with served(made) as reference:
        provision(reference, directory, "--platform=linux/amd64", **options, status=0)
    return directory


def add_unusual_files(directory: Path) -> Path:
    """Put into a container what users have there: holes, attributes, odd names, devices, sockets, closed files."""
    rootfs = directory / "rootfs"
    with (rootfs / "usr/sparse").open("wb") as file:
        file.truncate(5 << 20)
        file.seek(3 << 20)
        file.write(b"data")
    (rootfs / "usr/new\nline \udcff").write_text("odd")
    os.link(rootfs / "usr/link", rootfs / "usr/linked-symlink", follow_symlinks=False)
    os.setxattr(rootfs / "usr/sparse", "user.note", b"dear")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(rootfs)
        server.bind("tmp/socket")
        os.chdir(here)
    (rootfs / "usr/closed-directory/sub").mkdir(parents=True)
    (rootfs / "usr/closed-directory/file").write_text("x")
    (rootfs / "usr/closed-directory/file").chmod(0)
    (rootfs / "usr/closed-directory/sub").chmod(0o300)
    (rootfs / "usr/closed-directory").chmod(0)
    if os.geteuid() == 0:
        os.chown(rootfs / "usr/sparse", 33, 34)
        os.chmod(rootfs / "usr/sparse", 0o6755)
        os.mknod(rootfs / "usr/device", 0o20666, os.makedev(1, 3))
        os.setxattr(rootfs / "usr/one", "trusted.note", b"x")
    return directory
