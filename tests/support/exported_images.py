"""Images exported from containers: a container to export, changes of all kinds, and what is in the archive."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support import builders
from tests.support.archives import Member
from tests.support.provisioned import served
from tests.support.tools import (
    messages_of,
    provision,
    run,
    user_id,
)
from tests.support.trees import Entry


def export(*words: str | Path, **options: Any) -> str:
    """Run `provision export`. What root has written to a container of the user before becomes the user's."""
    for word in words:
        if "user" in options and isinstance(word, Path) and word.is_dir():
            owner = f"{user_id()}:{user_id()}"
            run("find", word / "rootfs", "-user", "0", "-exec", "chown", "-h", owner, "{}", "+")
    return messages_of("export", *words, **options)


@contextmanager
def exportable(place: Path, image: builders.Image | None = None, **options: Any) -> Iterator[Path]:
    """A container whose registry answers, with a cache beside it."""
    with served(image) as reference:
        directory = place / "source"
        provision(reference, directory, "--platform=linux/amd64", cache=place / "cache", **options, status=0)
        yield directory


def as_in_images(tree: dict[str, Entry]) -> dict[str, Entry]:
    """A tree as images can have it: times are whole seconds, and sockets are left out."""
    return {
        path: replace(entry, mtime=entry.mtime // 10**9, device=entry.device if entry.type in "bc" else 0)
        for path, entry in tree.items()
        if entry.type != "s"
    }


class ImageArchive:
    """An archive of an image: its documents and layers."""

    def __init__(self, path: Path) -> None:
        with tarfile.open(path) as opened:
            self.names = opened.getnames()
            self.files = {
                member.name: opened.extractfile(member).read()  # type: ignore[union-attr]
                for member in opened
                if member.isreg()
            }
        self.index = json.loads(self.files["index.json"])
        self.manifest = self.document(self.index["manifests"][0])
        self.config = self.document(self.manifest["config"])

    def blob(self, descriptor: dict[str, Any]) -> bytes:
        data = self.files["blobs/" + descriptor["digest"].replace(":", "/")]
        assert descriptor["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert descriptor["size"] == len(data)
        return data

    def document(self, descriptor: dict[str, Any]) -> Any:
        return json.loads(self.blob(descriptor))

    def top(self) -> dict[str, tarfile.TarInfo]:
        """Return the members of the topmost layer."""
        data = gzip.decompress(self.blob(self.manifest["layers"][-1]))
        assert self.config["rootfs"]["diff_ids"][-1] == f"sha256:{hashlib.sha256(data).hexdigest()}"
        with tarfile.open(fileobj=io.BytesIO(data)) as opened:
            return {member.name: member for member in opened}


def change_in_all_ways(directory: Path) -> None:
    """Change a container in all the ways that there are."""
    rootfs = directory / "rootfs"
    (rootfs / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (rootfs / "usr/link").unlink()
    (rootfs / "usr/link").symlink_to("elsewhere")
    (rootfs / "usr/absolute").unlink()
    (rootfs / "usr/fifo").unlink()
    (rootfs / "usr/fifo").mkdir()
    (rootfs / "usr/fifo/file").write_text("in place of a FIFO")
    shutil.rmtree(rootfs / "lib-was")
    (rootfs / "lib-was").symlink_to("usr")
    shutil.rmtree(rootfs / "gone")
    (rootfs / "usr/owned").chmod(0o4711)
    os.link(rootfs / "usr/one", rootfs / "usr/three")
    (rootfs / "home").mkdir(mode=0o750)
    (rootfs / "home/ünï").write_text("x" * 200)
    (rootfs / "home" / ("n" * 150)).mkdir()
    (rootfs / "home" / ("n" * 150) / ("m" * 150)).write_text("long")


MORE: tuple[Member, ...] = (
    ("gone", None),
    ("gone/a", b"a"),
    ("gone/b", None),
    ("lib-was", None),
    ("lib-was/x", b"x"),
    ("same", None),
    ("same/file", b"same"),
)


def in_format_of_docker(image: builders.Image) -> builders.Image:
    """Return an image with gzip layers in Docker's media types."""
    manifest = json.loads(image.manifest)
    manifest["mediaType"] = builders.DOCKER_MANIFEST
    manifest["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json"
    for layer in manifest["layers"]:
        layer["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    return replace(image, manifest=builders.json_bytes(manifest), media_type=manifest["mediaType"])
