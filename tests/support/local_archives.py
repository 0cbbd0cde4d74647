"""Archives of images to the letter of the programs that write them, made in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from provisioner.commands.open_source import open_source
from provisioner.commands.source_options import SourceOptions
from provisioner.image.platform import Platform
from provisioner.image.source_name import parse_source
from provisioner.provision import Outcome, Plan, provision
from provisioner.terminal.progress import Console
from tests.support import builders
from tests.support.archives import Member, tar

AMD64 = Platform("linux", "amd64")
PLAIN = builders.image(
    builders.layer(
        ("etc", None), ("etc/os-release", b"ID=tiny\n"), ("bin", None), ("bin/sh", b"#!/bin/false\n"), compression=""
    ),
    builders.layer(("etc/motd", b"hello\n"), compression=""),
    run={"Cmd": ["/bin/sh"]},
)
"""An image whose layers aren't compressed."""
GZIPPED = builders.small(run={"Cmd": ["/bin/sh"]})
"""The same, with gzip layers."""

LAYOUT = ("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')


def hex_of(data: bytes) -> str:
    """Return the digest of `data` without the algorithm."""
    return builders.digest_of(data).removeprefix("sha256:")


def docker_members(image: builders.Image, *tags: str, **fields: Any) -> list[Member]:
    """Return the members of an archive as skopeo and podman write it: layers, config, manifest.json last.

    `fields` replace those of the entry in manifest.json.
    """
    config = f"{hex_of(image.config)}.json"
    layers = [f"{layer.diff_id.removeprefix('sha256:')}.tar" for layer in image.layers]
    entry = {"Config": config, "RepoTags": list(tags) or None, "Layers": layers, **fields}
    files = dict(zip(layers, (layer.blob for layer in image.layers), strict=True))
    return [*files.items(), (config, image.config), ("manifest.json", json.dumps([entry]).encode())]


def oci_members(*images: tuple[str, builders.Image], index: Iterable[Mapping[str, Any]] | None = None) -> list[Member]:
    """Return the members of an OCI image layout with these images by their names, `index.json` last.

    `index` are the descriptors in index.json in their place.
    """
    blobs = {hex_of(blob): blob for _, image in images for blob in (image.manifest, image.config, *image.blobs)}
    entries = index or [
        builders.descriptor(
            image.manifest,
            image.media_type,
            **({"annotations": {"org.opencontainers.image.ref.name": name}} if name else {}),
        )
        for name, image in images
    ]
    document = {"schemaVersion": 2, "manifests": list(entries)}
    directories: list[Member] = [("blobs", None), ("blobs/sha256", None)]
    files: list[Member] = [(f"blobs/sha256/{name}", data) for name, data in blobs.items()]
    return [*directories, *files, LAYOUT, ("index.json", json.dumps(document).encode())]


def without(members: Iterable[Member], *names: str) -> list[Member]:
    """Return the members but for those of these names."""
    return [member for member in members if not isinstance(member, tuple) or member[0] not in names]


def write_archive(path: Path, members: Iterable[Member]) -> Path:
    """Write a tar archive, and return its path."""
    path.write_bytes(tar(*members))
    return path


def write_directory(path: Path, members: Iterable[Member]) -> Path:
    """Write members as files below a new directory, and return its path."""
    path.mkdir()
    for member in members:
        assert isinstance(member, tuple)
        name, content = member[0], member[1]
        if content is None:
            (path / name).mkdir(parents=True, exist_ok=True)
        elif isinstance(content, bytes):
            (path / name).write_bytes(content)
        else:
            (path / name).symlink_to(content)
    return path


def provision_word(word: str, directory: Path, console: Console | None = None, **options: Any) -> Outcome:
    """Provision `directory` from the source that `word` names, by the Python API."""
    console = console or Console(quiet=True)
    with open_source(parse_source(word), SourceOptions(**options), console) as source:
        return provision(Plan(directory, AMD64, sync=False), source, console)
