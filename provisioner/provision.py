"""The main job: create a directory that runs from the image of a source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from provisioner.container.record import FOLDER, Record
from provisioner.container.staging import Staging
from provisioner.errors import TargetExists, machine_errors
from provisioner.image.image import Image
from provisioner.image.manifest import Index
from provisioner.image.platform import Platform, host_platform
from provisioner.launch.launcher import launcher
from provisioner.launch.renewal import find_outdated, renew
from provisioner.launch.runtime_files import has_helper, runtime_files, write_files
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
    """What a user asks for."""

    directory: Path
    platform: Platform
    unpack_options: UnpackOptions
    profile: str | None = None
    """The name or file of a profile, None to choose it by the image's os-release."""
    dns: tuple[str, ...] = ()
    """Name servers; without any, the profile's."""
    force: bool = False
    """Whether to replace what is in `directory`, if `provision` created it."""
    shell: str = "/bin/sh"
    """The interpreter of start.sh."""
    binds: tuple[str, ...] = ()
    """Bind mounts, `SRC[:DST]` with absolute paths, in addition to the profile's."""
    env: tuple[str, ...] = ()
    """Environment variables, `NAME=VALUE`, in addition to the profile's."""
    runtime: str = "auto"
    """The default runtime of start.sh, one of launcher.RUNTIMES."""


@dataclass(frozen=True)
class Outcome:
    """What `provision` has done."""

    record: Record
    """The record of the directory."""
    image: Image
    index: Index | None
    """The index that the reference names (see ResolvedImage)."""
    is_new: bool
    """False if the directory already contained the image."""


def provision(plan: Plan, source: Source, console: Console) -> Outcome:
    """Create `plan.directory` from the image of `source`, unless it contains this image already.

    Raises ProvisionError. The directory then doesn't exist, or is as it was before.
    """
    requested_profile = load(plan.profile) if plan.profile else None
    existing_record(plan.directory)  # refuses a foreign directory before Staging creates anything beside it
    with Staging(plan.directory) as staging:
        existing = existing_record(plan.directory)  # once more, since now no other run can change it
        resolved = source.image(plan.platform)
        image = resolved.image
        if existing and not plan.force:
            _check_same_image(plan.directory, existing, image)
            _renew(plan.directory, console)
            return Outcome(existing, image, resolved.index, is_new=False)
        rootfs, folder = staging.path / "rootfs", staging.path / FOLDER
        with unpack(image, source, rootfs, staging.scratch / "layers", plan.unpack_options, console) as tree:
            with tree_errors("write the fixups"):
                profile = requested_profile or _matching_profile(tree)
                generated = apply_fixups(tree, profile, plan.dns)
            with tree_errors("set the times of directories"):
                tree.set_times()
        record = Record.of(source.reference, image, profile.name)
        with machine_errors("write the launch script and the record"):
            record.write(staging.path, image)
            write_owners(folder, rootfs, tree.overrides, plan.unpack_options.ownership)
            _write_runtime_files(folder, generated, console)
            _write_launcher(staging.path / "start.sh", _settings(image, record, profile, plan), plan.shell)
        staging.commit()
    return Outcome(record, image, resolved.index, is_new=True)


def existing_record(directory: Path) -> Record | None:
    """Return the record of a provisioned directory, None where `directory` doesn't exist or is empty.

    Raises TargetExists for anything else that is there.
    """
    shown = printable(str(directory))
    with machine_errors(f"look at {shown}"):
        if directory.is_symlink():  # other symlinks have been resolved
            raise TargetExists(f"{shown} is a symlink that leads in a circle", "remove it, or choose another directory")
        if not directory.exists():
            return None
        if not directory.is_dir():
            raise TargetExists(f"{shown} exists and is not a directory", "choose another directory, or move it away")
        if not any(directory.iterdir()):
            if directory.samefile("."):
                raise TargetExists(f"{shown} is the current directory", "name a directory below it")
            return None
    record = Record.read(directory)
    if record is None:
        raise TargetExists(
            f"{shown} is not empty and was not made by provision", "choose another directory, or empty it yourself"
        )
    return record


def _check_same_image(directory: Path, existing: Record, image: Image) -> None:
    """Raise TargetExists if the directory was created from another image."""
    if existing.manifest_digest != str(image.digest):
        what = f"{printable(str(directory))} holds {printable(existing.reference)} at {existing.manifest_digest:.19}"
        hint = "--force replaces it, and everything that was changed in it is lost"
        raise TargetExists(f"{what}, not {image.digest!s:.19}", hint)


def _renew(directory: Path, console: Console) -> None:
    """Give a directory that another version made this version's start.sh, helper and filters."""
    with machine_errors(f"renew {printable(str(directory / 'start.sh'))}"):
        outdated = find_outdated(directory, host_platform())
        if outdated.names:
            renew(directory, outdated)
            console.step(f"renewed, as this version writes them: {', '.join(outdated.names)}")
        if outdated.is_edited:
            console.step(
                "start.sh was edited, and stays as it is; --force replaces it, and all that was changed in DIR"
            )


def _matching_profile(tree: Tree) -> Profile:
    """Return the profile for the distribution that the image's os-release(5) names."""
    return matching(tree.read(b"etc/os-release") or tree.read(b"usr/lib/os-release") or b"")


def _write_runtime_files(folder: Path, generated: Mapping[str, bytes], console: Console) -> None:
    """Write the files that start.sh uses: the helper and its filters, `generated`, and a directory for /dev/shm.

    start.sh compares `generated` with the files in the rootfs, and leaves those alone that differ.
    """
    files = runtime_files(host_platform())
    write_files(folder, files)
    if not has_helper(files):
        console.step("this machine's containers get no seccomp filter (docs/start-sh.md): there is no helper for it")
    directory = folder / "generated"
    directory.mkdir()
    for name, content in generated.items():
        (directory / name).write_bytes(content)
    shared_memory = folder / "shm"
    shared_memory.mkdir()
    shared_memory.chmod(0o1777)


def _write_launcher(path: Path, settings: LaunchSettings, shell: str) -> None:
    """Write start.sh."""
    path.write_bytes(launcher(settings, shell))
    path.chmod(0o755)


def _settings(image: Image, record: Record, profile: Profile, plan: Plan) -> LaunchSettings:
    """Return the settings at the top of start.sh."""
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
