"""The main job: from a source to a directory that runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from provisioner.container.record import FOLDER, Record
from provisioner.container.staging import Staging
from provisioner.errors import MachineError, TargetExists, machine_errors
from provisioner.image.image import Image
from provisioner.image.manifest import Index
from provisioner.image.platform import Platform, host_platform
from provisioner.launch.launcher import launcher
from provisioner.launch.seccomp import root_emulation
from provisioner.launch.settings import LaunchSettings
from provisioner.layers.unpack import UnpackOptions, unpack
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
    after what the profile says, `runtime` is one of launcher.RUNTIMES.
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


@dataclass(frozen=True)
class Outcome:
    """The result of a plan."""

    record: Record
    image: Image
    index: Index | None
    """The index that the reference names (see ResolvedImage)."""
    is_new: bool


def provision(plan: Plan, source: Source, console: Console) -> Outcome:
    """Make `plan.directory` of the image in `source`, or find that it is there already.

    Raises ProvisionError; then the directory is absent or as it was.
    """
    named = load(plan.profile) if plan.profile else None
    existing_record(plan.directory)  # before a staging directory is made beside what isn't ours
    with Staging(plan.directory) as staging:
        present = existing_record(plan.directory)  # now that nobody else is at work there
        resolved = source.image(plan.platform)
        image = resolved.image
        if present and not plan.force:
            if present.manifest_digest != str(image.digest):
                raise _other_image(plan.directory, present, image)
            return Outcome(present, image, resolved.index, is_new=False)
        rootfs = staging.path / "rootfs"
        overrides = unpack(image, source, rootfs, staging.scratch / "ahead", plan.unpack_options, console)
        with Tree(rootfs, overrides) as tree:
            with tree_errors("write the fixups"):
                profile = named or matching(tree.read(b"etc/os-release") or tree.read(b"usr/lib/os-release") or b"")
                passing = apply_fixups(tree, profile, plan.dns)
            with tree_errors("set the times of directories"):
                tree.set_times()
        record = Record.of(source.reference, image, profile.name)
        with machine_errors("write the launch script and the record"):
            record.write(staging.path, image)
            write_owners(staging.path / FOLDER, rootfs, overrides, plan.unpack_options.ownership)
            _write_filter(staging.path / FOLDER / "seccomp.bpf")
            _write_files(staging.path / FOLDER / "generated", passing)
            shared_memory = staging.path / FOLDER / "shm"
            shared_memory.mkdir()
            shared_memory.chmod(0o1777)
            start = staging.path / "start.sh"
            start.write_bytes(launcher(_settings(image, record, profile, plan), plan.shell))
            start.chmod(0o755)
        staging.commit()
    return Outcome(record, image, resolved.index, is_new=True)


def existing_record(directory: Path) -> Record | None:
    """The record of what is at `directory`; None where there is nothing. Raises InTheWay for what isn't ours."""
    shown = printable(str(directory))
    with machine_errors(f"look at {shown}"):
        if directory.is_symlink():  # all others have been followed
            raise TargetExists(f"{shown} is a symlink that leads in a circle", "remove it, or choose another directory")
        if not directory.exists():
            return None
        if not directory.is_dir():
            raise TargetExists(f"{shown} is there and no directory", "choose another directory, or move it away")
        if not any(directory.iterdir()):
            if directory.samefile("."):
                raise TargetExists(f"{shown} is the directory that you are in", "name a directory below it")
            return None
    record = Record.read(directory)
    if record is None:
        raise TargetExists(
            f"{shown} is not empty and was not made by provision", "choose another directory, or empty it yourself"
        )
    return record


def _other_image(directory: Path, present: Record, image: Image) -> TargetExists:
    what = f"{printable(str(directory))} holds {printable(present.reference)} at {present.manifest_digest:.19}"
    return TargetExists(f"{what}, not {image.digest!s:.19}", "--force replaces it, with all that was changed in it")


def _write_filter(path: Path) -> None:
    """Write what start.sh gives to user namespaces; nothing on a machine for which there is no such filter."""
    try:
        filter_ = root_emulation(host_platform())
    except MachineError:
        return
    path.write_bytes(filter_)


def _write_files(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write what start.sh compares the rootfs's files with, to see whether they are still ours."""
    directory.mkdir()
    for name, content in files.items():
        (directory / name).write_bytes(content)


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
