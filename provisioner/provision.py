"""The main job: from a source to a directory that runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from provisioner.container.access import FOLDER, open_folder, trust_errors
from provisioner.container.record import Record
from provisioner.container.staging import Staging
from provisioner.errors import MachineError, TargetExists, machine_errors
from provisioner.filesystem.atomic import make_directory, write_new
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.filesystem.removal import names_in
from provisioner.filesystem.resolution import PASSED, resolved
from provisioner.filesystem.trust import NOBODY, TrustedDirectories
from provisioner.image.image import Image
from provisioner.image.platform import Platform, host_platform
from provisioner.launch.launcher import launcher
from provisioner.launch.seccomp import root_emulation
from provisioner.launch.settings import LaunchSettings
from provisioner.layers.unpack import ROOTFS, UnpackOptions, unpack
from provisioner.ownership.record import write_owners
from provisioner.profile import Profile, load, matching
from provisioner.rootfs.fixups import apply_fixups
from provisioner.rootfs.tree import Tree, tree_errors
from provisioner.sources import Source
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console


@dataclass(frozen=True)
class Plan:
    """What a user asks for.

    `profile` is a name or a file, None to go by the image; `shell` is start.sh's interpreter. What start.sh's options
    default to: `dns` goes in the place of the profile's servers, `binds` (SRC[:DST], absolute) and `env` (K=V) come
    after what the profile says, `runtime` is one of launcher.RUNTIMES. `trust` lifts the rule that
    nobody else may write to the directory.
    """

    directory: Path
    platform: Platform
    unpack_options: UnpackOptions
    profile: str | None = None
    dns: tuple[str, ...] = ()
    force: bool = False
    shell: str = "/bin/sh"
    binds: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    runtime: str = "auto"
    trust: TrustedDirectories = NOBODY


@dataclass(frozen=True)
class Outcome:
    """What became of a plan: the record of the directory, the image's default command, and whether it is new."""

    record: Record
    image: Image
    is_new: bool


def provision(plan: Plan, source: Source, console: Console) -> Outcome:
    """Make `plan.directory` of the image in `source`, or find that it is there already.

    Raises ProvisionError; then the directory is absent or as it was.
    """
    named = load(plan.profile) if plan.profile else None
    existing_record(plan.directory, plan.trust)  # before a staging directory is made beside what isn't ours
    with Staging(plan.directory, plan.trust) as staging:
        present = record_in(staging.parent, plan.directory, plan.trust)  # now that nobody else is at work there
        image = source.image(plan.platform)
        if present and not plan.force:
            if present.manifest_digest != str(image.digest):
                raise _other_image(plan.directory, present, image)
            return Outcome(present, image, is_new=False)
        with machine_errors("make room for layers"):
            scratch = staging.open_scratch("ahead")
        with closing_descriptor(scratch):
            overrides = unpack(image, source, staging.new, scratch, plan.unpack_options, console)
        with machine_errors("open the rootfs"):
            rootfs = os.open(ROOTFS, DIRECTORY, dir_fd=staging.new)
        with closing_descriptor(rootfs), Tree(rootfs, overrides) as tree:
            with tree_errors("write the fixups"):
                profile = named or matching(tree.read(b"etc/os-release") or tree.read(b"usr/lib/os-release") or b"")
                passing = apply_fixups(tree, profile, plan.dns)
            with tree_errors("set the times of directories"):
                tree.set_times()
            record = Record.of(source.reference, image, profile.name)
            with machine_errors("write the launch script and the record"):
                start = launcher(_settings(image, record, profile, plan), plan.shell)
                write_new(staging.new, "start.sh", start, 0o755)
                with closing_descriptor(make_directory(staging.new, FOLDER)) as folder:
                    record.write(folder, image)
                    write_owners(folder, rootfs, overrides, plan.unpack_options.ownership)
                    _write_filter(folder)
                    _write_files(folder, passing)
                    os.close(make_directory(folder, "shm", 0o1777))
        staging.commit()
    return Outcome(record, image, is_new=True)


def existing_record(directory: Path, trust: TrustedDirectories = NOBODY) -> Record | None:
    """Return the record of what is at `directory`; None where there is nothing, or an empty directory.

    Raises TargetExists for what isn't ours, and NotTrusted where others could have changed it.
    """
    with (
        trust_errors(f"look at {printable(str(directory))}"),
        resolved(directory, trust, parents_only=True) as found,
    ):
        return None if len(found.missing) > 1 else record_in(found.directory, directory, trust)


def record_in(parent: int, directory: Path, trust: TrustedDirectories = NOBODY) -> Record | None:
    """Return and raise the same, for the name of `directory` in its open parent."""
    shown = printable(str(directory))
    with trust_errors(f"look at {shown}"):
        try:
            opened = os.open(directory.name, PASSED, dir_fd=parent)
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            raise TargetExists(
                f"{shown} is there and no directory", "choose another directory, or move it away"
            ) from None
        with closing_descriptor(opened):
            return _record_of(opened, directory, trust)


def _record_of(opened: int, directory: Path, trust: TrustedDirectories) -> Record | None:
    """Return the record of an open directory, of O_PATH."""
    shown = printable(str(directory))
    with closing_descriptor(os.open(".", DIRECTORY, dir_fd=opened)) as listed:
        if next(names_in(listed), None) is None:
            if os.path.samestat(os.fstat(opened), os.stat(".")):
                raise TargetExists(f"{shown} is the directory that you are in", "name a directory below it")
            return None
    folder = open_folder(opened, directory, trust)
    record = None
    if folder is not None:
        with closing_descriptor(folder):
            record = Record.read_from(folder, directory)
    if record is None:
        raise TargetExists(
            f"{shown} is not empty and was not made by provision", "choose another directory, or empty it yourself"
        )
    return record


def _other_image(directory: Path, present: Record, image: Image) -> TargetExists:
    what = f"{printable(str(directory))} holds {printable(present.reference)} at {present.manifest_digest:.19}"
    return TargetExists(f"{what}, not {image.digest!s:.19}", "--force replaces it, with all that was changed in it")


def _write_filter(folder: int) -> None:
    """Write what start.sh gives to user namespaces; nothing on a machine for which there is no such filter."""
    try:
        filter_ = root_emulation(host_platform())
    except MachineError:
        return
    write_new(folder, "seccomp.bpf", filter_)


def _write_files(folder: int, files: Mapping[str, bytes]) -> None:
    """Write what start.sh compares the rootfs's files with, to see whether they are still ours."""
    with closing_descriptor(make_directory(folder, "generated")) as generated:
        for name, content in files.items():
            write_new(generated, name, content)


def _settings(image: Image, record: Record, profile: Profile, plan: Plan) -> LaunchSettings:
    """What start.sh has to know."""
    config = image.config
    return LaunchSettings(
        provision_version=record.version,
        image_reference=record.reference,
        image_platform=record.platform,
        image_entrypoint=config.entrypoint,
        image_command=config.command,
        image_env=config.env,
        image_user=config.user,
        image_workdir=config.working_dir,
        image_stop_signal=config.stop_signal,
        image_ports=config.ports,
        default_runtime=plan.runtime,
        default_dns=plan.dns or profile.dns,
        default_hostname=profile.hostname,
        default_binds=profile.binds + plan.binds,
        default_env=profile.env + plan.env,
    )
