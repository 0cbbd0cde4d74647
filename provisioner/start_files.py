"""start.sh and the other files that are generated for a directory, made of its record whenever they are needed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from provisioner.container.access import FOLDER
from provisioner.container.record import Record
from provisioner.container.start_options import StartOptions
from provisioner.errors import TargetExists, UsageError, machine_errors
from provisioner.filesystem.atomic import make_directory, replace_in, write_new
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.filesystem.trust import TrustedDirectories
from provisioner.image.config import ImageConfig
from provisioner.image.image import Image
from provisioner.image.platform import host_platform
from provisioner.image.run_settings import RunSettings
from provisioner.inspection import inspect_directory
from provisioner.launch.launcher import launcher
from provisioner.launch.renewal import find_outdated, renew
from provisioner.launch.runtime_files import has_helper, runtime_files, write_files
from provisioner.launch.settings import LaunchSettings
from provisioner.profile import Profile, load_profile, match_profile
from provisioner.rootfs.fixups import generated_files
from provisioner.rootfs.kernel_note import needed_kernel
from provisioner.rootfs.tree import Tree, tree_errors
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console

ROOTFS = "rootfs"
_GENERATED = "generated"
_SCRIPT = "start.sh"


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
    os.close(make_directory(folder, "shm", 0o1777))


def keep_complete(directory: Path, record: Record, shell: str, trust: TrustedDirectories, console: Console) -> bool:
    """Write what is missing of a directory's generated files, from its record, and what an older version wrote.

    Returns whether anything was written. `shell` is the interpreter of a start.sh that is missing. Raises TargetExists
    where the rootfs is missing, and MachineError.
    """
    shown = printable(str(directory))
    if not (directory / ROOTFS).is_dir():
        raise TargetExists(f"{shown} is incomplete: {ROOTFS} is missing", "make it anew: add --force")
    missing = [name for name in (_SCRIPT, f"{FOLDER}/{_GENERATED}") if not os.path.lexists(directory / name)]
    if missing:
        with machine_errors(f"complete {shown}"), _opened(directory) as (top, folder):
            image, profile = _image_and_profile(directory, record, trust)
            if _SCRIPT in missing:
                _write_script(top, directory, image, record, profile, shell)
            if len(missing) > 1 or _SCRIPT not in missing:
                hostname = record.options.hostname or profile.hostname
                _write_generated(folder, generated_files(profile, record.options.dns, directory, hostname))
        console.step(f"{shown} was incomplete: written anew: {', '.join(missing)}")
    return _renew(directory, console) or bool(missing)


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
    script = directory / _SCRIPT
    shown = printable(str(script))
    with machine_errors(f"change {shown}"):
        if find_outdated(directory, host_platform()).is_edited:
            raise TargetExists(f"{shown} was edited: {', '.join(changed)} can't be changed", "edit it once more")
        new = replace(record, options=options, run=run)
        with _opened(directory) as (top, folder):
            image, profile = _image_and_profile(directory, new, trust)
            shell = script.read_bytes().partition(b"\n")[0].removeprefix(b"#!").split(b" ")[0]
            _write_script(top, directory, image, new, profile, os.fsdecode(shell))
            new.replace(folder)
    console.step(f"start.sh changed: {', '.join(changed)}")
    return new


def _differences(old: RunSettings, new: RunSettings) -> list[str]:
    before, after = asdict(old), asdict(new)
    return [name.replace("_", "-") for name in before if before[name] != after[name]]


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
    image = inspect_directory(directory, trust).image
    config = replace(ImageConfig.from_json(image.config_bytes, image.config.platform), platform=image.config.platform)
    try:
        profile = load_profile(record.profile)
    except UsageError:  # it was a file of the user's
        with Tree(directory / ROOTFS) as tree:
            profile = matching_profile(tree)
    return replace(image, config=record.run.applied_to(config)), profile


def _write_script(top: int, directory: Path, image: Image, record: Record, profile: Profile, shell: str) -> None:
    """Write start.sh into the open directory `top`."""
    with Tree(directory / ROOTFS) as tree, tree_errors("look at the rootfs"):
        facts = Facts.of(tree)
    replace_in(top, _SCRIPT, launcher(launch_settings(image, record, profile, facts), shell), 0o755)


def _write_generated(folder: int, generated: Mapping[str, bytes]) -> None:
    with closing_descriptor(make_directory(folder, _GENERATED)) as directory:
        for name, content in generated.items():
            write_new(directory, name, content)


def _renew(directory: Path, console: Console) -> bool:
    """Give a directory that another version made this version's start.sh, helper and filters.

    Returns whether it wasn't as this version writes it.
    """
    with machine_errors(f"renew {printable(str(directory / _SCRIPT))}"):
        outdated = find_outdated(directory, host_platform())
        if outdated.names:
            renew(directory, outdated)
            console.step(f"renewed, as this version writes them: {', '.join(outdated.names)}")
        if outdated.is_edited:
            console.step(
                "start.sh was edited, and stays as it is; --force replaces it, and all that was changed in DIR"
            )
    return bool(outdated.names)
