"""Groups the files of the cache by the images that they belong to, as the documents among them say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from provisioner.errors import MalformedImage
from provisioner.image.fields import parse_document
from provisioner.image.keys import INDEX_OR_MANIFEST
from provisioner.image.manifest import DOCUMENT_LIMIT, Descriptor, Index, Manifest
from provisioner.store.cache_directory import CacheDirectory
from provisioner.store.prune import CachedFile, total_size


@dataclass(frozen=True)
class CachedImage:
    """An image, or a file from a URL, of which the cache has something."""

    name: str
    """A reference or a URL; empty where no tag in the cache names it any more."""
    digest: str
    """Of its index, manifest or file; empty where only a part of a URL's file was downloaded."""
    files: tuple[CachedFile, ...]
    """Those that belong to it, some to other images too."""

    @property
    def shown_name(self) -> str:
        """Return its name, or else its digest."""
        return self.name or self.digest

    @property
    def size(self) -> int:
        """Return the bytes of all its files."""
        return total_size(self.files)

    @property
    def used(self) -> float:
        """Return the last use of any of them, in seconds since the epoch."""
        return max(file.used for file in self.files)


@dataclass(frozen=True)
class PartialDownload:
    """What a partial file is a part of."""

    what: str
    """Such as `layer 2 of 3`, or `config`; empty for a URL's file."""
    size: int | None
    """The bytes of the whole; None where that isn't known."""


@dataclass(frozen=True)
class CacheContents:
    """The files of a cache, grouped."""

    images: tuple[CachedImage, ...]
    """The last used first."""
    partial: Mapping[Path, PartialDownload]
    """By the path of a partial file, what is known of it."""
    others: tuple[CachedFile, ...]
    """Files that belong to no image that the cache knows."""
    owners: Mapping[Path, Sequence[str]]
    """By the path of a file, the names of the images that it belongs to."""

    def shared_size(self, image: CachedImage) -> int:
        """Return the bytes of those files of an image that belong to others too."""
        return total_size([file for file in image.files if len(self.owners[file.path]) > 1])


def group_files(directory: Path, files: Sequence[CachedFile]) -> CacheContents:
    """Group the files that the cache in `directory` has. Raises MachineError."""
    cache = CacheDirectory(directory)
    blobs = {file.name: file for file in files if file.kind == "blob"}
    with cache.errors("read"):
        documents = dict(_documents(cache, blobs.values()))
    partials = {file.path.name: file for file in files if file.kind == "partial"}
    children = {digest: _children(document) for digest, document in documents.items()}
    parts = {digest.partition(":")[2]: part for found in children.values() for digest, part in found.items()}
    tags = {file.path.name: file for file in files if file.kind == "tag"}
    # A part of a URL's file has the name of the file with what is known of the URL.
    partial = {file.path: parts.get(hex_, PartialDownload("", None)) for hex_, file in partials.items()}

    images = []
    for tag in tags.values():
        found = [tag, *_files_of(tag.digest, blobs, partials, children)]
        if tag.path.name in partials:
            found.append(partials[tag.path.name])
        images.append(CachedImage(tag.reference, tag.digest, _unique(found)))
    inner = {digest for found in children.values() for digest in found}
    named = {file.path for image in images for file in image.files}
    unnamed = [digest for digest in documents if digest not in inner and blobs[digest].path not in named]
    images += [CachedImage("", digest, _unique(_files_of(digest, blobs, partials, children))) for digest in unnamed]
    images.sort(key=lambda image: -image.used)
    owners: dict[Path, list[str]] = {}
    for image in images:
        for file in image.files:
            owners.setdefault(file.path, []).append(image.shown_name)
    others = tuple(file for file in files if file.path not in owners)
    return CacheContents(tuple(images), partial, others, owners)


def _unique(files: Iterable[CachedFile]) -> tuple[CachedFile, ...]:
    return tuple({file.path: file for file in files}.values())


def _documents(cache: CacheDirectory, blobs: Iterable[CachedFile]) -> Iterator[tuple[str, Index | Manifest]]:
    """Yield the indexes and manifests among blobs by their digests; what can't be read isn't one."""
    for blob in blobs:
        if blob.size > DOCUMENT_LIMIT:
            continue
        with (
            suppress(FileNotFoundError, MalformedImage),
            open(cache.open(blob.path.parent.name, blob.path.name), "rb") as file,
        ):
            start = file.read(1)
            if start != b"{":  # a compressed layer
                continue
            data = start + file.read(DOCUMENT_LIMIT)
            fields = parse_document(data, "document", INDEX_OR_MANIFEST)
            if "manifests" in fields:
                yield blob.name, Index.from_json(data)
            elif "layers" in fields:
                yield blob.name, Manifest.from_json(data)


def _children(document: Index | Manifest) -> dict[str, PartialDownload]:
    """Return the digests that a document names, and what each of them is."""
    if isinstance(document, Index):
        return {str(each.digest): PartialDownload("manifest", each.size) for each in document.manifests}
    layers: Sequence[Descriptor] = document.layers
    found = {
        str(layer.digest): PartialDownload(f"layer {number} of {len(layers)}", layer.size)
        for number, layer in enumerate(layers, 1)
    }
    return found | {str(document.config.digest): PartialDownload("config", document.config.size)}


def _files_of(
    digest: str,
    blobs: Mapping[str, CachedFile],
    partials: Mapping[str, CachedFile],
    children: Mapping[str, Mapping[str, PartialDownload]],
) -> list[CachedFile]:
    """Return the files of a digest and of all that it names, as far as the cache has them."""
    found, seen, pending = [], set[str](), [digest]
    while pending:
        each = pending.pop()
        if each in seen:
            continue
        seen.add(each)
        if file := blobs.get(each) or partials.get(each.partition(":")[2]):
            found.append(file)
        pending += children.get(each, ())
    return found
