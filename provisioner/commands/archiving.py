"""What `backup`, `export` and `push` have in common: a directory that is read, and the file that an archive goes to."""

from __future__ import annotations

import argparse
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from typing import TYPE_CHECKING, TypeVar

from provisioner.commands.container_names import check_order, find_container
from provisioner.commands.output import make_console, output_errors
from provisioner.commands.subordinate_ids import run_with_subordinate_ids
from provisioner.commands.trusting import add_trust_argument, trusted_directories
from provisioner.errors import HINTS, MachineError, machine_errors
from provisioner.sizes import counted, size_text
from provisioner.terminal.escaping import printable

if TYPE_CHECKING:
    from provisioner.container.opened import OpenedContainer
    from provisioner.exports.owners import OwnerSource
    from provisioner.exports.tree_files import FilesReport
    from provisioner.terminal.progress import Console

    ArchiveFunction = Callable[
        [OpenedContainer, Callable[[bytes], None], Sequence[str]], tuple[FilesReport, OwnerSource]
    ]

_Result = TypeVar("_Result")
_SHOWN = 5
_FLAGS = ("no_sync", "trust_dir", "quiet", "verbose", "squash", "insecure", "offline")
_VALUES = ("exclude", "format", "tag", "change", "comment", "mirror")
"""The options of these subcommands, all of them."""


def add_archive_arguments(parser: argparse.ArgumentParser, file_help: str) -> None:
    """Add the arguments of a subcommand that writes an archive."""
    parser.add_argument("directory", metavar="NAME|DIR", help="a provisioned directory, or its name")
    parser.add_argument("file", metavar="FILE", help=file_help)
    parser.add_argument(
        "--exclude",
        metavar="PATTERN",
        action="append",
        default=[],
        help="leave out paths of the container that match, as var/cache/*; repeatable",
    )
    parser.add_argument(
        "--no-sync", action="store_true", help="don't wait for the disk: faster, but a power cut may damage FILE"
    )
    add_trust_argument(parser)


def write_archive(
    command: str, arguments: argparse.Namespace, write: ArchiveFunction, *, is_image: bool = False
) -> int:
    """Write an archive of a directory by the function `write`, and say what it has and lacks. Raises ProvisionError.

    An archive that `is_image` has files of its own only where some were changed.
    """
    from provisioner.archives.compressing import compression_for, compressor
    from provisioner.container.removing import check_in_place
    from provisioner.exports.output_file import STANDARD_OUTPUT, check_not_below, output_file

    console = make_console(arguments)
    check_order([command], arguments.directory, arguments.file)

    def use(container: OpenedContainer) -> int:
        check_not_below(arguments.file, container.path)
        is_piped, kind = arguments.file == STANDARD_OUTPUT, compression_for(arguments.file)
        with output_file(arguments.file, sync=not arguments.no_sync) as output:
            output_context = output_errors() if is_piped else machine_errors(f"write {printable(arguments.file)}")

            def job() -> tuple[FilesReport, OwnerSource]:
                with closing(compressor(kind, lambda data: _write_all(output, data), output)) as packer:
                    result = write(container, packer.write, arguments.exclude)
                    packer.finish()
                return result

            # An image says itself how far it is.
            with output_context, nullcontext() if is_image else _progress(arguments.file, output, console):
                report, owners = call(job, container.path.name)
            check_in_place(container.top, container.path)
        for line in describe_files(report, owners):
            console.step(line)
        console.step(f"wrote {', '.join(_summary(arguments.file, report, is_image=is_image))}")
        return 0

    return use_directory(command, arguments, console, use)


def _progress(file: str, output: int, console: Console) -> AbstractContextManager[None]:
    """Return a context that shows how much of a file is written, by its open descriptor."""
    count = (lambda: size_text(os.fstat(output).st_size)) if stat.S_ISREG(os.fstat(output).st_mode) else None
    return console.activity(f"writing {printable(file)}" if count else "writing", count)


def _summary(file: str, report: FilesReport, *, is_image: bool) -> Iterator[str]:
    """Yield what was written to a file: its size, and what is in it."""
    if file != "-":
        yield f"{printable(file)}: {size_text(os.stat(file).st_size)}"
    if is_image:
        yield f"{counted(report.files, 'changed file')} of {size_text(report.content)}"
    else:
        yield counted(report.files, "file")
        yield f"{size_text(report.content)} unpacked"


def use_directory(
    command: str, arguments: argparse.Namespace, console: Console, use: Callable[[OpenedContainer], int]
) -> int:
    """Open DIR, and return what `use` returns for it.

    Where files in it belong to subordinate ids, `provision COMMAND` runs once more in a namespace that has these.
    Raises ProvisionError.
    """
    from provisioner.container.opened import opened_container
    from provisioner.container.removing import find_file_owners
    from provisioner.container.running import describe_running

    trust, shown = trusted_directories(arguments), printable(arguments.directory)
    source = find_container(arguments.directory, trust)
    with opened_container(source, trust, shown) as container:
        if owners := find_file_owners(container.top, source):
            return run_with_subordinate_ids(arguments.directory, owners, _repeated_words(command, arguments))
        for line in describe_running(source, shown, "archive"):
            console.step(line)
        container.check_ownership_record()
        return use(container)


class _OutputError(Exception):
    """An OSError of the output, which must not be taken for one of the files that are read."""


def call(job: Callable[[], _Result], name: str) -> _Result:
    """Call `job`, and turn an error of a file that can't be read into a MachineError. Raises OSError of the output."""
    try:
        return job()
    except _OutputError as error:
        assert isinstance(error.__cause__, OSError)
        raise error.__cause__ from None
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        # The name may be missing, or be the number of a descriptor.
        is_named = isinstance(error.filename, str | bytes)
        file = printable(error.filename) if is_named else f"a file in {printable(name)}"
        raise MachineError(f"read {file}: {reason}", HINTS.get(error.errno or 0, "")) from error


def _write_all(output: int, data: bytes) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(output, view) :]
    except OSError as error:
        raise _OutputError from error


def describe_files(report: FilesReport, owners: OwnerSource) -> list[str]:
    """Return a line for each kind of thing that an archive lacks, or that had to be found out."""
    lines = []
    if report.sockets:
        sockets = counted(report.sockets, "socket was", "sockets were")
        lines.append(f"{sockets} left out: archives can't have any, and programs make them anew")
    for paths, one, many, text in (
        (report.lost_links, "hard link of proot has", "hard links of proot have", "no content any more"),
        (report.changed, "file was", "files were", "written to while being read"),
        (report.vanished, "file was", "files were", "removed while others were read"),
        (report.mounted, "file or directory was", "files and directories were", "left out: something is mounted there"),
    ):
        if paths:
            names = ", ".join(printable(path) for path in paths[:_SHOWN])
            lines.append(
                f"{counted(len(paths), one, many)} {text}: {names}{' and more' if len(paths) > _SHOWN else ''}"
            )
    if report.excluded:
        lines.append(f"{counted(report.excluded, 'file or directory was', 'files and directories were')} excluded")
    if count := sum(owners.counts.values()):
        by = ", ".join(f"{number} by {source}" for source, number in sorted(owners.counts.items()) if number)
        lines.append(f"{counted(count, 'file')} that the image doesn't have got an owner other than root: {by}")
    return lines


def _repeated_words(command: str, arguments: argparse.Namespace) -> list[str]:
    """Return the words of a command line that does the same."""
    words = []
    for name, value in vars(arguments).items():
        option = f"--{name.replace('_', '-')}"
        if name in _FLAGS and value:
            words.append(option)
        elif name in _VALUES and value:
            words += [f"{option}={text}" for text in (value if isinstance(value, list) else [value])]
    target = arguments.file if hasattr(arguments, "file") else arguments.reference
    return [command, *words, "--", arguments.directory, target]
