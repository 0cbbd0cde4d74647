"""Finds the files of an image that are damaged, missing or have another mode, by the ownership record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from provisioner.comparison.changes import opened_record
from provisioner.comparison.join import join_one
from provisioner.comparison.places import is_configuration, is_package_database, is_user_data
from provisioner.comparison.state import Aspect, Baseline
from provisioner.container.access import open_rootfs
from provisioner.errors import PathErrors
from provisioner.filesystem.descriptors import closing_descriptor
from provisioner.filesystem.walk import WalkedFile, walk
from provisioner.ownership.mtree import MtreeEntry, parse_entries


@dataclass(frozen=True)
class Damage:
    """A file of the image that isn't as the image has it."""

    path: bytes
    """From the root, without a slash in front of it."""
    entry: MtreeEntry
    """What the image has."""
    aspects: tuple[Aspect, ...]
    """What differs; nothing where the file is missing."""
    is_silent: bool
    """Whether only the content differs, and size and time are the image's: programs don't do that, disks do."""
    is_edit: bool
    """Whether it may be somebody's doing: it is in a place of the user's, or a package manager has worked here."""

    @property
    def needs_content(self) -> bool:
        """Return whether the file has to come from the image's layers."""
        return not self.aspects or self.aspects[0] in (Aspect.TYPE, Aspect.CONTENT)

    @property
    def text(self) -> str:
        """Return what is wrong in a word or more."""
        return ", ".join(aspect.value for aspect in self.aspects) or "missing"


def find_damage(folder: int, shown: str) -> list[Damage]:
    """Return all damage in the rootfs beside the open `.provision/` of a directory, each directory before its content.

    All files are read. `shown` is the directory's name for messages. Raises MachineError.
    """
    with (
        opened_record(folder, shown) as (record, baseline),
        PathErrors(f"compare {shown} with its image") as errors,
        closing_descriptor(open_rootfs(folder)) as rootfs,
    ):
        reading = replace(baseline, reads_all=True, opens_closed=True)
        found = list(_damage(parse_entries(record), rootfs, reading, errors))
    if any(is_package_database(damage.path) and damage.needs_content for damage in found):
        return [replace(damage, is_edit=not damage.is_silent) for damage in found]
    return found


def _damage(
    entries: Iterator[MtreeEntry | None], rootfs: int, baseline: Baseline, errors: PathErrors
) -> Iterator[Damage]:
    skipped = b"/"
    for path, entry, file in join_one(entries, walk(rootfs, closed="open")):
        errors.path = path
        if entry is None or path.startswith(skipped):
            continue
        if file is not None and file.is_mounted:
            skipped = path + b"/"
            continue
        aspects = () if file is None else baseline.compare(path, entry, file)
        if file is None or (aspects and aspects[0] is Aspect.TYPE):
            skipped = path + b"/"
        if file is not None and not aspects:
            continue
        is_silent = file is not None and _looks_untouched(entry, file, aspects)
        is_edit = not is_silent and (is_configuration(path) or is_user_data(path))
        yield Damage(path, entry, aspects, is_silent, is_edit)


def _looks_untouched(entry: MtreeEntry, file: WalkedFile, aspects: tuple[Aspect, ...]) -> bool:
    return aspects == (Aspect.CONTENT,) and (file.stat.st_size, file.stat.st_mtime_ns) == (entry.size, entry.mtime)
