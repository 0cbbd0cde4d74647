"""Writes the layer of an image (OCI image-spec, layer.md): what the user has changed, or the whole tree."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from provisioner.archives.compressing import compressor
from provisioner.archives.tar import Entry
from provisioner.archives.writer import ArchiveWriter
from provisioner.comparison.attributes import find_changed_attributes
from provisioner.comparison.changes import Change, find_changes
from provisioner.container.access import open_rootfs
from provisioner.container.opened import OpenedContainer
from provisioner.errors import MachineError, UsageError, machine_errors
from provisioner.exports.owners import OwnerSource
from provisioner.exports.tree_files import FilesReport, TreeFiles, encoded_patterns, is_match
from provisioner.filesystem.descriptors import closing_descriptor
from provisioner.filesystem.kind import Kind
from provisioner.filesystem.link_names import find_link_names
from provisioner.image.digest import Digest
from provisioner.store.partial import write_all
from provisioner.terminal.escaping import printable

WHITEOUT = b".wh."
_SECOND = 10**9


@dataclass(frozen=True)
class LayerOptions:
    """How a layer is made."""

    exclude: Sequence[str] = ()
    """Shell patterns of paths to leave out."""
    squash: bool = False
    """Whether all files are in the layer, and not only those that the user has changed."""
    latest: int | None = None
    """Files that were changed later than this have this time, in seconds since 1970 (SOURCE_DATE_EPOCH)."""
    space: Path | None = None
    """The directory of the temporary file; by default that of `tempfile`."""


@dataclass(frozen=True)
class NewLayer:
    """A layer in a temporary file that has no name."""

    file: IO[bytes]
    """Compressed by zlib, in the gzip format."""
    size: int
    """In bytes, compressed."""
    digest: Digest
    """Of the compressed bytes."""
    diff_id: Digest
    """Of the archive itself."""
    newest: int
    """The latest time of a file in it, in seconds since 1970; 0 where there is none."""


@dataclass
class LayerContent:
    """Which paths belong into a layer. The root has the empty path."""

    paths: set[bytes] = field(default_factory=set)
    """Files and directories, with all directories above them but the root."""
    whiteouts: dict[bytes, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    """The names that are gone, by the directory that they were in."""

    @classmethod
    def of(cls, changes: Iterable[Change], exclude: Sequence[bytes]) -> LayerContent:
        """Return what a list of changes makes of it."""
        content = cls()
        for change in changes:
            above = _above(change.path)
            if (change.letter == "C" and not change.aspects) or any(
                is_match(p, exclude) for p in (change.path, *above)
            ):
                continue
            # A socket can't be in an archive, but what it has replaced is gone.
            if change.letter == "D" or (change.letter == "C" and change.kind is None):
                directory, _, name = change.path.rpartition(b"/")
                content.whiteouts[directory].append(name)
                content.paths.update(above)
            else:
                content.add(change.path)
        return content

    def add(self, path: bytes) -> None:
        """Add a path with the directories above it."""
        self.paths.update((path, *_above(path)))


def write_layer(
    container: OpenedContainer, options: LayerOptions, stack: ExitStack, advance: Callable[[int], None]
) -> tuple[NewLayer | None, FilesReport, OwnerSource]:
    """Write the layer of a container to a temporary file that `stack` closes.

    `advance` is called with the number of bytes of its archive that are written, before compression.
    Returns the layer, None where nothing was changed; what it has; and where the owners are from that the image doesn't
    know. Raises UsageError for files that would be whiteouts, OSError and MachineError.
    """
    folder = container.folder
    with closing_descriptor(open_rootfs(folder)) as rootfs:
        content = LayerContent() if options.squash else _find_content(rootfs, folder, container.shown, options)
        wanted = None if options.squash else content.paths
        with TreeFiles(rootfs, folder, b"", options.exclude, wanted=wanted, keeps_holes=False) as files:
            if not options.squash and not content.paths and not content.whiteouts:
                return None, files.report, files.owners
            layer = _write(files, content, options, stack, advance)
            return layer, files.report, files.owners


def _find_content(rootfs: int, folder: int, shown: str, options: LayerOptions) -> LayerContent:
    content = LayerContent.of(find_changes(folder, shown, closed="open"), encoded_patterns(options.exclude))
    for path in find_changed_attributes(folder, shown, closed="open"):
        content.add(path)
    for names in find_link_names(rootfs):
        if not content.paths.isdisjoint(names):  # they would not be one file any more
            for name in names:
                content.add(name)
    return content


def _write(
    files: TreeFiles, content: LayerContent, options: LayerOptions, stack: ExitStack, advance: Callable[[int], None]
) -> NewLayer:
    with _space_errors(options.space):
        # Without a buffer, which closing it would write once more to a full disk.
        file = tempfile.TemporaryFile(dir=options.space, buffering=0)  # noqa: SIM115  the stack closes it
    stack.enter_context(file)
    digest, diff_id, newest = hashlib.sha256(), hashlib.sha256(), 0

    def write_compressed(data: bytes) -> None:
        digest.update(data)
        with _space_errors(options.space):
            write_all(file, data)

    packer = stack.enter_context(closing(compressor("gzip", write_compressed, file.fileno())))

    def write(data: bytes) -> None:
        diff_id.update(data)
        packer.write(data)
        advance(len(data))

    writer = ArchiveWriter(write)
    _add_whiteouts(writer, b"", content)
    for entry, data in files:
        _refuse_whiteout(entry.path)
        seconds = entry.mtime // _SECOND
        if options.latest is not None:
            seconds = min(seconds, options.latest)
        newest = max(newest, seconds)
        writer.add(entry._replace(mtime=seconds * _SECOND), data)
        if entry.kind is Kind.DIRECTORY:
            _add_whiteouts(writer, entry.path, content)
    writer.finish()
    packer.finish()
    size = os.fstat(file.fileno()).st_size
    return NewLayer(
        file, size, Digest("sha256", digest.hexdigest()), Digest("sha256", diff_id.hexdigest()), max(newest, 0)
    )


@contextmanager
def _space_errors(space: Path | None) -> Iterator[None]:
    """Turn an OSError of the temporary file into a MachineError that says where it is, and what would be another place.

    `space` is that of LayerOptions.
    """
    where = "" if space is None else f", in {printable(str(space))}"
    try:
        with machine_errors(f"write the new layer to a temporary file{where}"):
            yield
    except MachineError as error:
        if space is None and getattr(error.__cause__, "errno", 0) in (errno.ENOSPC, errno.EDQUOT):
            error.hint = "name a directory with more space by TMPDIR: TMPDIR=/var/tmp provision …"
        raise


def _add_whiteouts(writer: ArchiveWriter, directory: bytes, content: LayerContent) -> None:
    """Add the entries that say what is gone from a directory."""
    for name in sorted(content.whiteouts.get(directory, ())):
        path = (directory + b"/" if directory else b"") + WHITEOUT + name
        writer.add(Entry(path, Kind.FILE, 0o644, 0, 0, 0, 0, b"", (0, 0), (), None))


def _refuse_whiteout(path: bytes) -> None:
    if path.rpartition(b"/")[2].startswith(WHITEOUT):
        what = f"{printable(path[:300])!r} can't be in an image"
        raise UsageError(
            f"{what}: files called {WHITEOUT.decode()}NAME say there that NAME is gone",
            "rename it, or leave it out: --exclude PATTERN; --format tar can have it",
        )


def _above(path: bytes) -> list[bytes]:
    """Return the paths of the directories above a path, but the root."""
    names = path.split(b"/")
    return [b"/".join(names[:count]) for count in range(1, len(names))]
