"""The command line: runs one subcommand, prints its error if it fails, and returns the exit status."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from provisioner import __version__
from provisioner.commands import (
    cache,
    doctor,
    inspect,
    install,
    listing,
    login,
    logout,
    mirrors,
    owners,
    search,
    tags,
)
from provisioner.errors import MachineError, MalformedImage, ProvisionError, UsageError, lacks_resources
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console

GROUPS = {
    "Containers": {"install": install, "list": listing, "owners": owners, "doctor": doctor},
    "Images": {"search": search, "tags": tags, "inspect": inspect},
    "Registries and the cache": {"login": login, "logout": logout, "mirrors": mirrors, "cache": cache},
}
"""The subcommands in the order of `provision --help`: modules with HELP, EXAMPLE, `add_arguments` and `run`."""
COMMANDS = {name: module for group in GROUPS.values() for name, module in group.items()}

PLANNED = ("update", "export", "remove")
"""Names of subcommands to come. They can't be used for images without `install`, so that they stay free."""

INTERRUPTED = 130

_START_OPTIONS = re.compile(
    "-[itd]+|-[puwh].*|--(interactive|tty|detach|rm|name|publish|user|workdir|entrypoint|network|privileged|hostname"
    "|env-file|mount|shell|root|read-only|ephemeral|cap-add|device|exec|x11|sound|gpu)"
)
"""Options of `docker run`, and of start.sh, that provision doesn't have."""


class _Parser(argparse.ArgumentParser):
    """A parser that raises UsageError."""

    lists_commands = False
    """Whether the help ends with the list of subcommands."""

    def error(self, message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2].split()
        option = next((word.partition("=")[0] for word in unknown if word.startswith("-")), "")
        if _START_OPTIONS.fullmatch(option):
            raise UsageError(
                printable(message), f"{option} is for the start: provision IMAGE DIR, then DIR/start.sh {option}"
            )
        near = difflib.get_close_matches(option, self._option_string_actions, 1)
        suggestion = f"did you mean {near[0]}? All options: " if near else ""
        raise UsageError(printable(message), f"{suggestion}{self.prog} --help")

    def format_help(self) -> str:
        text = super().format_help()
        return f"{text}\n{_command_list()}" if self.lists_commands else text


class _Terminated(BaseException):
    """SIGTERM or SIGHUP arrived."""

    status: int
    """The exit status of a process that such a signal ends, as shells give it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number


def main(argv: Sequence[str] | None = None) -> int:
    """Run `provision` with these arguments, by default those of the process, and return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    _open_missing_streams()
    _leave_out_relative_directories()
    console = Console()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, _raise_terminated)
    try:
        return _run(words)
    except ProvisionError as error:
        console.error(error.message, _typo_hint(words, error) or error.hint)
        return error.status
    except KeyboardInterrupt:
        console.error("interrupted")
        return INTERRUPTED
    except _Terminated as terminated:
        console.error("ended by a signal")
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


def _run(words: list[str]) -> int:
    """Run one command and return its exit status.

    A signal may arrive while a file is being closed. What fails in cleaning up after it doesn't hide it: it is raised.
    """
    try:
        arguments = _parse(words)
        return int(arguments.run(arguments))
    except Exception as error:
        if signalled := next(filter(_is_signal, _chain(error)), None):
            raise signalled from None
        raise


def _is_signal(error: BaseException) -> bool:
    return isinstance(error, KeyboardInterrupt | _Terminated)


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error with those that it was raised from, or while they were handled. They may run in a circle."""
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
    """Leave out the directories of `PATH` that are relative or empty: what is in the current one is whoever's."""
    words = os.environ.get("PATH", "/").split(os.pathsep)
    absolute = [word for word in words if os.path.isabs(word)]
    if absolute != words:
        os.environ["PATH"] = os.pathsep.join(absolute) or os.defpath.strip(os.pathsep)


def _typo_hint(words: list[str], error: ProvisionError) -> str:
    """Return a hint where IMAGE looks like the name of a subcommand with a typo, or behind an option; else "".

    Errors that such a typo doesn't lead to get none, since an image may have such a name.
    """
    at = next((at for at, word in enumerate(words) if not word.startswith("-")), None)
    if at is None or words[0] in COMMANDS or isinstance(error, MachineError | MalformedImage):
        return ""
    near = difflib.get_close_matches(words[at], COMMANDS, 1)
    if not near:
        return ""
    suggestion = shlex.join(["provision", near[0], *words[:at], *words[at + 1 :]])
    return "; ".join(filter(None, (f"did you mean: {printable(suggestion)}", error.hint)))


def _raise_terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise _Terminated(number)


def _command_list() -> str:
    """Return the subcommands in groups, one line each."""
    width = max(map(len, COMMANDS))
    lines = []
    for title, group in GROUPS.items():
        lines.append(f"{title}:")
        lines += (f"  {name:<{width}}  {command.HELP}" for name, command in group.items())
        lines.append("")
    return "\n".join([*lines, "Options of a subcommand: provision NAME --help; `install` may be left out.", ""])


def _parse(words: list[str]) -> argparse.Namespace:
    """Return the arguments of one subcommand, with its function as `run`. The name `install` may be left out."""
    if words and words[0] in PLANNED:
        raise UsageError(
            f"`provision {words[0]}` is not there yet", f"an image of that name: provision install {words[0]} DIR"
        )
    name = words[0] if words and words[0] in COMMANDS else ""
    command = COMMANDS[name or "install"]
    parser = _Parser(
        prog=f"provision {name}".strip(),
        description=f"{command.HELP}: {command.EXAMPLE}",
        epilog="Exit status: 0 done, 1 unexpected, 2 usage, 3 not found, 4 not allowed, 5 network, 6 bad content, "
        "7 this machine can't, 8 DIR is in the way, 130 interrupted.",
        allow_abbrev=False,
    )
    parser.lists_commands = not name
    parser.add_argument("--version", action="version", version=f"provision {__version__}")
    command.add_arguments(parser)
    parser.set_defaults(run=command.run)
    return parser.parse_args(words[1:] if name else words)
