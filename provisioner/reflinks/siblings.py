"""Finds the directories on this machine that were made of the same image, and that may be relied on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from provisioner.container.access import open_rootfs, opened_directory
from provisioner.container.directories import Directories, state_directory
from provisioner.container.record import Record
from provisioner.errors import ProvisionError
from provisioner.filesystem.descriptors import closing_descriptor
from provisioner.image.image import Image
from provisioner.rootfs.tree import Tree
from provisioner.terminal.escaping import printable


@dataclass(frozen=True)
class Sibling:
    """A directory that was made of the same image, while it is open."""

    directory: Path
    folder: int
    """Its `.provision/`."""
    rootfs: int
    manifest_digest: str
    record_digests: frozenset[str]
    """The digests that its ownership record may have: those of the records that were written on this machine."""
    generated: frozenset[bytes]
    """The paths of the files that fixups write, whatever the image has there."""
    gets_same_fixups: Callable[[Tree], bool]
    """Returns whether a tree with the files of the image gets the same fixups as the sibling."""

    @property
    def shown(self) -> str:
        """The name for messages: `./NAME` in the current directory."""
        with suppress(OSError, ValueError):
            if (here := Path.cwd()) != here.parent:
                return printable(f"./{self.directory.relative_to(here)}")
        return printable(str(self.directory))


Fixups = Callable[[Record], tuple[frozenset[bytes], Callable[[Tree], bool]] | None]
"""Returns `generated` and `gets_same_fixups` of a sibling with a record; None where its fixups would be others."""


def find_siblings(image: Image, fixups: Fixups) -> Iterator[Sibling]:
    """Yield the directories of `image` that `provision list` knows, the newest first. Each is open until the next.

    What can't be read, or isn't this user's alone, is left out.
    """
    with suppress(OSError):
        entries = Directories(state_directory()).entries()
        known = [entry for entry in entries if entry.content]
        digests = frozenset(entry.content for entry in known)
        for entry in reversed(known):
            with suppress(ProvisionError, OSError), ExitStack() as stack:
                directory = Path(entry.directory)
                folder = stack.enter_context(opened_directory(directory))
                record = None if folder is None else Record.read_from(folder, directory)
                if folder is None or record is None or not _is_of(record, image):
                    continue
                if (found := fixups(record)) is None:
                    continue
                rootfs = stack.enter_context(closing_descriptor(open_rootfs(folder)))
                yield Sibling(directory, folder, rootfs, record.manifest_digest, digests, *found)


def _is_of(record: Record, image: Image) -> bool:
    """Return whether a directory was made of an image. A file may be one of several kinds of sources."""
    types = [layer.media_type for layer in record.layers]
    return record.manifest_digest == str(image.digest) and types == [blob.media_type for blob in image.manifest.layers]
