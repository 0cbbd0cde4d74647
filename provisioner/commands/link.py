"""`provision link NAME|DIR [PROGRAM]`: a program on PATH that starts a container."""

from __future__ import annotations

import argparse
from pathlib import Path

from provisioner.commands.container_names import add_container_argument, checked_container
from provisioner.commands.output import make_console
from provisioner.commands.trusting import add_trust_argument
from provisioner.commands.wrappers import (
    Wrapper,
    desktop_command,
    find_wrappers,
    is_on_path,
    program_directory,
    remove_wrapper,
    start_command,
    write_wrapper,
)
from provisioner.errors import MachineError, NotFound
from provisioner.filesystem.user_directories import home_directory
from provisioner.terminal.escaping import printable, shell_word

HELP = "Put a program on PATH that starts a container"
EXAMPLE = "provision link ./debian"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `link`."""
    add_container_argument(parser)
    parser.add_argument("program", metavar="PROGRAM", nargs="?", help="its name; default: the directory's name")
    parser.add_argument("--desktop", action="store_true", help="also an entry in the menu of desktops (.desktop)")
    parser.add_argument("--widget", action="store_true", help="also a shortcut for Termux:Widget (~/.shortcuts)")
    parser.add_argument(
        "--remove", action="store_true", help="remove PROGRAM with its entries, or all of this container"
    )
    add_trust_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the script, or remove it. Raises TargetExists where somebody else's file has that name."""
    directory, console = checked_container(arguments.container, arguments), make_console(arguments)
    folder = program_directory()
    if arguments.remove:
        for wrapper in _found(directory, arguments.program):
            remove_wrapper(wrapper)
            console.step(f"removed {printable(str(wrapper.path))}")
        return 0
    name = arguments.program or directory.name
    command = start_command(directory, '"$@"')
    console.step(f"{write_wrapper(folder, name, directory, command)} starts {directory}")
    if arguments.widget:
        console.step(f"{write_wrapper(_shortcuts(), name, directory, command)} is a shortcut for Termux:Widget")
    if arguments.desktop:
        entry = write_wrapper(
            _applications(), _entry_name(name), directory, _entry(name, directory), head="[Desktop Entry]\n"
        )
        console.step(f"{entry} is an entry in the menu")
    if not is_on_path(folder):
        console.step(f"{folder} is not on PATH: add it, as with export PATH={shell_word(str(folder))}:$PATH")
    return 0


def _found(directory: Path, program: str | None) -> list[Wrapper]:
    """Return what `link` has made for a container: for this program, or all. Raises NotFound."""
    names = None if program is None else (program, _entry_name(program))
    found = [
        wrapper
        for wrapper in wrappers_of(directory)
        if not wrapper.is_exposed and (names is None or wrapper.path.name in names)
    ]
    if not found:
        what = "there is no program" if program is None else f"there is no program {printable(program)}"
        raise NotFound(f"{what} that starts {printable(str(directory))}", "all programs: provision expose --list")
    return found


def wrappers_of(directory: Path) -> list[Wrapper]:
    """Return all that `link` and `expose` have made for a container; nothing without a home directory."""
    if home_directory() is None:
        return []
    places = (program_directory(), _shortcuts(), _applications())
    return [wrapper for place in places for wrapper in find_wrappers(place, directory)]


def _entry(name: str, directory: Path) -> str:
    """Return the lines of a desktop entry (freedesktop.org's specification) that starts a container in a terminal."""
    command = desktop_command(directory, "--shell")
    return f"Type=Application\nName={name}\n{command}\nTerminal=true\nCategories=System;\n"


def _entry_name(program: str) -> str:
    return f"provision-{program}.desktop"


def _shortcuts() -> Path:
    return _home() / ".shortcuts"


def _applications() -> Path:
    return _home() / ".local/share/applications"


def _home() -> Path:
    home = home_directory()
    if home is None:
        raise MachineError("this user has no home directory", "set HOME")
    return home
