"""Writes an image as an archive: an OCI layout (image-spec, image-layout.md), and what `docker save` adds to that."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from provisioner.archives.tar import Entry
from provisioner.archives.writer import ArchiveWriter
from provisioner.filesystem.kind import Kind
from provisioner.image.derivation import DerivedImage
from provisioner.image.digest import Digest, verified_chunks
from provisioner.image.manifest import OCI_INDEX
from provisioner.image.reference import Reference
from provisioner.image.stored_blob import StoredBlob

LAYOUT, INDEX, DOCKER_MANIFESTS = "oci-layout", "index.json", "manifest.json"
_BLOBS = "blobs"
_CONTAINERD_NAME, _REF_NAME = "io.containerd.image.name", "org.opencontainers.image.ref.name"
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


def write_image_archive(
    image: DerivedImage,
    layers: Sequence[StoredBlob],
    name: Reference | None,
    write: Callable[[bytes], object],
    *,
    time: int,
    has_docker_manifest: bool,
) -> None:
    """Write an image, whose `layers` are open, as an archive by the function `write`, which gets its bytes in order.

    `name` is what programs that load it call it. All files have this `time`, in seconds since 1970. With
    `has_docker_manifest`, programs that only know the archives of `docker save` can read it, too. Raises MalformedImage
    for a layer that doesn't match its digest, OSError, and what `write` raises.
    """
    archive = _Files(ArchiveWriter(write), time)
    archive.add(LAYOUT, [_LAYOUT], len(_LAYOUT))
    archive.add_bytes(INDEX, _index(image, name, has_docker_manifest))
    if has_docker_manifest:
        archive.add_bytes(DOCKER_MANIFESTS, _docker_manifests(image, name))
    digests = [image.descriptor.digest, image.config_descriptor.digest, *(blob.descriptor.digest for blob in layers)]
    for directory in (_BLOBS, *sorted({f"{_BLOBS}/{digest.algorithm}" for digest in digests})):
        archive.add_directory(directory)
    archive.add(blob_path(digests[0]), [image.manifest], len(image.manifest))
    archive.add(blob_path(digests[1]), [image.config], len(image.config))
    for blob in layers:
        descriptor = blob.descriptor
        what = f"layer {descriptor.digest.short}"
        content = verified_chunks(blob.chunks(), descriptor.digest, descriptor.size, what)
        archive.add(blob_path(descriptor.digest), content, descriptor.size)
    archive.finish()


def blob_path(digest: Digest) -> str:
    """Return the path of a blob in an OCI layout."""
    return f"{_BLOBS}/{digest.algorithm}/{digest.hex}"


@dataclass(frozen=True)
class _Files:
    writer: ArchiveWriter
    time: int

    def add(self, path: str, content: Iterable[bytes], size: int) -> None:
        self.writer.add(self._entry(path, Kind.FILE, 0o644, size), content)

    def add_bytes(self, path: str, document: Any) -> None:
        """Add a document as JSON."""
        data = json.dumps(document, separators=(",", ":")).encode()
        self.add(path, [data], len(data))

    def add_directory(self, path: str) -> None:
        self.writer.add(self._entry(path, Kind.DIRECTORY, 0o755, 0))

    def finish(self) -> None:
        self.writer.finish()

    def _entry(self, path: str, kind: Kind, mode: int, size: int) -> Entry:
        return Entry(path.encode(), kind, mode, 0, 0, size, self.time * 10**9, b"", (0, 0), (), None)


def _index(image: DerivedImage, name: Reference | None, has_docker_manifest: bool) -> dict[str, Any]:
    """Return the index. An image without a name is called `latest` where programs can't do without one."""
    annotations = {}
    if name:
        annotations = {_CONTAINERD_NAME: str(name), _REF_NAME: name.tag}
    elif not has_docker_manifest:
        annotations = {_REF_NAME: "latest"}
    described = {
        "mediaType": image.media_type,
        "digest": str(image.descriptor.digest),
        "size": len(image.manifest),
        **({"annotations": annotations} if annotations else {}),
        "platform": image.platform,
    }
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [described]}


def _docker_manifests(image: DerivedImage, name: Reference | None) -> list[dict[str, Any]]:
    """Return what `docker save` writes. Layers are paths there, and the config is one, too."""
    config, layers = image.config_descriptor.digest, [blob_path(layer.digest) for layer in image.layers]
    return [{"Config": blob_path(config), "RepoTags": [name.familiar] if name else None, "Layers": layers}]
