"""Builds small images in memory, reproducibly."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
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
    """Return the digest of `data`: `sha256:` and 64 hexadecimal digits."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


@lru_cache(maxsize=16)
def compressed(data: bytes, compression: Compression) -> bytes:
    """Return `data` as one gzip member, as one zstd frame, or unchanged. A fixture may want the same for each test."""
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
    """A layer of an image."""

    blob: bytes
    media_type: str
    diff_id: str
    """The digest of the uncompressed archive."""


def layer(*members: Member, compression: Compression = "gzip") -> Layer:
    """Return a layer with these members, in OCI's media type."""
    archive = tar(*members)
    suffix = f"+{compression}" if compression else ""
    return Layer(compressed(archive, compression), OCI_LAYER + suffix, digest_of(archive))


def layer_of(archive: bytes) -> Layer:
    """Return a layer of an archive, not compressed, in OCI's media type."""
    return Layer(archive, OCI_LAYER, digest_of(archive))


def descriptor(data: bytes, media_type: str, **fields: Any) -> dict[str, Any]:
    """Return the descriptor of `data`, with more fields."""
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **fields}


def platform(text: str) -> dict[str, str]:
    """Return the object of a platform such as `linux/arm64/v8`, as in an index."""
    return dict(zip(("os", "architecture", "variant"), text.split("/"), strict=False))


@dataclass(frozen=True)
class Image:
    """An image for one platform: its manifest, config and layers."""

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
    """Return an OCI image of these layers for the platform `on`; `run` is the `config` object of its configuration.

    Fields of `config` and `manifest` replace those of the two documents.
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
    """Return an OCI index of images, each with the platform of its descriptor (none where that is empty).

    `fields` replace those of the document.
    """
    manifests = [
        descriptor(item.manifest, item.media_type, **({"platform": platform(on)} if on else {})) for on, item in images
    ]
    return json_bytes({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests, **fields})


def json_bytes(value: object) -> bytes:
    """Return compact JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


def incompressible(size: int, seed: int = 0) -> bytes:
    """Return pseudorandom bytes, which no compression shortens."""
    return random.Random(seed).randbytes(size)


def small(**options: Any) -> Image:
    """Return a minimal image of two layers, with an os-release and a /bin/sh that can't run."""
    base = layer(("etc", None), ("etc/os-release", b"ID=tiny\n"), ("bin", None), ("bin/sh", b"#!/bin/false\n"))
    return image(base, layer(("etc/motd", b"hello\n")), **options)
