"""`provision update DIR`: to the newest image of its source, or another one; the user's changes stay."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.commands.confirming import add_yes_argument, confirm
from provisioner.commands.container_names import find_container
from provisioner.commands.copy import add_to_list
from provisioner.commands.open_source import open_source
from provisioner.commands.output import make_console, screen_of, write_json, write_lines
from provisioner.commands.plan_options import add_max_size_argument, max_size_of
from provisioner.commands.source_options import SourceOptions, add_registry_arguments
from provisioner.commands.stamps import report_change
from provisioner.commands.trusting import add_trust_argument, trusted_directories
from provisioner.config import Config
from provisioner.container.opened import opened_container
from provisioner.container.stamps import find_stamps
from provisioner.errors import ProvisionError, UsageError, machine_errors
from provisioner.image.platform import Platform
from provisioner.image.source_name import RegistryName, StandardInput, parse_source
from provisioner.sizes import counted
from provisioner.terminal.escaping import printable
from provisioner.terminal.tables import Screen, Style
from provisioner.terminal.wrapping import fill

if TYPE_CHECKING:
    from provisioner.maintenance.plan import Action, UpdatePlan

HELP = "Update to the newest image, and keep what was changed"
EXAMPLE = "provision update ./container"

OUTDATED = 9
"""The exit status of `--check` where an update is there."""


class _Unapproved(Exception):
    """The user has asked for the plan alone."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `update`."""
    parser.add_argument("directory", metavar="NAME|DIR", nargs="?", help="a provisioned directory, or its name")
    parser.add_argument("--all", action="store_true", help="update all directories of provision list")
    parser.add_argument("--to", metavar="IMAGE", help="another image or tag; default: the one that DIR was made of")
    parser.add_argument(
        "--check", action="store_true", help=f"only look: exit status 0 if DIR is up to date, {OUTDATED} if not"
    )
    parser.add_argument("--dry-run", action="store_true", help="show the plan, and change nothing")
    parser.add_argument("--no-keep", action="store_true", help="remove the old DIR, without DIR.before-DATE")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    add_yes_argument(parser, "update unasked")
    add_registry_arguments(parser)
    parser.add_argument("--offline", action="store_true", help="use the cache and files only; make no connection")
    parser.add_argument("--jobs", metavar="N", type=int, choices=range(1, 65), help="downloads at a time; default: 4")
    parser.add_argument("--no-sync", action="store_true", help="don't wait for the disk: faster, but less safe")
    add_max_size_argument(parser)
    add_trust_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Update one directory or all. Raises ProvisionError."""
    if arguments.all:
        if arguments.directory is not None or arguments.to:
            raise UsageError("--all goes with neither NAME|DIR nor --to", "leave out one of them")
        return _update_all(arguments)
    if arguments.directory is None:
        raise UsageError("NAME|DIR is missing", "name a provisioned directory, or --all")
    return _update(arguments.directory, arguments)


def _update_all(arguments: argparse.Namespace) -> int:
    """Update all directories that are known here, and return the highest exit status. Errors are shown."""
    from provisioner.container.directories import Directories, state_directory

    console = make_console(arguments)
    with machine_errors("read the list of directories"):
        entries = Directories(state_directory()).entries()
    status = 0
    for entry in entries:
        if not os.path.lexists(entry.directory):
            continue
        try:
            status = max(status, _update(entry.directory, arguments))
        except ProvisionError as error:
            console.error(f"{printable(entry.directory)}: {error.message}", error.hint)
            status = max(status, error.status)
    return status


def _update(name: str, arguments: argparse.Namespace) -> int:
    """Update one directory, and return the exit status. Raises ProvisionError."""
    from provisioner.container.staging import finish_interrupted
    from provisioner.maintenance.update import Update, update

    console, config = make_console(arguments), Config.load()
    trust = trusted_directories(arguments, config)
    directory, shown = find_container(name, trust), printable(name)
    finish_interrupted(directory, trust)
    with opened_container(directory, trust, shown) as container:
        record = container.read_record()
        source_name = parse_source(arguments.to or record.reference)
        if isinstance(source_name, StandardInput) and not arguments.to:
            raise UsageError(
                f"{shown} was made of an image from standard input, of which there is no newer one",
                "name the image: --to IMAGE",
            )
        platform = Platform.parse(arguments.platform or record.platform)
        with open_source(source_name, SourceOptions.of(arguments, config), console) as source:
            image = source.image(platform).image
            label = source_name.reference.familiar if isinstance(source_name, RegistryName) else str(source_name)
            if str(image.digest) == record.manifest_digest:
                console.step(f"{shown} is up to date with {printable(label)}")
                if isinstance(source_name, RegistryName) and source_name.reference.digest:
                    console.step("a digest always is the same image: --to IMAGE updates to another one")
                return 0
            console.step(f"{shown}: {printable(label)} is at {image.digest!s:.19} now")
            if arguments.check:
                return OUTDATED
            known = find_stamps(directory, trust)
            asked = _Question(arguments, directory, shown)
            job = Update(directory, trust, record, not arguments.no_keep, not arguments.no_sync, max_size_of(arguments))
            try:
                done = update(job, container.folder, image, source, console, asked.approve)
            except _Unapproved:
                return 0
    for path in done.blocked:
        console.step(f"{_shown(path)}: the image has something else in its place; yours is in the old DIR")
    for line in done.notes:
        console.step(line)
    report_change(directory, trust, known)
    add_to_list(directory, directory, content=done.content)
    console.step(f"updated {shown}")
    if done.old_name:
        console.step(f"  as it was: {printable(str(directory.with_name(done.old_name)))}")
    return 0


class _Question:
    """Shows the plan, and asks."""

    def __init__(self, arguments: argparse.Namespace, directory: Path, shown: str) -> None:
        self._arguments = arguments
        self._directory = directory
        self._shown = shown

    def approve(self, plan: UpdatePlan, old_name: str) -> None:
        """Return if the plan is to be carried out. Raises TargetExists if not, and _Unapproved for --dry-run."""
        where = str(self._directory.with_name(old_name)) if old_name else ""
        if self._arguments.json:
            write_json(_as_json(plan, where))
        else:
            screen = screen_of(self._arguments)
            write_lines(fill(line, screen.width) for line in _lines(plan, where, screen))
        if self._arguments.dry_run:
            raise _Unapproved
        confirm(self._arguments, f"{self._shown} is about to be updated", "Update it?")


def _lines(plan: UpdatePlan, old: str, screen: Screen) -> list[str]:
    """Return the plan for people, with the names of conflicts in a colour."""
    image, users = plan.image_changes, [action for action in plan.actions if not action.decision.is_conflict]
    return [
        f"the image: {counted(image['A'], 'file')} added, {image['C']} changed, {image['D']} deleted",
        f"yours: {counted(len(users), 'change stays', 'changes stay')}",
        *([f"packages to install again: {_names(plan.packages)}"] if plan.packages else []),
        *([f"packages that come again: {_names(plan.returning_packages)}"] if plan.returning_packages else []),
        *(f"{screen.styled(_shown(action.path), Style.YELLOW)}: {_outcome(action, old)}" for action in plan.conflicts),
    ]


def _outcome(action: Action, old: str) -> str:
    """Return what becomes of a path that both sides have changed, as a text."""
    from provisioner.comparison.merge import Side
    from provisioner.filesystem.kind import Kind

    content = action.decision.content
    place = printable(old) if old else ""
    if action.is_place_taken:
        return f"{_shown(action.place)} comes in its place; " + (f"this one is in {place}" if place else "this is lost")
    if action.is_blocked:
        return "the image has something else in its place; " + (f"yours is in {place}" if place else "yours is lost")
    if content is Side.BESIDE:
        return f"yours stays; the image's is {_shown(action.beside)}"
    if content is Side.USER and action.disk is None:
        return "stays deleted; the image has changed it"
    was_directory = action.base is not None and action.base.kind is Kind.DIRECTORY
    if content is Side.USER and was_directory and action.disk and action.disk.kind is not Kind.DIRECTORY:
        return "yours stays; the image has changed what is in the directory that it replaces"
    if content is Side.USER and (action.new is None or action.base is None or action.new.data != action.base.data):
        return "yours stays; the image has changed it too"
    if content is Side.IMAGE and (action.new is None or action.disk is None or action.new.data != action.disk.data):
        what = "deleted, as in the image" if action.new is None else "the image's comes"
        return f"{what}; yours is in {place}" if place else f"{what}; yours is lost"
    has_other_mode = action.base and action.disk and action.base.mode != action.disk.mode
    side = action.decision.mode if has_other_mode else action.decision.owner
    return "both have changed mode or owner: " + ("yours stays" if side is Side.USER else "the image's comes")


def _as_json(plan: UpdatePlan, old: str) -> dict[str, object]:
    """Return the plan as `--json` prints it."""
    counts = {"added": "A", "changed": "C", "deleted": "D"}
    return {
        "image": {word: plan.image_changes[letter] for word, letter in counts.items()},
        "kept_as": old or None,
        "bytes": plan.size,
        "packages": list(map(os.fsdecode, plan.packages)),
        "returning_packages": list(map(os.fsdecode, plan.returning_packages)),
        "changes": [
            {
                "path": "/" + os.fsdecode(action.path),
                "place": "/" + os.fsdecode(action.place),
                "content": action.decision.content.value,
                "mode": action.decision.mode.value,
                "owner": action.decision.owner.value,
                "is_deleted": action.disk is None,
                "is_conflict": action.decision.is_conflict,
            }
            for action in plan.actions
        ],
    }


def _names(packages: list[bytes]) -> str:
    return " ".join(printable(os.fsdecode(name)) for name in packages)


def _shown(path: bytes) -> str:
    return printable(b"/" + path)
