"""Small images made in memory, the same bytes each time."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tests.support.archives import Member, tar

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"

Compression = Literal["gzip", "zstd", ""]


def digest_of(data: bytes) -> str:
    """The digest of `data` as registries write it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def compressed(data: bytes, compression: Compression) -> bytes:
    """`data`, in one gzip member or zstd frame or as it is."""
    if compression == "gzip":
        return gzip.compress(data, mtime=0)
    if compression == "zstd":
        try:
            from compression import zstd  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            from backports import zstd
        return bytes(zstd.compress(data))
    return data


@dataclass(frozen=True)
class Layer:
    """The blob of a layer, its media type, and the digest of the archive inside."""

    blob: bytes
    media_type: str
    diff_id: str


def layer(*members: Member, compression: Compression = "gzip") -> Layer:
    """A layer in OCI's media type that holds these members."""
    archive = tar(*members)
    suffix = f"+{compression}" if compression else ""
    return Layer(compressed(archive, compression), OCI_LAYER + suffix, digest_of(archive))


def descriptor(data: bytes, media_type: str, **fields: Any) -> dict[str, Any]:
    """What a document says of `data`."""
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **fields}


def platform(text: str) -> dict[str, str]:
    """A platform as documents spell it."""
    return dict(zip(("os", "architecture", "variant"), text.split("/"), strict=False))


@dataclass(frozen=True)
class Image:
    """An image for one platform: the bytes of its manifest and of all blobs."""

    manifest: bytes
    config: bytes
    layers: tuple[Layer, ...]
    media_type: str = OCI_MANIFEST

    @property
    def blobs(self) -> tuple[bytes, ...]:
        """The config and the layers."""
        return (self.config, *(layer.blob for layer in self.layers))


def image(
    *layers: Layer,
    on: str = "linux/amd64",
    run: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> Image:
    """An OCI image of these layers for the platform `on`; `run` is what it runs.

    Fields of `config` and `manifest` take the place of the right ones.
    """
    rootfs = {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]}
    config_bytes = json_bytes({**platform(on), "config": dict(run or {}), "rootfs": rootfs, **(config or {})})
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(config_bytes, OCI_CONFIG),
        "layers": [descriptor(layer.blob, layer.media_type) for layer in layers],
        **(manifest or {}),
    }
    return Image(json_bytes(document), config_bytes, layers)


def index(images: Iterable[tuple[str, Image]], **fields: Any) -> bytes:
    """An OCI index of images, each with the platform that it is said to be for (none where that is empty).

    `fields` take the place of the right ones.
    """
    manifests = [
        descriptor(made.manifest, made.media_type, **({"platform": platform(on)} if on else {})) for on, made in images
    ]
    return json_bytes({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests, **fields})


def json_bytes(value: object) -> bytes:
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":")).encode()


def incompressible(size: int, seed: int = 0) -> bytes:
    """So many bytes that no compression makes fewer."""
    return random.Random(seed).randbytes(size)


def small(**options: Any) -> Image:
    """An image of two layers that needs no more than this: a shell that isn't one, and an os-release."""
    base = layer(("etc", None), ("etc/os-release", b"ID=tiny\n"), ("bin", None), ("bin/sh", b"#!/bin/false\n"))
    return image(base, layer(("etc/motd", b"hello\n")), **options)
