"""Uses a directory that is there already: it has to be of the same image, and gets the options that are asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from provisioner.container.ids import read_ids_of
from provisioner.container.record import Record
from provisioner.errors import TargetExists, machine_errors
from provisioner.image.image import Image
from provisioner.inspection import inspect_directory
from provisioner.profile import load_profile
from provisioner.provision.plan import Outcome, Plan
from provisioner.sources import Source
from provisioner.start_files.completeness import complete_files, has_documents, restore_documents
from provisioner.start_files.files import change_options
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console


def reuse(plan: Plan, existing: Record, source: Source, console: Console) -> Outcome:
    """Use the directory that is there, which has the record `existing`, if it was made from the image of `source`.

    Raises TargetExists where it wasn't, or would have to be made anew, and ProvisionError.
    """
    was_incomplete = _keep_complete(plan, existing, None, console)
    resolved = source.image(plan.platform)
    for line in resolved.remarks:
        console.step(line)
    _check_same_image(plan.directory, existing, resolved.image)
    if was_incomplete is None:
        was_incomplete = _keep_complete(plan, existing, resolved.image, console)
    record, is_changed = _apply_plan(plan, existing, console)
    made = _image_of_directory(plan, record, resolved.image)
    return Outcome(record, made, resolved.index, False, is_changed or bool(was_incomplete), resolved.files)


def _keep_complete(plan: Plan, existing: Record, image: Image | None, console: Console) -> bool | None:
    """Write generated files of a directory again where they are damaged, and return whether anything was written.

    Without its `image` this returns None where the image's documents are missing, before anything is written. Raises
    TargetExists where something can't be restored, and MachineError.
    """
    has_all = has_documents(plan.directory, existing, plan.trust)
    if not has_all:
        if image is None:
            return None
        restore_documents(plan.directory, existing, image, console)
    return complete_files(plan.directory, existing, plan.shell, plan.trust, console) or not has_all


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


def _apply_plan(plan: Plan, existing: Record, console: Console) -> tuple[Record, bool]:
    """Change the options of a directory that is there to those of `plan`; return its record, and whether that is new.

    Options that `plan` doesn't state stay as they are. Raises TargetExists where the files would have to be others.
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
        ids = "many" if read_ids_of(plan.directory).are_many else "one"
    if plan.ids not in (None, ids):
        raise TargetExists(f"{shown} is used with {ids} id{'s' if ids == 'many' else ''}, not with {plan.ids}", hint)


def _image_of_directory(plan: Plan, existing: Record, image: Image) -> Image:
    """Return the image of a directory as its record has it: with the settings and the platform of that time."""
    if image.rootfs:
        return inspect_directory(plan.directory, plan.trust).image
    return replace(image, config=existing.run.applied_to(image.config))
