"""From the command line to one call; the only place that prints errors and picks an exit status."""

from __future__ import annotations

import argparse
import difflib
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from provisioner import __version__
from provisioner.commands import cache, doctor, inspect, install, listing, login, logout, owners, search, tags
from provisioner.errors import MachineError, MalformedImage, ProvisionError, UsageError, lacks_resources
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console

COMMANDS = {
    "install": install,
    "search": search,
    "tags": tags,
    "inspect": inspect,
    "owners": owners,
    "list": listing,
    "cache": cache,
    "login": login,
    "logout": logout,
    "doctor": doctor,
}
"""The subcommands: modules with a HELP line, `add_arguments` and `run`."""

PLANNED = ("update", "export", "remove")
"""Words that are kept for subcommands to come, so that they don't get used for images meanwhile."""

INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2].split()
        option = next((word.partition("=")[0] for word in unknown if word.startswith("-")), "")
        near = difflib.get_close_matches(option, self._option_string_actions, 1)
        meant = f"did you mean {near[0]}? All options: " if near else ""
        raise UsageError(printable(message), f"{meant}{self.prog} --help")


class _Ended(BaseException):
    """A signal that asks to end; `status` is the exit status that shells give it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number


def main(argv: Sequence[str] | None = None) -> int:
    """Run `provision` with these arguments, the process's own by default, and give the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    _open_missing_streams()
    console = Console()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, _end)
    try:
        arguments = _parse(words)
        return int(arguments.run(arguments))
    except ProvisionError as error:
        console.error(error.message, _meant(words, error) or error.hint)
        return error.status
    except KeyboardInterrupt:
        console.error("interrupted")
        return INTERRUPTED
    except _Ended as ended:
        console.error("ended by a signal")
        return ended.status
    except BrokenPipeError:  # whoever reads our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except Exception as error:
        if os.environ.get("PROVISION_DEBUG"):
            raise
        if shortage := lacks_resources(error):
            console.error(shortage.message, shortage.hint)
            return shortage.status
        what = f"{type(error).__name__}: {printable(str(error))}"
        console.error(
            f"unexpected: {what}", "this is a mistake of provision: please report it; PROVISION_DEBUG=1 shows more"
        )
        return ProvisionError.status


def _open_missing_streams() -> None:
    """What was closed (`>&-`) becomes /dev/null: no file of ours gets its number, and writing to it is no accident."""
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _meant(words: list[str], error: ProvisionError) -> str:
    """A hint where words that were taken for IMAGE DIR look like a command with a typo, or one that isn't in front.

    It comes only with errors that such a typo leads to: an image may be called like that.
    """
    at = next((at for at, word in enumerate(words) if not word.startswith("-")), None)
    if at is None or words[0] in COMMANDS or isinstance(error, MachineError | MalformedImage):
        return ""
    near = difflib.get_close_matches(words[at], COMMANDS, 1)
    if not near:
        return ""
    meant = shlex.join(["provision", near[0], *words[:at], *words[at + 1 :]])
    return "; ".join(filter(None, (f"did you mean: {printable(meant)}", error.hint)))


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise _Ended(number)


def _parse(words: list[str]) -> argparse.Namespace:
    """The arguments of one command, whose function is in `run`. The main job's name may be left out."""
    if words and words[0] in PLANNED:
        raise UsageError(
            f"`provision {words[0]}` is not there yet", f"an image of that name: provision install {words[0]} DIR"
        )
    name = words[0] if words and words[0] in COMMANDS else ""
    command = COMMANDS[name or "install"]
    parser = _Parser(
        prog=f"provision {name}".strip(),
        description=command.HELP,
        epilog="Exit status: 0 done, 1 unexpected, 2 usage, 3 not found, 4 not allowed, 5 network, 6 bad content, "
        "7 this machine can't, 8 DIR is in the way, 130 interrupted.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"provision {__version__}")
    command.add_arguments(parser)
    parser.set_defaults(run=command.run)
    return parser.parse_args(words[1:] if name else words)
