"""The command line: runs one subcommand, prints its error if it fails, and returns the exit status."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, TextIO, cast

from provisioner.commands import install
from provisioner.commands.first_word import check_first_word, instead_of, operand_positions
from provisioner.commands.foreign_options import BY_SUBCOMMAND
from provisioner.commands.output import write_lines
from provisioner.commands.parser import Parser, add_common_options
from provisioner.commands.start_options import TAKES_VALUE, with_volume_options
from provisioner.errors import ProvisionError, UsageError, lacks_resources
from provisioner.signals import Terminated, forget_waiting, interruptible, raise_on
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console
from provisioner.terminal.tables import COLOUR_CHOICES, ColourChoice, Screen
from provisioner.terminal.wrapping import fill


class Command(Protocol):
    """A subcommand: a module of `provisioner/commands/`, or an object, with these names."""

    @property
    def HELP(self) -> str:  # noqa: N802
        """What it does, in one line for the overview and the man page."""

    @property
    def EXAMPLE(self) -> str:  # noqa: N802
        """A typical command line."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its arguments to its parser."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do the work, and return the exit status. Raises ProvisionError."""


GROUPS: Mapping[str, Mapping[str, str]] = {
    "Containers": {"install": "install", "list": "listing", "owners": "owners", "doctor": "doctor"},
    "Running them": {
        "run": "run",
        "start": "starting.START",
        "shell": "starting.SHELL",
        "exec": "starting.EXEC",
        "stop": "stop",
        "logs": "logs",
        "config": "config",
        "link": "link",
        "expose": "expose",
    },
    "The life of a container": {
        "diff": "diff",
        "update": "update",
        "backup": "backup",
        "restore": "restore",
        "export": "export",
        "push": "push",
        "copy": "copy",
        "move": "move",
        "repair": "repair",
        "remove": "remove",
    },
    "Images": {"search": "search", "tags": "tags", "inspect": "inspect"},
    "Registries and the cache": {"login": "login", "logout": "logout", "mirrors": "mirrors", "cache": "cache"},
    "This program": {"completion": "completion"},
}
"""The subcommands in the order of `provision --help`: by name the module in `provisioner/commands/`, or an object in
it."""


class Commands(Mapping[str, Command]):
    """The subcommands by name. Each is imported at its first use, since one process needs only one of them."""

    _places: Mapping[str, str] = {name: place for group in GROUPS.values() for name, place in group.items()}

    def __getitem__(self, name: str) -> Command:
        """Import a subcommand and return it. Raises KeyError for an unknown name."""
        module, _, attribute = self._places[name].partition(".")
        imported = importlib.import_module(f"provisioner.commands.{module}")
        return cast(Command, getattr(imported, attribute) if attribute else imported)

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(self._places)

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        """Return whether there is such a subcommand, without importing it."""
        return name in self._places


COMMANDS = Commands()

SUMMARY = "provision turns a container image into a directory that runs: no Docker, no daemon, no root."
_MORE_HELP = "`install` may be left out. Options and an example of each: provision help NAME"
EXIT_STATUSES = (
    "Exit status: 0 done, 1 unexpected, 2 usage, 3 not found, 4 not allowed, 5 network, 6 bad content, "
    "7 this machine can't, 8 DIR is in the way, 9 an update is there, 130 interrupted."
)
INTERRUPTED = 130
_COMMAND_LATER = "; a command comes later: DIR/start.sh COMMAND"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `provision` with these arguments, by default those of the process, and return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    _open_missing_streams()
    _leave_out_relative_directories()
    console = Console(colour=_colour(words))
    raise_on(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    try:
        return interruptible(lambda: _run(words))
    except ProvisionError as error:
        console.error(error.message, error.hint)
        return error.status
    except KeyboardInterrupt as interrupt:
        console.error("interrupted", "; ".join(getattr(interrupt, "__notes__", ())))
        return INTERRUPTED
    except Terminated as terminated:
        console.error("ended by a signal", "; ".join(getattr(terminated, "__notes__", ())))
        return terminated.status
    except BrokenPipeError:  # the reader of standard output is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except Exception as error:
        if os.environ.get("PROVISION_DEBUG"):
            raise
        if shortage := lacks_resources(error):
            console.error(shortage.message, shortage.hint)
            return shortage.status
        console.error(
            f"unexpected: {type(error).__name__}: {printable(str(error))}",
            "this is a bug in provision: please report it; PROVISION_DEBUG=1 shows the traceback",
        )
        return ProvisionError.status
    finally:
        forget_waiting()


def _colour(words: Sequence[str]) -> ColourChoice:
    """Return the value of `--color` on a command line that may be wrong; `auto` without a valid value."""
    for at, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == "--color":
            said = value if equals else next(iter(words[at + 1 :]), "")
            return next((choice for choice in COLOUR_CHOICES if choice == said), "auto")
    return "auto"


def _run(words: list[str]) -> int:
    """Run one command and return its exit status.

    A signal may arrive while a file is being closed. If the cleanup then fails too, the exception of the signal is
    raised.
    """
    try:
        arguments = _parse(words)
        return int(arguments.run(arguments))
    except Exception as error:
        if signalled := next(filter(_is_signal, _chain(error)), None):
            raise signalled from None
        raise


def _is_signal(error: BaseException) -> bool:
    return isinstance(error, KeyboardInterrupt | Terminated)


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error and its causes and contexts, from the last to the first. They may be circular."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return chain


def _open_missing_streams() -> None:
    """Open /dev/null for each standard stream that is closed (`>&-`).

    Otherwise a file that is opened later would get its number, and writing to the stream would fail.
    """
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _leave_out_relative_directories() -> None:
    """Remove relative and empty directories from `PATH`: a program in the current one may belong to anybody."""
    words = os.environ.get("PATH", "/").split(os.pathsep)
    absolute = [word for word in words if os.path.isabs(word)]
    if absolute != words:
        os.environ["PATH"] = os.pathsep.join(absolute) or os.defpath.strip(os.pathsep)


def _overview(stream: TextIO) -> str:
    """Return what `provision --help` prints: what it is, the main job, and the subcommands in groups."""
    width, columns = max(map(len, COMMANDS)), Screen.of(stream).width
    indent = " " * (width + 4)
    lines = [fill(SUMMARY, columns, ""), "", f"    {install.EXAMPLE}", ""]
    for title, group in GROUPS.items():
        lines.append(f"{title}:")
        for name in group:
            text = fill(COMMANDS[name].HELP, columns and columns - len(indent), "").replace("\n", f"\n{indent}")
            lines.append(f"  {name:<{width}}  {text}")
        lines.append("")
    return "\n".join([*lines, fill(_MORE_HELP, columns, "")])


def _parse(words: list[str]) -> argparse.Namespace:
    """Return the arguments of one subcommand, with its function as `run`. The name `install` may be left out.

    Raises UsageError. `--help` and `--version` raise SystemExit when they have printed.
    """
    words = _with_subcommand_first(words)
    if words and words[0] == "help":
        return _parse([*_subcommand(words[1:]), "--help"])
    name = words[0] if words and words[0] in COMMANDS else ""
    if not name:
        _answer_without_subcommand(words)
    command, arguments = COMMANDS[name or "install"], words[1:] if name else words
    parser = _parser(name)
    if "--volume" in parser.options:
        arguments = with_volume_options(arguments)
    parser.set_defaults(run=command.run)
    return parser.parse(arguments)


def _with_subcommand_first(words: list[str]) -> list[str]:
    """Return a command line with the name of its subcommand before the options that precede it."""
    if not words or not words[0].startswith("-"):
        return words
    words = with_volume_options(words)
    positions = operand_positions(words, _takes_value)
    if positions and words[positions[0]] in (*COMMANDS, "help") and "--" not in words[: positions[0]]:
        at = positions[0]
        return [words[at], *words[:at], *words[at + 1 :]]
    return words


def _takes_value(option: str) -> bool:
    """Return whether an option has a value: with `install`, else with any subcommand, else with start.sh."""
    for name in ("install", *COMMANDS):
        parser = _parser(name)
        if option in parser.options:
            return parser.takes_value(option)
    return option in TAKES_VALUE or option in ("-o", "--output")  # of docker save


def _subcommand(words: list[str]) -> list[str]:
    """Return a list with the subcommand whose help is asked for, or an empty one. Raises UsageError."""
    words = [word for word in words if not word.startswith("-")]
    if words[:1] == ["help"]:
        return []
    if words and words[0] not in COMMANDS:
        instead = instead_of([words[0]], [], COMMANDS)
        raise UsageError(f"there is no subcommand {printable(words[0])}", instead or "all of them: provision help")
    return words[:1]


def _answer_without_subcommand(words: list[str]) -> None:
    """Print the overview and raise SystemExit if it is asked for. Raises UsageError if the first word can't be an
    image."""
    if not words:
        sys.stderr.write(f"{_overview(sys.stderr)}\n")
        raise SystemExit(UsageError.status)
    if words in (["--help"], ["-h"]):
        write_lines([_overview(sys.stdout)])
        raise SystemExit(0)
    words = with_volume_options(words)
    check_first_word(words, operand_positions(words, _takes_value), COMMANDS)


def _parser(name: str) -> Parser:
    """Return the parser of a subcommand, by default that of `install`."""
    command = COMMANDS[name or "install"]
    parser = Parser(
        prog=f"provision {name}".strip(),
        description=f"{command.HELP}: {command.EXAMPLE}",
        epilog=EXIT_STATUSES,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    add_common_options(parser, getattr(command, "QUIET", "show errors only"))
    parser.synonyms = BY_SUBCOMMAND.get(name or "install", {})
    parser.subcommands = () if name else COMMANDS
    parser.rest_hint = {
        "": _COMMAND_LATER,
        "install": _COMMAND_LATER,
        "config": "; to change something: provision config NAME --set KEY=VALUE",
        "login": "; a shell in a container: provision shell NAME",
        "update": "; to another image: --to IMAGE",
    }.get(name, "")
    parser.find_owner = lambda option: _owner_of(option, name or "install")
    return parser


def _owner_of(option: str, name: str) -> str:
    """Return the command that has this option, or two of them; empty where `name` has it, or more than two do."""
    owners = [other for other in COMMANDS if other != name and option in _parser(other).options]
    if "install" in owners and "run" in owners:  # those that start a container have it from start.sh
        owners = [owner for owner in owners if owner not in ("run", "start", "shell", "exec")]
    if len(owners) > 2:
        return ""
    return " and ".join("provision IMAGE DIR" if owner == "install" else f"provision {owner}" for owner in owners)
