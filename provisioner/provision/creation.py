"""Creates a new directory from an image: its files, then its record and its start.sh, then one rename."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace

from provisioner import __version__
from provisioner.container.ids import MANY_IDS
from provisioner.container.place import limits_of
from provisioner.container.record import Record
from provisioner.container.staging import Staging
from provisioner.container_files import ACCOUNTS, CHANGED, FOLDER, IDS, PACKAGES, ROOTFS, SCRIPT
from provisioner.errors import machine_errors
from provisioner.filesystem.atomic import make_directory, write_new
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.image.image import Image
from provisioner.image.platform import Platform, choose
from provisioner.launch.launcher import launcher
from provisioner.layers.job import UnpackJob
from provisioner.ownership.policy import Ownership
from provisioner.ownership.record import content_of, open_record, write_owners
from provisioner.profile import Profile, load_profile, profile_names
from provisioner.provision.plan import Completion, Outcome, Plan
from provisioner.reflinks.siblings import find_siblings
from provisioner.reflinks.unpacking import unpack_or_reflink
from provisioner.rootfs.access_lists import refused_text, set_access_lists
from provisioner.rootfs.account_files import read_account_files
from provisioner.rootfs.contents import find_architecture, login_shell
from provisioner.rootfs.declared import make_declared_directories
from provisioner.rootfs.fixups import apply_fixups, generated_files
from provisioner.rootfs.packages import Packages, read_packages
from provisioner.rootfs.tree import Tree, tree_errors
from provisioner.sources import ResolvedImage, Source
from provisioner.start_files.files import Facts, launch_settings, matching_profile, write_runtime_files
from provisioner.terminal.progress import Console


def create(
    plan: Plan, source: Source, resolved: ResolvedImage, staging: Staging, console: Console, complete: Completion
) -> Outcome:
    """Create `plan.directory` from an image of `source`: in `staging`, from which it is moved to its place.

    Raises ProvisionError, and what `complete` raises.
    """
    image = resolved.image
    requested_profile = load_profile(plan.profile) if plan.profile else None
    with machine_errors("prepare the directory"):
        scratch = staging.open_scratch("layers")
        ownership = plan.ownership or Ownership.in_directory(staging.new)
        _describe_place(staging.new, ownership, console)
    if resolved.cached:
        console.step(resolved.cached)
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
            resolved.verified,
            plan.run,
            plan.start_options,
            plan.unpack_options.hardlinks,
        )
        settings = launch_settings(image, record, profile, facts)
        with machine_errors("write the launch script and the record"):
            write_new(staging.new, SCRIPT, launcher(settings, plan.shell), 0o755)
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
    return Outcome(record, image, resolved.index, True, True, resolved.files, content)


def _describe_place(place: int, ownership: Ownership, console: Console) -> None:
    """Report what a container in an open directory will lack, and who will own its files. Raises OSError."""
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
    with open_record(folder) as written:
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
        write_new(folder, IDS, MANY_IDS)
