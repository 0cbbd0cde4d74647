"""start.sh and the other files that are generated for a directory, made of its record whenever they are needed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from provisioner.container.opened import opened_container
from provisioner.container.record import Record
from provisioner.container.start_options import StartOptions
from provisioner.container_files import FOLDER, GENERATED, ROOTFS, SCRIPT, SHARED_MEMORY
from provisioner.errors import TargetExists, UsageError, machine_errors
from provisioner.filesystem.atomic import make_directory, replace_in, write_new
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.filesystem.trust import TrustedDirectories
from provisioner.image.config import ImageConfig
from provisioner.image.image import Image
from provisioner.image.platform import host_platform
from provisioner.image.run_settings import OPTIONS, RunSettings
from provisioner.inspection import read_image
from provisioner.launch.launcher import launcher
from provisioner.launch.renewal import change_settings, find_outdated
from provisioner.launch.runtime_files import has_helper, runtime_files, write_files
from provisioner.launch.settings import LaunchSettings
from provisioner.profile import Profile, load_profile, match_profile
from provisioner.rootfs.fixups import generated_files
from provisioner.rootfs.kernel_note import needed_kernel
from provisioner.rootfs.tree import Tree, tree_errors
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console


class Facts(NamedTuple):
    """What the files of an image say."""

    kernel: str
    """The oldest kernel that they run on, empty where any will do."""
    localtime: str
    """The target of the link /etc/localtime."""

    @classmethod
    def of(cls, tree: Tree) -> Facts:
        """Return the facts about an unpacked image. Raises OSError."""
        return cls(needed_kernel(tree), os.fsdecode(tree.read_link(b"etc/localtime") or b""))


def matching_profile(tree: Tree) -> Profile:
    """Return the profile for the distribution that the image's os-release(5) names."""
    return match_profile(tree.read(b"etc/os-release") or tree.read(b"usr/lib/os-release") or b"")


def launch_settings(image: Image, record: Record, profile: Profile, facts: Facts) -> LaunchSettings:
    """Return the settings at the top of start.sh. The config of `image` is as `record.run` says."""
    config, options = image.config, record.options
    return LaunchSettings(
        provision_version=record.version,
        image_reference=record.reference,
        image_platform=record.platform,
        image_entrypoint=config.entrypoint,
        image_command=config.command,
        image_env=config.env,
        image_user=config.user,
        image_workdir=config.working_dir,
        image_localtime=facts.localtime,
        image_kernel=facts.kernel,
        image_stop_signal=config.stop_signal,
        image_ports=config.ports,
        default_runtime=options.runtime or "auto",
        default_dns=options.dns or profile.dns,
        default_hostname=options.hostname or profile.hostname,
        default_binds=profile.binds + options.binds,
        default_env=profile.env + options.env,
        default_proot_options=profile.proot_options + options.proot_options,
    )


def write_runtime_files(folder: int, generated: Mapping[str, bytes], console: Console) -> None:
    """Write the files that start.sh uses: the helper and its filters, `generated`, and a directory for /dev/shm.

    start.sh compares `generated` with the files in the rootfs, and leaves those alone that differ. `folder` is open.
    """
    files = runtime_files(host_platform())
    write_files(folder, files)
    if not has_helper(files):
        console.step("this machine's containers get no seccomp filter (docs/start-sh.md): there is no helper for it")
    _write_generated(folder, generated)
    os.close(make_directory(folder, SHARED_MEMORY, 0o1777))


class StartFiles:
    """The generated files of a directory, made of its record and the image's documents.

    `script` and `generated` raise ProvisionError where these, or the profile, can't be read.
    """

    def __init__(self, directory: Path, record: Record, trust: TrustedDirectories) -> None:
        self._directory, self._record, self._trust = directory, record, trust

    @cached_property
    def _made_of(self) -> tuple[Image, Profile]:
        return _image_and_profile(self._directory, self._record, self._trust)

    def script(self, shell: str) -> bytes:
        """Return start.sh for this interpreter. Raises MachineError, too, where the rootfs can't be read."""
        image, profile = self._made_of
        with Tree(self._directory / ROOTFS) as tree, tree_errors("look at the rootfs"):
            facts = Facts.of(tree)
        return launcher(launch_settings(image, self._record, profile, facts), shell)

    @property
    def generated(self) -> Mapping[str, bytes]:
        """Return the copies of the files of /etc that start.sh writes, by name."""
        _, profile = self._made_of
        options = self._record.options
        return generated_files(profile, options.dns, self._directory, options.hostname or profile.hostname)


def change_options(
    directory: Path,
    record: Record,
    options: StartOptions,
    run: RunSettings,
    trust: TrustedDirectories,
    console: Console,
) -> Record:
    """Let start.sh go by other options, and return the record that says so. Nothing is written where all is the same.

    Raises TargetExists where somebody has edited start.sh, and MachineError.
    """
    changed = (*record.options.differences(options), *_differences(record.run, run))
    if not changed:
        return record
    script = directory / SCRIPT
    shown = printable(str(script))
    with machine_errors(f"change {shown}"):
        if find_outdated(directory, host_platform()).is_edited:
            raise TargetExists(f"{shown} was edited: {', '.join(changed)} can't be changed", "edit it once more")
        new = replace(record, options=options, run=run)
        old = script.read_bytes()
        shell = os.fsdecode(old.partition(b"\n")[0].removeprefix(b"#!").split(b" ")[0])
        before, after = (StartFiles(directory, of, trust).script(shell) for of in (record, new))
        with _opened(directory) as (top, folder):
            replace_in(top, SCRIPT, change_settings(old, before, after), 0o755)
            new.replace(folder)
    console.step(f"start.sh changed: {', '.join(changed)}")
    return new


def _differences(old: RunSettings, new: RunSettings) -> list[str]:
    before, after = asdict(old), asdict(new)
    return [name for field, name in OPTIONS.items() if before[field] != after[field]]


@contextmanager
def _opened(directory: Path) -> Iterator[tuple[int, int]]:
    """Open a directory and its FOLDER."""
    with (
        closing_descriptor(os.open(directory, DIRECTORY)) as top,
        closing_descriptor(os.open(FOLDER, DIRECTORY, dir_fd=top)) as folder,
    ):
        yield top, folder


def _image_and_profile(directory: Path, record: Record, trust: TrustedDirectories) -> tuple[Image, Profile]:
    """Return the image that a directory was made of, as `record.run` changes it, and the profile."""
    with opened_container(directory, trust) as container:
        image = read_image(container.folder, directory, record)
    config = replace(ImageConfig.from_json(image.config_bytes, image.config.platform), platform=image.config.platform)
    try:
        profile = load_profile(record.profile)
    except UsageError:  # it was a file of the user's
        with Tree(directory / ROOTFS) as tree:
            profile = matching_profile(tree)
    return replace(image, config=record.run.applied_to(config)), profile


def _write_generated(folder: int, generated: Mapping[str, bytes]) -> None:
    with closing_descriptor(make_directory(folder, GENERATED)) as directory:
        for name, content in generated.items():
            write_new(directory, name, content)
