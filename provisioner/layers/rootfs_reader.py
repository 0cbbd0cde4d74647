"""Reads a rootfs archive as a layer that is the whole image: no whiteouts, and the root may be a directory in it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from hashlib import sha256

from provisioner.archives.tar import Entry, Taker
from provisioner.errors import MachineError, MalformedImage, error_context
from provisioner.filesystem.kind import Kind
from provisioner.image.image import Layer, RootfsArchive
from provisioner.layers.budget import Budget
from provisioner.layers.reader import StreamedLayer, write_piece
from provisioner.ownership.policy import Ownership
from provisioner.rootfs.links import Links
from provisioner.rootfs.paths import split_path
from provisioner.rootfs.proot_links import ProotLinks, is_proot_link
from provisioner.rootfs.tree import Tree, tree_errors
from provisioner.sources.detection import ambiguous_archive, format_name, formats_of, truncated_archive
from provisioner.sources.root_search import root_of, two_roots
from provisioner.terminal.escaping import printable

_LINKS_SIZE = 64 << 20
"""The most bytes of paths and targets of proot's links."""


def open_reader(
    layer: Layer, archive: Iterable[bytes], ownership: Ownership, budget: Budget, *, hashes_all: bool = False
) -> StreamedLayer:
    """Return the reader of a layer whose uncompressed archive is in the chunks of `archive`.

    `hashes_all` is whether even the largest files get digests.
    """
    if layer.rootfs is None:
        return StreamedLayer(archive, ownership, budget, hashes_all=hashes_all)
    return RootfsReader(layer.rootfs, archive, ownership, budget, hashes_all=hashes_all)


def is_converted(layer: Layer) -> bool:
    """Return whether the blob of a layer becomes an archive only while it is read (see RootfsArchive)."""
    return layer.rootfs is not None and layer.rootfs.is_converted


class RootfsReader(StreamedLayer):
    """A rootfs archive. Its entries have the paths that they get in the rootfs; what is beside its root is left out."""

    has_whiteouts = False

    def __init__(
        self,
        form: RootfsArchive,
        chunks: Iterable[bytes],
        ownership: Ownership,
        budget: Budget,
        *,
        hashes_all: bool = False,
    ) -> None:
        super().__init__(chunks, ownership, budget, hashes_all=hashes_all)
        self._root = form.root
        self._is_guess = form.is_guess
        self._needs_end = form.needs_end
        self._is_converted = form.is_converted
        self._names = split_path(form.root)
        self._proot_links: dict[bytes, bytes] = {}
        self._proot_links_size = 0

    def __iter__(self) -> Iterator[Entry]:
        """Yield the entries in the root.

        Raises MalformedImage, also where another root is beside it, UsageError where it is an archive of images too,
        and MachineError.
        """
        formats: set[str] = set()
        for read in super().__iter__():
            if self._is_guess and (name := format_name(read.path)):
                formats.add(name)
            entry = self._entry_in_root(read) if self._root else read
            if entry is None:
                continue
            if entry.kind is Kind.SYMLINK and is_proot_link(entry.target):
                self._add_proot_link(entry)
            yield entry
        if self._needs_end and not self._archive.is_ended:
            raise truncated_archive()
        if found := formats_of(formats):
            raise ambiguous_archive(
                "the archive", found[0], "say which: rootfs:FILE, docker-archive:FILE or oci-archive:FILE"
            )

    def share(self, taker: Taker) -> bool:
        """Let `taker` take plain files, unless their paths in the rootfs are others."""
        return not self._root and super().share(taker)

    def finish(self, tree: Tree, links: Links) -> None:
        """Replace proot's symlinks by hard links, when all entries are in `tree`. Raises ProvisionError."""
        if self._proot_links:
            with tree_errors("resolve the links of proot"):
                ProotLinks(tree, self._proot_links).resolve(links)

    def write_content(self, file: int, entry: Entry, *, is_hashed: bool) -> bytes:
        """Write and return what any layer does; of a squashfs, pieces of zeros become holes."""
        if not self._is_converted:
            return super().write_content(file, entry, is_hashed=is_hashed)
        hasher, size = sha256(), 0
        for piece in self._archive.content():
            if is_hashed:
                hasher.update(piece)
            size += len(piece)
            if piece[0] or piece[-1] or bytes(piece).strip(b"\0"):
                write_piece(file, piece)
            else:
                os.lseek(file, len(piece), os.SEEK_CUR)
        os.ftruncate(file, size)
        return hasher.digest() if is_hashed else b""

    def _entry_in_root(self, entry: Entry) -> Entry | None:
        """Return the entry with its path in the root; None where it is beside the root."""
        path = self._path_in_root(entry.path)
        if path is None:
            if (other := root_of(entry.path)) is not None:
                raise two_roots(self._root, other)
            return None
        target = entry.target
        if entry.kind is Kind.HARDLINK:
            inside = self._path_in_root(target)
            if inside is None:
                with error_context(printable(entry.path[:300])):
                    raise MalformedImage(f"it is a hard link to {printable(target[:300])!r}, outside of the root")
            target = inside
        return entry._replace(path=path, target=target)

    def _path_in_root(self, path: bytes) -> bytes | None:
        """Return a path of the archive as a path in the root, None where it is outside."""
        if path.startswith(self._root) and path[len(self._root) : len(self._root) + 1] == b"/":
            return path[len(self._root) + 1 :]
        names = split_path(path)
        if names[: len(self._names)] != self._names:
            return None
        return b"/".join(names[len(self._names) :])

    def _add_proot_link(self, entry: Entry) -> None:
        path = b"/".join(split_path(entry.path))
        self._proot_links_size += len(path) + len(entry.target) + 200
        if self._proot_links_size > _LINKS_SIZE:
            raise MachineError("the archive has too many links of proot", "make it again with hard links")
        self._proot_links[path] = entry.target
