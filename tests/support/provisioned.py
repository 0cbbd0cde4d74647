"""Provisioned directories for tests of their life: made without a registry, and with files of all kinds."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support import builders
from tests.support.archives import Member, hard, special
from tests.support.containers import static_busybox
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import clean_environment, provision

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
    content = static_busybox().read_bytes()
    header = special("bin/busybox", tarfile.REGTYPE, mode=0o755)
    header.size = len(content)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(header, io.BytesIO(content))
    archive_bytes = buffer.getvalue()
    return builders.Layer(archive_bytes, builders.OCI_LAYER, builders.digest_of(archive_bytes))


@contextmanager
def served(made: builders.Image | None = None) -> Iterator[str]:
    """Run a registry with an image, by default `image()`, and give its reference."""
    with ScriptedRegistry() as registry:
        registry.push("image", made or image())
        yield f"{registry.host}/image"


def provisioned(directory: Path, made: builders.Image | None = None, **options: Any) -> Path:
    """Provision a directory with an image, by default `image()`, and return it. `options` are those of `provision`."""
    with served(made) as reference:
        done = provision(reference, directory, "--platform=linux/amd64", **{"env": clean_environment(), **options})
    assert done.returncode == 0, done.stderr
    return directory
