"""Reads an image from an archive that `export` has written, or another program as an OCI layout in a tar archive.

The archive is hostile input: sizes are limited, every blob is compared with its digest, and nothing is unpacked.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from provisioner.archives.compression import compression_of, describe_content
from provisioner.archives.fields import has_right_checksum
from provisioner.archives.seekable import SeekableReader
from provisioner.archives.tar import Archive
from provisioner.errors import MalformedImage, NotFound, UsageError
from provisioner.exports.image_archive import INDEX, LAYOUT, blob_path
from provisioner.filesystem.kind import Kind
from provisioner.image.digest import Digest, verify
from provisioner.image.image import Image
from provisioner.image.manifest import DOCUMENT_LIMIT, INDEX_TYPES, Descriptor, Index, Manifest, media_type_of
from provisioner.image.stored_blob import StoredBlob

_HEAD = 512
_DOCKER = "manifest.json"
_MOST_FILES = 100_000
_MOST_INDEXES = 5
"""How many indexes may lead from one to the next."""
_HINT = "name an archive of provision export --format oci-archive or docker-archive"


@dataclass(frozen=True)
class ImageFile:
    """An image whose blobs are in an open file."""

    manifest: bytes
    media_type: str
    layers: tuple[StoredBlob, ...]
    """From the lowest to the topmost."""
    config: StoredBlob


def read_image_file(file: int) -> ImageFile:
    """Return the image in an open archive, all its blobs verified. An archive with several images is refused.

    Raises MalformedImage, NotFound, UsageError and OSError.
    """
    _check_kind(os.pread(file, _HEAD, 0))
    members = _members(file)
    if INDEX not in members or LAYOUT not in members:
        if _DOCKER in members:
            what = "the file has no OCI layout: docker save writes one since version 25"
            raise UsageError(what, "skopeo copy docker-archive:FILE oci-archive:NEW, then push NEW")
        raise UsageError("the file has no OCI layout", _HINT)
    document = _read(file, members, INDEX)
    for _ in range(_MOST_INDEXES):
        index = Index.from_json(document)
        if index.malformed:
            raise index.malformed[0].error
        if len(index.manifests) != 1:
            found = "no image" if not index.manifests else f"{len(index.manifests)} images"
            raise UsageError(f"the file has {found}, and one can be pushed", "skopeo copy --all can push several")
        descriptor = index.manifests[0]
        document = _document(file, members, descriptor)
        media_type = media_type_of(document, descriptor.media_type)
        if media_type not in INDEX_TYPES:
            break
    else:
        raise MalformedImage("the file has indexes of indexes without an end")
    config = _blob(file, members, Manifest.from_json(document).config)
    image = Image.from_documents(document, _document(file, members, config.descriptor))
    blobs = {layer.blob: _blob(file, members, layer.blob) for layer in image.layers}
    for blob in blobs.values():
        blob.verify()
    return ImageFile(document, media_type, tuple(blobs.values()), config)


def _check_kind(head: bytes) -> None:
    """Raise UsageError for a file that begins with `head` and is no tar archive."""
    if compression := compression_of(head):
        raise UsageError(f"the file is compressed by {compression}", f"{compression} -dc <FILE >NEW, then push NEW")
    if head.strip(b"\0") and not _is_header(head):
        raise UsageError(f"the file is no archive but {describe_content(head)}", _HINT)


def _is_header(head: bytes) -> bool:
    try:
        return len(head) == _HEAD and has_right_checksum(head)
    except MalformedImage:
        return False


def _members(file: int) -> dict[str, tuple[int, int]]:
    """Return the offset and size of each regular file by its name; of two of one name, those of the last one."""
    reader = SeekableReader(file)
    members: dict[str, tuple[int, int]] = {}
    for entry in Archive((), reader):
        name = entry.path.decode("utf-8", "replace").removeprefix("./")
        if entry.kind is Kind.FILE and entry.extents is None:
            members[name] = reader.position, entry.size
        if len(members) > _MOST_FILES:
            raise MalformedImage(f"the archive has more than {_MOST_FILES} files", _HINT)
    return members


def _read(file: int, members: dict[str, tuple[int, int]], name: str) -> bytes:
    """Return the content of a document. Raises MalformedImage."""
    start, size = members[name]
    if size > DOCUMENT_LIMIT:
        raise MalformedImage(f"{name} has {size} bytes, {DOCUMENT_LIMIT} is the most")
    described = Descriptor("", Digest("sha256", name), size)
    return b"".join(StoredBlob(described, file, start).chunks())


def _document(file: int, members: dict[str, tuple[int, int]], descriptor: Descriptor) -> bytes:
    """Return a document by its descriptor, verified. Raises NotFound, MalformedImage."""
    blob = _blob(file, members, descriptor)
    if blob.size > DOCUMENT_LIMIT:
        raise MalformedImage(f"a document has {blob.size} bytes, {DOCUMENT_LIMIT} is the most")
    data = b"".join(blob.chunks())
    verify(data, descriptor.digest, descriptor.size, f"blob {descriptor.digest.short}")
    return data


def _blob(file: int, members: dict[str, tuple[int, int]], descriptor: Descriptor) -> StoredBlob:
    """Return a blob, not verified. Raises NotFound, MalformedImage."""
    path = blob_path(descriptor.digest)
    if path not in members:
        raise NotFound(f"the file has no blob {descriptor.digest.short}, which its image needs", _HINT)
    start, size = members[path]
    if size != descriptor.size:
        raise MalformedImage(f"blob {descriptor.digest.short} has {size} bytes, {descriptor.size} were announced")
    return StoredBlob(descriptor, file, start)
