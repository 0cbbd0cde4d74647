"""`provision expose NAME|DIR PROGRAM…`: programs on PATH that run a container's programs in the current directory."""

from __future__ import annotations

import argparse
import os
import shlex
import stat
from collections.abc import Sequence
from pathlib import Path

from provisioner.commands.container_names import checked_container
from provisioner.commands.output import make_console, write_json, write_lines
from provisioner.commands.trusting import add_trust_argument
from provisioner.commands.wrappers import (
    Wrapper,
    check_wrapper,
    find_wrappers,
    is_on_path,
    program_directory,
    refuse_recursion,
    remove_wrapper,
    start_command,
    write_wrapper,
)
from provisioner.container_files import CONFIG, FOLDER, ROOTFS, SCRIPT
from provisioner.errors import MalformedImage, NotFound, UsageError, machine_errors
from provisioner.image.config import USUAL_PATH, ImageConfig
from provisioner.rootfs.tree import Tree, tree_errors
from provisioner.terminal.escaping import printable, shell_word
from provisioner.terminal.progress import Console

HELP = "Run a container's programs as if they were this machine's"
EXAMPLE = "provision expose ./debian gcc make"

_MOST_LINKS = 40
"""How many symlinks may lead to one another, as in the kernel."""
_HERE = '--here --umask "$(umask)"'
"""Options with which a program finds the current directory at the same path, and makes files as the caller would."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `expose`."""
    parser.add_argument("container", metavar="NAME|DIR", nargs="?", help="a provisioned directory, or its name")
    parser.add_argument("programs", metavar="PROGRAM", nargs="*", help="programs of the container: names, or paths")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--list", action="store_true", help="list the programs that link and expose have made")
    action.add_argument(
        "--remove", action="store_true", help="remove those that expose has made: PROGRAM…, or all of NAME|DIR"
    )
    parser.add_argument("--json", action="store_true", help="with --list: print them as JSON")
    add_trust_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the scripts, list or remove them. Raises NotFound for a program that the container lacks."""
    folder, console = program_directory(), make_console(arguments)
    if arguments.container is None and not arguments.list:
        raise UsageError("NAME|DIR is missing", f"as in {EXAMPLE}")
    directory = None if arguments.container is None else checked_container(arguments.container, arguments)
    if arguments.list:
        _list(folder, directory, as_json=arguments.json)
        return 0
    assert directory is not None
    if arguments.remove:
        for wrapper in _found(folder, directory, arguments.programs):
            remove_wrapper(wrapper)
            console.step(f"removed {printable(str(wrapper.path))}")
        return 0
    if not arguments.programs:
        raise UsageError("there is no PROGRAM", f"as in {EXAMPLE}")
    _write(arguments.programs, directory, folder, console)
    if not is_on_path(folder):
        console.step(f"{folder} is not on PATH: add it, as with export PATH={shell_word(str(folder))}:$PATH")
    return 0


def _list(folder: Path, directory: Path | None, *, as_json: bool) -> None:
    found = list(find_wrappers(folder, directory))
    if as_json:
        write_json({"programs": [{"program": str(entry.path), "directory": entry.directory} for entry in found]})
    else:
        write_lines(printable(f"{entry.path}: {entry.directory}") for entry in found)


def _write(given: Sequence[str], directory: Path, folder: Path, console: Console) -> None:
    """Write the scripts of programs, or none where one of them can't be. Raises ProvisionError."""
    programs: dict[str, str] = {}
    for name in given:
        program = programs.setdefault(os.path.basename(name), _from_root(name))
        if program != _from_root(name):
            raise UsageError(f"{printable(name)} and {printable(program)} have the same name", "expose one of them")
    check_programs(directory, given)
    for name in programs:
        check_wrapper(folder, name, directory)
    for name, program in programs.items():
        start = start_command(directory, f'{_HERE} --entrypoint {shlex.quote(program)} -- "$@"')
        path = write_wrapper(folder, name, directory, refuse_recursion(name) + start)
        console.step(f"{printable(str(path))} runs {printable(program)} of {printable(str(directory))}")


def _found(folder: Path, directory: Path, programs: Sequence[str]) -> list[Wrapper]:
    """Return the programs of a container with these names, or paths; all without any. Raises NotFound."""
    wrappers = [wrapper for wrapper in find_wrappers(folder, directory) if wrapper.is_exposed]
    names = {os.path.basename(program): program for program in programs}
    missing = [names[name] for name in names if name not in {wrapper.path.name for wrapper in wrappers}]
    if missing or not wrappers:
        shown = printable(str(directory))
        what = f"{printable(missing[0])} of {shown} is not exposed" if missing else f"nothing of {shown} is exposed"
        raise NotFound(what, "all that is: provision expose --list")
    return [wrapper for wrapper in wrappers if not names or wrapper.path.name in names]


def _from_root(program: str) -> str:
    """Return a name as it is, and a path from the container's root."""
    return f"/{program.lstrip('/')}" if "/" in program else program


def check_programs(directory: Path, programs: Sequence[str]) -> None:
    """Raise NotFound for a program that isn't in the container: by its path, or by a name on the image's PATH."""
    with machine_errors(f"look at {printable(str(directory))}"):
        config = ImageConfig.from_json((directory / FOLDER / CONFIG).read_bytes())
        tree = Tree(directory / ROOTFS)
    found = dict(entry.partition("=")[::2] for entry in config.env).get("PATH", USUAL_PATH)
    with tree, tree_errors("look at the rootfs"):
        for program in programs:
            places = [_from_root(program)] if "/" in program else [f"{folder}/{program}" for folder in found.split(":")]
            if not any(_is_program(tree, os.fsencode(place)) for place in places):
                raise NotFound(
                    f"{printable(program)} is not in {printable(str(directory))}",
                    f"install it there first: {shell_word(str(directory / SCRIPT))} --shell",
                )


def _is_program(tree: Tree, path: bytes) -> bool:
    """Return whether an executable file is at a path of the rootfs, symlinks followed as inside."""
    for _ in range(_MOST_LINKS):
        try:
            place = tree.locate(path, create=False)
            status = tree.lstat(place)
        except (FileNotFoundError, NotADirectoryError, MalformedImage):  # the latter climbs out of the root
            return False
        if not stat.S_ISLNK(status.st_mode):
            return stat.S_ISREG(status.st_mode) and bool(status.st_mode & 0o111)
        path = os.path.join(os.path.dirname(place.path), os.readlink(place.name, dir_fd=place.directory))
    return False
