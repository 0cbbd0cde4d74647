"""The main job: create a directory that runs from the image of a source."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from provisioner import __version__
from provisioner.container.access import FOLDER
from provisioner.container.existing import existing_record, record_in
from provisioner.container.place import limits_of
from provisioner.container.record import ACCOUNTS, PACKAGES, Record
from provisioner.container.running import stop_or_refuse
from provisioner.container.staging import MAKE, Staging
from provisioner.container.stamps import CHANGED
from provisioner.container.start_options import StartOptions
from provisioner.errors import TargetExists, machine_errors
from provisioner.filesystem.atomic import make_directory, write_new
from provisioner.filesystem.descriptors import DIRECTORY, EXISTING_FILE, closing_descriptor
from provisioner.filesystem.trust import NOBODY, TrustedDirectories
from provisioner.image.image import Image
from provisioner.image.lockfile import LockedFile
from provisioner.image.manifest import Index
from provisioner.image.platform import Platform, choose
from provisioner.image.run_settings import AS_CONFIGURED, RunSettings
from provisioner.inspection import inspect_directory
from provisioner.launch.launcher import launcher
from provisioner.launch.runtime_files import IDS_FILE
from provisioner.layers.job import ROOTFS, UnpackJob, UnpackOptions
from provisioner.ownership.policy import Ownership
from provisioner.ownership.record import RECORD, content_of, write_owners
from provisioner.profile import Profile, load_profile, profile_names
from provisioner.reflinks.siblings import find_siblings
from provisioner.reflinks.unpacking import unpack_or_reflink
from provisioner.rootfs.access_lists import refused_text, set_access_lists
from provisioner.rootfs.account_files import read_account_files
from provisioner.rootfs.contents import find_architecture, login_shell
from provisioner.rootfs.declared import make_declared_directories
from provisioner.rootfs.fixups import apply_fixups, generated_files
from provisioner.rootfs.packages import Packages, read_packages
from provisioner.rootfs.tree import Tree, tree_errors
from provisioner.sources import NOT_VERIFIED, ResolvedImage, Source
from provisioner.start_files.completeness import has_documents, keep_complete, restore_documents
from provisioner.start_files.files import (
    Facts,
    change_options,
    launch_settings,
    matching_profile,
    write_runtime_files,
)
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console


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
    """The default runtime of start.sh, one of launcher.RUNTIMES; empty for what works."""
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
        """What start.sh is to go by."""
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
"""Is called with a directory, open, when it is complete and before it replaces another one.

Returns the name that the other one gets beside it; empty to have it removed.
"""


def provision(plan: Plan, source: Source, console: Console, complete: Completion = lambda new: "") -> Outcome:
    """Create `plan.directory` from the image of `source`, unless it contains this image already.

    Raises ProvisionError, and what `complete` raises. The directory then doesn't exist, or is as it was before.
    """
    requested_profile = load_profile(plan.profile) if plan.profile else None
    action = _action(plan)  # this refuses a foreign directory before Staging creates anything beside it
    with Staging(plan.directory, plan.trust, console.step if plan.waits else None, action=action) as staging:
        existing = record_in(staging.parent, plan.directory, plan.trust)  # once more: now no other run can change it
        if existing and plan.force:
            _prepare_replacement(plan)
            existing = None
        was_incomplete = _keep_complete(plan, existing, None, console) if existing else None
        resolved_image = source.image(plan.platform)
        image = resolved_image.image
        _describe(resolved_image, console)
        if existing:
            return _reuse(plan, existing, resolved_image, console, was_incomplete)
        with machine_errors("prepare the directory"):
            scratch = staging.open_scratch("layers")
            ownership = plan.ownership or Ownership.in_directory(staging.new)
            _describe_place(staging.new, ownership, console)
        if resolved_image.cached:
            console.step(resolved_image.cached)
        job = UnpackJob(image, source, staging.new, scratch, ownership, console, plan.unpack_options)
        with closing_descriptor(scratch), _unpack(job, plan, requested_profile) as tree:
            with tree_errors("write the fixups"):
                profile = requested_profile or matching_profile(tree)
                console.detail(f"profile: {profile.name}, {'as asked for' if requested_profile else 'by os-release'}")
                generated = apply_fixups(tree, profile, plan.dns, plan.directory, plan.hostname)
                accounts, packages = read_account_files(tree), read_packages(tree)
                image = _completed(image, tree, plan, console)
                facts = Facts.of(tree)
                _set_access_lists(tree, ownership, console)
            for message in make_declared_directories(tree, (*image.config.volumes, image.config.working_dir)):
                console.step(message)
            record = Record.of(
                source.reference,
                image,
                profile.name,
                resolved_image.verified,
                plan.run,
                plan.start_options,
                plan.unpack_options.hardlinks,
            )
            settings = launch_settings(image, record, profile, facts)
            with machine_errors("write the launch script and the record"):
                write_new(staging.new, "start.sh", launcher(settings, plan.shell), 0o755)
                with (
                    closing_descriptor(make_directory(staging.new, FOLDER)) as folder,
                    closing_descriptor(os.open(ROOTFS, DIRECTORY, dir_fd=staging.new)) as rootfs,
                ):
                    record.write(folder, image)
                    content = _write_owners(folder, rootfs, tree, ownership, record)
                    write_runtime_files(folder, generated, console)
                    _write_base(folder, accounts, packages)
                    _write_state(folder, plan)
        staging.commit(console, sync=plan.sync, keep_as=complete(staging.new))
    return Outcome(record, image, resolved_image.index, True, True, resolved_image.files, content)


def _action(plan: Plan) -> str:
    """Return what is done with the directory, for messages. Raises TargetExists for one that provision hasn't made."""
    return "replace" if existing_record(plan.directory, plan.trust) and plan.force else MAKE


def _reuse(
    plan: Plan, existing: Record, resolved: ResolvedImage, console: Console, was_incomplete: bool | None
) -> Outcome:
    """Use the directory that is there, which has the record `existing`, if it was made from the image.

    `was_incomplete` is what `_keep_complete` has said without the image. Raises TargetExists, and MachineError.
    """
    _check_same_image(plan.directory, existing, resolved.image)
    if was_incomplete is None:
        was_incomplete = _keep_complete(plan, existing, resolved.image, console)
    record, is_changed = _use_as_asked(plan, existing, console)
    made = _image_as_made(plan, record, resolved.image)
    return Outcome(record, made, resolved.index, False, is_changed or bool(was_incomplete), resolved.files)


def _keep_complete(plan: Plan, existing: Record, image: Image | None, console: Console) -> bool | None:
    """Make what is damaged of a directory anew, and return whether anything was written.

    Without its `image` this returns None where the image's documents are missing, before anything is written. Raises
    TargetExists where something can't be made anew, and MachineError.
    """
    has_all = has_documents(plan.directory, existing, plan.trust)
    if not has_all:
        if image is None:
            return None
        restore_documents(plan.directory, existing, image, console)
    return keep_complete(plan.directory, existing, plan.shell, plan.trust, console) or not has_all


def _check_same_image(directory: Path, existing: Record, image: Image) -> None:
    """Raise TargetExists if the directory was created from another image.

    Images with the same config have the same files, since it has the digests of their layers, whatever their manifests:
    an archive that was saved from a registry's image is that image.
    """
    same = existing.manifest_digest == str(image.digest) or existing.config_digest == str(image.manifest.config.digest)
    if not same:
        digest = printable(existing.manifest_digest[:19])
        what = f"{printable(str(directory))} holds {printable(existing.reference)} at {digest}"
        hint = "--force replaces it, and everything that was changed in it is lost"
        raise TargetExists(f"{what}, not {image.digest!s:.19}", hint)


def _ids_of(directory: Path) -> list[str]:
    """Return the lines of the file in which start.sh remembers that a directory has many ids, without any for one."""
    try:
        return (directory / FOLDER / IDS_FILE).read_text("ascii", "replace").splitlines()
    except FileNotFoundError:
        return []


def _use_as_asked(plan: Plan, existing: Record, console: Console) -> tuple[Record, bool]:
    """Let a directory that is there be as `plan` asks for, and return its record, and whether anything was written.

    What was not asked for stays as it is. Raises TargetExists where it would have to be made anew.
    """
    _check_same_files(plan, existing)
    record = change_options(
        plan.directory,
        existing,
        existing.options.changed_by(plan.start_options),
        existing.run.changed_by(plan.run),
        plan.trust,
        console,
    )
    return record, record != existing


def _check_same_files(plan: Plan, existing: Record) -> None:
    """Raise TargetExists if the files would be others: by another profile, number of ids or kind of links."""
    shown, hint = printable(str(plan.directory)), "choose another directory, or replace this one with --force"
    if plan.profile and load_profile(plan.profile).name != existing.profile:
        raise TargetExists(f"{shown} was made with the profile {printable(existing.profile)}", hint)
    hardlinks = plan.unpack_options.hardlinks
    if plan.is_hardlinks_asked and existing.hardlinks not in ("", hardlinks):
        was = printable(existing.hardlinks)
        raise TargetExists(f"{shown} was made with --hardlinks {was}, not {hardlinks}", hint)
    with machine_errors(f"look at {shown}"):
        ids = "many" if _ids_of(plan.directory) else "one"
    if plan.ids not in (None, ids):
        raise TargetExists(f"{shown} is used with {ids} id{'s' if ids == 'many' else ''}, not with {plan.ids}", hint)


def _prepare_replacement(plan: Plan) -> None:
    """Stop what runs from the directory, if that is asked for. Raises TargetExists where it can't be replaced."""
    _check_removable(plan.directory)
    stop_or_refuse(plan.directory, stop=plan.stop_running)


def _check_removable(directory: Path) -> None:
    """Raise TargetExists where files of a directory belong to subordinate ids, so that only those can remove it."""
    with machine_errors(f"look at {printable(str(directory))}"):
        is_started_with_many = len(_ids_of(directory)) > 1
    if is_started_with_many and os.geteuid() != 0:
        shown = printable(shlex.quote(str(directory)))
        what = f"files in {printable(str(directory))} belong to subordinate ids"
        raise TargetExists(what, f"remove it first: provision remove {shown}")


def _describe(resolved: ResolvedImage, console: Console) -> None:
    """Say what the image doesn't say, and how far it is verified."""
    for line in resolved.assumptions:
        console.step(line)
    if resolved.verified == NOT_VERIFIED:
        console.step("not verified: nobody says what the file must be; --sha256 HEX does")
    elif resolved.verified:
        says_so = resolved.verified.startswith(("verified", "not verified"))
        console.step(resolved.verified if says_so else f"verified {resolved.verified}")


def _describe_place(place: int, ownership: Ownership, console: Console) -> None:
    """Say what a container in an open directory will lack, and whose its files will be. Raises OSError."""
    for text in limits_of(place, ownership):
        console.step(text)
    if ownership.exact:
        console.detail("owners: the image's, since this process may give files away")
    else:
        console.detail("owners: all files are yours, since this process may give none away; the record has the image's")


def _completed(image: Image, tree: Tree, plan: Plan, console: Console) -> Image:
    """Return the image with what its files say where it is a rootfs archive, and with the settings of `plan`.

    Raises NotFound where its programs are for another processor.
    """
    if image.rootfs:
        platform = image.config.platform
        architecture = find_architecture(tree)
        if architecture and architecture != platform.architecture:
            platform = Platform.normalized("linux", architecture)
            choose([(platform, None)], plan.platform, "the archive")
        if not architecture:
            console.step(f"nothing in the archive says which machines it is for: {platform} is assumed")
        shell = login_shell(tree)
        image = Image.of_rootfs(image.manifest.layers[0], image.rootfs, platform, (shell,) if shell else ())
    return replace(image, config=plan.run.applied_to(image.config))


def _image_as_made(plan: Plan, existing: Record, image: Image) -> Image:
    """Return the image that a directory was made of, with what was found and asked for then."""
    if image.rootfs:
        return inspect_directory(plan.directory, plan.trust).image
    return replace(image, config=existing.run.applied_to(image.config))


def _unpack(job: UnpackJob, plan: Plan, requested: Profile | None) -> AbstractContextManager[Tree]:
    """Make the rootfs, by reflinks of another container of the image if that is possible.

    `requested` is the profile, if one is. Raises ProvisionError.
    """
    siblings = find_siblings(job.image, lambda record: _same_fixups(plan, requested, record, job.image))
    return unpack_or_reflink(job, siblings)


def _same_fixups(
    plan: Plan, requested: Profile | None, record: Record, image: Image
) -> tuple[frozenset[bytes], Callable[[Tree], bool]] | None:
    """Return the paths that fixups write, where the directory of `record` got the same as the one of `plan` will.

    And a function that says whether a tree with the image's files gets them. None where they are others.
    """
    if record.profile not in (Profile().name, *profile_names()) or record.version != __version__:
        return None
    profile = load_profile(record.profile) if record.profile in profile_names() else Profile()
    if requested not in (None, profile):
        return None
    if record.run.applied_to(image.config).working_dir != plan.run.applied_to(image.config).working_dir:
        return None
    paths = [*(f"etc/{name}".encode() for name in generated_files(profile, (), plan.directory))]
    paths += [path.lstrip(b"/") for path, _ in profile.files]
    return frozenset(paths), lambda tree: requested is not None or matching_profile(tree) == profile


def _set_access_lists(tree: Tree, ownership: Ownership, console: Console) -> None:
    """Set the access lists of the image, which name its users and groups: where files belong to these."""
    if ownership.exact and (refused := set_access_lists(tree.locate(b"").directory, tree.overrides)):
        console.step(refused_text(refused))


def _write_owners(folder: int, rootfs: int, tree: Tree, ownership: Ownership, record: Record) -> str:
    """Write the ownership record of the open `rootfs` into an open directory, and return its digest. Raises OSError."""
    write_owners(folder, rootfs, tree.overrides, ownership, tree.record_parts)
    with open(os.open(RECORD, EXISTING_FILE, dir_fd=folder), "rb") as written:
        return content_of(written, record.manifest_digest)


def _write_base(folder: int, accounts: Mapping[str, bytes], packages: Packages | None) -> None:
    """Write what an update needs of the image: files such as /etc/passwd, and names of packages. `folder` is open."""
    if packages is not None:
        write_new(folder, PACKAGES, b"".join(name + b"\n" for name in sorted(packages.by_hand)))
    with closing_descriptor(make_directory(folder, ACCOUNTS, 0o700)) as directory:
        for name, content in accounts.items():
            write_new(directory, name, content, 0o600)


def _write_state(folder: int, plan: Plan) -> None:
    """Write when the directory was changed, which is now, and how many ids it is used with. `folder` is open."""
    write_new(folder, CHANGED, b"")
    if plan.ids == "many":
        write_new(folder, IDS_FILE, b"many\n")
