"""What the main job is asked for, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from provisioner.container.record import Record
from provisioner.container.start_options import StartOptions
from provisioner.filesystem.trust import NOBODY, TrustedDirectories
from provisioner.image.image import Image
from provisioner.image.lockfile import LockedFile
from provisioner.image.manifest import Index
from provisioner.image.platform import Platform
from provisioner.image.run_settings import AS_CONFIGURED, RunSettings
from provisioner.layers.job import UnpackOptions
from provisioner.ownership.policy import Ownership


@dataclass(frozen=True)
class Plan:
    """The directory to create, and the options for it."""

    directory: Path
    platform: Platform
    unpack_options: UnpackOptions = field(default_factory=UnpackOptions)
    ownership: Ownership | None = None
    """Who owns the files, None to find out by trying."""
    profile: str | None = None
    """The name or file of a profile, None to choose it by the image's os-release."""
    dns: tuple[str, ...] = ()
    """Name servers; without any, the profile's."""
    force: bool = False
    """Whether to replace what is in `directory`, if `provision` created it."""
    stop_running: bool = False
    """Whether to stop what runs from a `directory` that is replaced; else that is an error."""
    waits: bool = True
    """Whether to wait for another run that is at work on `directory`; else that is an error."""
    shell: str = "/bin/sh"
    """The interpreter of start.sh."""
    binds: tuple[str, ...] = ()
    """Bind mounts, `SRC[:DST]` with absolute paths, in addition to the profile's."""
    env: tuple[str, ...] = ()
    """Environment variables, `NAME=VALUE`, or `NAME` for the value at each start, in addition to the profile's."""
    proot_options: tuple[str, ...] = ()
    """Words for proot, in addition to the profile's."""
    runtime: str = ""
    """The default runtime of start.sh, one of launcher.RUNTIMES; empty for the best one that works."""
    hostname: str = ""
    """The container's name; without one, the profile's, else that of the directory."""
    run: RunSettings = AS_CONFIGURED
    """What to run in place of what the image's config says."""
    ids: str | None = None
    """How many ids its user namespaces have, one of launcher.IDS; None for one, or for what it has already."""
    sync: bool = True
    """Whether the directory is written to the disk before it is put in place."""
    is_hardlinks_asked: bool = False
    """Whether `unpack_options.hardlinks` was asked for, so that a directory with others won't do."""
    trust: TrustedDirectories = NOBODY
    """The directories that others may own or write to."""

    @property
    def start_options(self) -> StartOptions:
        """The options that start.sh is generated from."""
        return StartOptions(self.runtime, self.dns, self.hostname, self.binds, self.env, self.proot_options)


@dataclass(frozen=True)
class Outcome:
    """The result of `provision`."""

    record: Record
    """The record of the directory."""
    image: Image
    index: Index | None
    """The index that the reference names (see ResolvedImage)."""
    is_new: bool
    """False if the directory already contained the image."""
    is_changed: bool
    """Whether anything in the directory was written; False if it was right already."""
    files: Mapping[Platform, LockedFile] = field(default_factory=dict)
    """The files for locks, where the source has them in place of manifests (see ResolvedImage)."""
    content: str = ""
    """The digest of the ownership record that was written (see ownership.record); empty where none was."""


Completion = Callable[[int], str]
"""Called with a new directory, open and complete, before it replaces another one.

Returns the name that the other one gets beside it; empty to remove that.
"""
