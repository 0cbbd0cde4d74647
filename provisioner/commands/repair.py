"""`provision repair DIR`: finds files of the image that are damaged, missing or have another mode; puts them back."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.commands.confirming import add_yes_argument, confirm
from provisioner.commands.container_names import find_container
from provisioner.commands.open_source import open_source
from provisioner.commands.output import make_console, write_json, write_lines
from provisioner.commands.plan_options import add_max_size_argument, max_size_of, script_shell
from provisioner.commands.source_options import SourceOptions, add_registry_arguments
from provisioner.commands.stamps import report_change
from provisioner.commands.trusting import add_trust_argument, trusted_directories
from provisioner.config import Config
from provisioner.container.opened import opened_container
from provisioner.container.record import Record
from provisioner.errors import PROVISION_ELSEWHERE, MachineError, MalformedImage, NotFound
from provisioner.filesystem.trust import TrustedDirectories
from provisioner.image.digest import Digest
from provisioner.image.platform import Platform
from provisioner.image.source_name import RegistryName, SourceName, parse_source
from provisioner.sizes import counted
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console

if TYPE_CHECKING:
    from provisioner.image.image import Image
    from provisioner.maintenance.damage import Damage
    from provisioner.maintenance.repair import Repaired
    from provisioner.sources import Source

HELP = "Put files of the image back that are damaged or gone"
EXAMPLE = "provision repair ./container"

DAMAGED = MalformedImage.status
"""The exit status of `--check` where something is damaged, and of a repair that could not put all of it back."""
_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `repair`."""
    parser.add_argument("directory", metavar="NAME|DIR", help="a provisioned directory, or its name")
    parser.add_argument(
        "--check", action="store_true", help=f"only show what is damaged; exit status {DAMAGED} if anything is"
    )
    parser.add_argument(
        "--all", action="store_true", help="put back also what was changed in /etc, /home and the like, and by packages"
    )
    parser.add_argument("--json", action="store_true", help="print what is damaged as JSON")
    add_yes_argument(parser, "put the files back unasked")
    add_registry_arguments(parser)
    parser.add_argument("--offline", action="store_true", help="use the cache and files only; make no connection")
    add_max_size_argument(parser)
    add_trust_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show what is damaged, and repair it. Raises ProvisionError."""
    from provisioner.comparison.changes import opened_record
    from provisioner.container.mounted import check_not_mounted
    from provisioner.container.running import check_not_running
    from provisioner.container.staging import Staging, finish_interrupted
    from provisioner.maintenance.damage import find_damage
    from provisioner.maintenance.repair import Repair, repair
    from provisioner.maintenance.unpacking import unpack_options_of

    console, config = make_console(arguments), Config.load()
    trust = trusted_directories(arguments, config)
    directory = find_container(arguments.directory, trust)
    finish_interrupted(directory, trust)
    with opened_container(directory, trust, printable(arguments.directory)) as container:
        record, folder, shown = container.read_record(), container.folder, container.shown
        found = find_damage(folder, shown)
        damages = [damage for damage in found if arguments.all or not damage.is_edit]
        _show(damages, len(found) - len(damages), arguments, console)
        if arguments.check:
            return DAMAGED if damages else 0
        if not damages:
            with Staging(directory, trust, action="repair"):
                if _complete(directory, record, trust, console):
                    report_change(directory, trust)
            return 0
        confirm(arguments, f"{counted(len(damages), 'file')} of {shown} not as in the image", "Put them back?")
        name, options = exact_source(record), unpack_options_of(record, max_size_of(arguments))
        with (
            Staging(directory, trust, action="repair") as staging,
            opened_record(folder, shown) as (_, baseline),
        ):
            check_not_running(directory)
            check_not_mounted(container.top, directory, "repair", only_here=True)
            if baseline.first_id is not None:
                raise MachineError(
                    f"files in {shown} belong to subordinate ids, which repair can't give them", PROVISION_ELSEWHERE
                )
            with open_source(name, SourceOptions.of(arguments, config), console) as source:
                image = image_of(source, record) if any(damage.needs_content for damage in damages) else None
                done = repair(Repair(damages, image, source, options), folder, baseline, staging, console)
            _complete(directory, record, trust, console)
            report_change(directory, trust)
    return _report(done, shown, console)


def _complete(directory: Path, record: Record, trust: TrustedDirectories, console: Console) -> bool:
    """Write start.sh, and what else provision has generated for the directory, anew where it is damaged.

    Return whether anything was.
    """
    from provisioner.start_files.completeness import complete_files, has_documents

    if has_documents(directory, record, trust):
        return complete_files(directory, record, script_shell(), trust, console)
    return False


def exact_source(record: Record) -> SourceName:
    """Return the source of the very image that a directory was made of. Raises UsageError."""
    name = parse_source(record.reference)
    if isinstance(name, RegistryName):
        return RegistryName(name.reference.at(Digest.parse(record.manifest_digest)))
    return name


def image_of(source: Source, record: Record) -> Image:
    """Return the image that a directory was made of. Raises NotFound where the source has another one by now."""
    platform = Platform.parse(record.platform)
    image = source.image(platform).image
    if str(image.digest) != record.manifest_digest:
        raise NotFound(
            f"{printable(record.reference)} isn't the image any more that this was made of",
            "take the files from a backup, or provision the image to another directory",
        )
    return image


def _show(damages: Sequence[Damage], left: int, arguments: argparse.Namespace, console: Console) -> None:
    """Show what is damaged, as data, and say what isn't looked at."""
    if arguments.json:
        rows = [
            {"path": "/" + os.fsdecode(damage.path), "what": [aspect.value for aspect in damage.aspects]}
            for damage in damages
        ]
        write_json({"damaged": rows})
    else:
        write_lines(f"{damage.text}: {printable(b'/' + damage.path)}" for damage in damages)
    if left:
        differ = counted(left, "more file differs", "more files differ")
        console.step(
            f"{differ} from the image, perhaps on purpose: provision diff shows what, and --all puts it back too"
        )
    if not damages:
        console.step("no file of the image is damaged or missing")


def _report(done: Repaired, shown: str, console: Console) -> int:
    """Say what was done, and return the exit status."""
    console.step(f"put back {counted(done.count, 'file')} of {shown}")
    if not done.blocked:
        return 0
    names = ", ".join(printable(b"/" + path) for path in done.blocked[:_SHOWN])
    console.step(f"left as they are, since something else is in the way: {len(done.blocked)}: {names}")
    return DAMAGED
