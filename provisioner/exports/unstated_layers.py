"""Compressed layers of a docker-archive: only the digests of the uncompressed archives are stated.

Their own digests are found by reading them: then they can be in the manifest of another image.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from provisioner.archives.compression import decompress
from provisioner.errors import UsageError, error_context
from provisioner.exports.base_layers import fetch_layers
from provisioner.image.digest import Digest, verified_chunks
from provisioner.image.image import Image
from provisioner.image.manifest import Descriptor
from provisioner.image.stored_blob import StoredBlob
from provisioner.sources import Source

_TAR = "application/vnd.docker.image.rootfs.diff.tar"
_COMPRESSED = (f"{_TAR}.gzip", f"{_TAR}.zstd")
"""The media types of compressed layers that every program knows."""


def has_unstated_digests(image: Image) -> bool:
    """Return whether the manifest of an image, which was made here, has compressed layers without their digests."""
    return any(_is_unstated(layer.blob, layer.diff_id) for layer in image.layers)


def find_digests(
    image: Image, source: Source, progress: Callable[[int], None], stack: ExitStack
) -> tuple[Image, list[StoredBlob]]:
    """Return an image with the digests of its layers, and those of `source`, verified and open until `stack` ends.

    `image` is the one that `source` has returned. Raises UsageError for layers that no image can have, and
    ProvisionError.
    """
    document = json.loads(image.manifest_bytes)
    own = {layer.blob.digest: layer for layer in image.layers}
    stored = fetch_layers(image, source, own, progress, stack)
    found = []
    for blob in stored:
        layer = own[blob.descriptor.digest]
        if not _is_unstated(layer.blob, layer.diff_id):
            blob.verify()
            found.append(blob)
            continue
        if layer.blob.media_type not in _COMPRESSED:
            raise UsageError(
                f"its layers are compressed in a way that images don't have: {layer.blob.media_type}",
                "compress them anew: docker load, then docker save",
            )
        hasher = hashlib.sha256()
        for chunk in blob.chunks():
            hasher.update(chunk)
        with error_context(f"layer {layer.blob.digest.short}"):
            assert layer.diff_id is not None
            for _ in verified_chunks(decompress(blob.chunks(), blob.descriptor.media_type), layer.diff_id, None, "it"):
                pass
        described = Descriptor(layer.blob.media_type, Digest("sha256", hasher.hexdigest()), blob.size)
        found.append(replace(blob, descriptor=described))
    digests = {old.descriptor.digest: str(new.descriptor.digest) for old, new in zip(stored, found, strict=True)}
    document["layers"] = [
        {**layer, "digest": digests[blob.digest]}
        for layer, blob in zip(document["layers"], image.manifest.layers, strict=True)
    ]
    data = json.dumps(document, indent=3).encode()
    made = Image.from_documents(data, image.config_bytes, assumed=image.config.platform)
    return made, found


def _is_unstated(blob: Descriptor, diff_id: Digest | None) -> bool:
    """Return whether the digest of a blob is that of its uncompressed content."""
    return blob.digest == diff_id and blob.media_type != _TAR and blob.media_type.startswith(_TAR)
