"""Small scripts in a directory of PATH that start a container, or a program of one.

A comment in each says which container it is for. Scripts without that comment are somebody else's, and never touched.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from provisioner.container_files import SCRIPT
from provisioner.errors import MachineError, TargetExists, UsageError, machine_errors
from provisioner.filesystem.atomic import replace_in
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.filesystem.user_directories import home_directory
from provisioner.terminal.escaping import printable, shell_line

_MARK = "# Written by provision for "
_EXPOSED = "export PROVISION_WRAPPER=yes"
"""A line that only scripts have that run a program of a container."""
_LONGEST = 64 << 10
"""The most bytes of a file that are looked at."""


@dataclass(frozen=True)
class Wrapper:
    """A script that provision has written."""

    path: Path
    directory: str
    """The directory of the container."""
    is_exposed: bool
    """Whether it runs a program of the container, and doesn't start it: `expose` has written it, not `link`."""


def program_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where scripts go: `$PREFIX/bin` in Termux, else `~/.local/bin`. Raises MachineError without a home."""
    prefix = environment.get("PREFIX", "")
    if prefix.startswith("/data/") and os.path.isdir(f"{prefix}/bin"):
        return Path(prefix, "bin")
    home = home_directory(environment)
    if home is None:
        raise MachineError("this user has no home directory", "set HOME")
    return home / ".local/bin"


def check_wrapper(folder: Path, name: str, directory: Path) -> Path:
    """Return the path of the script `name` for a container. Raises UsageError and TargetExists where it can't be."""
    if not name or name.startswith((".", "-")) or "/" in name or not name.isprintable():
        raise UsageError(f"{printable(name)!r} can't be the name of a program", "name it by letters and digits")
    path = folder / name
    if "\n" in str(directory):
        raise UsageError("the directory's name has a line break", "rename the directory")
    if not os.path.lexists(path):
        return path
    other = _wrapper_at(path)
    if other is None:
        raise TargetExists(
            f"{printable(str(path))} is there, and provision didn't write it", "choose another name, or move it away"
        )
    if other.directory != str(directory) and os.path.lexists(os.path.join(other.directory, SCRIPT)):
        command = "expose" if other.is_exposed else "link"
        remove = shell_line(["provision", command, other.directory, name, "--remove"])
        raise TargetExists(f"{printable(str(path))} starts {printable(other.directory)}", f"remove it first: {remove}")
    return path


def write_wrapper(folder: Path, name: str, directory: Path, command: str, head: str = "#!/bin/sh\n") -> Path:
    """Write the script `name`, which runs the shell text `command`, and return its path.

    `head` is what the file begins with. Raises what `check_wrapper` does, and MachineError.
    """
    path = check_wrapper(folder, name, directory)
    text = f"{head}{_MARK}{directory}\n{command}\n"
    with machine_errors(f"write {printable(str(path))}"):
        folder.mkdir(parents=True, exist_ok=True)
        with closing_descriptor(os.open(os.path.realpath(folder), DIRECTORY)) as opened:
            replace_in(opened, name, os.fsencode(text), 0o755)
    return path


def find_wrappers(folder: Path, directory: Path | None = None) -> Iterator[Wrapper]:
    """Yield the scripts of provision in a folder, by name; only those for `directory` where it is given."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        found = _wrapper_at(folder / name)
        if found is not None and (directory is None or found.directory == str(directory)):
            yield found


def remove_wrapper(wrapper: Wrapper) -> None:
    """Remove a script. Raises MachineError."""
    with machine_errors(f"remove {printable(str(wrapper.path))}"), suppress(FileNotFoundError):
        wrapper.path.unlink()


def move_wrapper(wrapper: Wrapper, target: Path) -> bool:
    """Have a script start the container at its new place. Returns False where that isn't possible: it was edited.

    Raises MachineError.
    """
    former = Path(wrapper.directory)
    changes = {f"\n{written(former, '')}": f"\n{written(target, '')}" for written in (start_command, desktop_command)}
    with machine_errors(f"write {printable(str(wrapper.path))}"):
        text = os.fsdecode(wrapper.path.read_bytes())
        line = next((line for line in changes if line in text), None)
        if line is None or "\n" in str(target):
            return False
        text = text.replace(line, changes[line], 1).replace(f"{_MARK}{former}\n", f"{_MARK}{target}\n", 1)
        with closing_descriptor(os.open(os.path.realpath(wrapper.path.parent), DIRECTORY)) as folder:
            replace_in(folder, wrapper.path.name, os.fsencode(text), stat.S_IMODE(wrapper.path.stat().st_mode))
    return True


def is_on_path(folder: Path) -> bool:
    """Return whether a shell finds programs in `folder`."""
    return str(folder) in os.environ.get("PATH", "").split(os.pathsep)


def start_command(directory: Path, words: str) -> str:
    """Return the line of a script that becomes start.sh with these words, which are shell text."""
    return f"exec {shlex.quote(str(directory / SCRIPT))} {words}"


def refuse_recursion(name: str) -> str:
    """Return the lines of a script that fail where start.sh runs it in place of a program that it needs itself.

    start.sh looks in the folder of such scripts last.
    """
    problem = f"{name}: start.sh needs this machine's own {name}, and found the container's"
    return f"""\
[ -z "${{PROVISION_WRAPPER-}}" ] || {{ echo {shlex.quote(problem)} >&2; exit 125; }}
{_EXPOSED}
"""


def desktop_command(directory: Path, words: str) -> str:
    """Return the line of a desktop entry (freedesktop.org's specification) that runs start.sh with these words."""
    quoted = str(directory / SCRIPT)
    for character in '\\"`$':
        quoted = quoted.replace(character, f"\\{character}")
    program = quoted.replace("\\", "\\\\").replace("%", "%%")
    return f'Exec="{program}" {words}'


def _wrapper_at(path: Path) -> Wrapper | None:
    """Return the script at a path; None where there is none of provision."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return None
        with open(path, "rb") as file:
            lines = os.fsdecode(file.read(_LONGEST)).splitlines()
    except OSError:
        return None
    directory = next((line.removeprefix(_MARK) for line in lines[:12] if line.startswith(_MARK)), None)
    return None if directory is None else Wrapper(path, directory, _EXPOSED in lines)
