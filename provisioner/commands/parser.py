"""The parser of one subcommand: options that all have, and errors in words that tell what to type."""

from __future__ import annotations

import argparse
import difflib
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn

from provisioner import __version__
from provisioner.commands.foreign_options import EVERYWHERE
from provisioner.commands.start_options import START_OPTIONS, ForStart
from provisioner.commands.unexpanded import check_unexpanded_paths
from provisioner.errors import UsageError
from provisioner.terminal.escaping import printable
from provisioner.terminal.tables import COLOUR_CHOICES
from provisioner.terminal.wrapping import fill

_SIMILAR = 0.7
_MARK = "\0"
"""No word of a command line has it."""
_SHORT_START_OPTIONS = re.compile("-[itd]+|-[puw][0-9/:=].*")
"""One-letter options of start.sh that are joined, or have their value in the same word."""
_WITH_NUMBER = re.compile("(-[a-zA-Z])[0-9]+")
"""A one-letter option with a number in the same word, as -j4."""
_ARGUMENT_ERROR = re.compile("argument ([^ ]+): (.*)", re.DOTALL)
_CHOICES = re.compile("invalid choice: (.*) \\(choose from (.*)\\)", re.DOTALL)
_EXCLUDED = re.compile("not allowed with argument (.*)")


class _HelpFormatter(argparse.HelpFormatter):
    """Shows the value of an option once, behind all its names."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        return f"{', '.join(action.option_strings)} {self._format_args(action, action.dest.upper())}"


class Parser(argparse.ArgumentParser):
    """A parser that raises UsageError. All its options can be found by the names in `options`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, formatter_class=_HelpFormatter)

    def format_help(self) -> str:
        """Return the help in lines that fit the terminal. Its first line has no options: they are listed below."""
        line = fill(f"usage: {self._usage('[OPTION]...')}", shutil.get_terminal_size().columns, "    ")
        self.usage = line.removeprefix("usage: ").replace("%", "%%")
        return super().format_help()

    find_owner: Callable[[str], str] = staticmethod(lambda option: "")
    """Returns the subcommand that has an option which this one lacks; empty where none has."""

    subcommands: Collection[str] = ()
    """The names of all subcommands, for the parser that is used where none of them is typed."""

    synonyms: Mapping[str, str] = MappingProxyType({})
    """What to type for options that other tools have for the same job."""

    rest_hint = ""
    """What is added to the hint where there are too many words."""

    _words: Sequence[str] = ()
    _operands: Sequence[str] = ()

    @property
    def _help(self) -> str:
        """What to type for the help of this subcommand."""
        return f"provision help {self.prog.removeprefix('provision').strip() or 'install'}"

    @property
    def options(self) -> Sequence[str]:
        """Return the names of all options."""
        return [name for action in self._actions for name in action.option_strings]

    def takes_value(self, option: str) -> bool:
        """Return whether an option that this parser has is followed by a value."""
        return self._option_string_actions[option].nargs != 0

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Return the arguments of a command line, whose options may be anywhere. Raises UsageError."""
        self._words, self._operands = words, self._operand_words()
        arguments = self._parsed(words)
        for action in self._actions:
            if not isinstance(action, ForStart):  # which has checked its own
                check_unexpanded_paths(action, getattr(arguments, action.dest, None))
        return arguments

    def _parsed(self, words: Sequence[str]) -> argparse.Namespace:
        if any(action.nargs == argparse.REMAINDER for action in self._actions):
            return self.parse_args(words)
        # Options may also be between SOURCE and DIR, which need not be there.
        arguments = self.parse_intermixed_args(_with_marks(words))
        for name, value in vars(arguments).items():
            if isinstance(value, str):
                setattr(arguments, name, value.removeprefix(_MARK))
            elif isinstance(value, list) and all(isinstance(word, str) for word in value):
                setattr(arguments, name, [word.removeprefix(_MARK) for word in value])
        return arguments

    def error(self, message: str) -> NoReturn:
        """Raise the UsageError for what argparse found."""
        message = message.replace(_MARK, "").replace(repr(_MARK)[1:-1], "")
        if option := self._unknown_option():
            raise UsageError(f"there is no option {printable(option)}", self._option_hint(option))
        if found := _ARGUMENT_ERROR.fullmatch(message):
            raise self._argument_error(found[1], found[2])
        if words := message.partition("unrecognized arguments: ")[2]:
            raise UsageError(f"too many words: {printable(words)}", f"type {self._usage()}{self.rest_hint}")
        if names := message.partition("the following arguments are required: ")[2]:
            optional = [str(action.metavar) for action in self._actions if action.nargs == argparse.REMAINDER]
            missing = [name for name in names.split(", ") if name not in optional]
            verb = "is" if len(missing) == 1 else "are"
            raise UsageError(f"{' and '.join(missing)} {verb} missing", f"type {self._usage()}; {self._help}")
        raise UsageError(printable(message), f"{self._help}")

    def _unknown_option(self) -> str:
        """Return the first option on the command line that this parser doesn't have, without its value."""
        known = set(self.options)
        for word in self._words:
            if word == "--":
                return ""
            name = word.partition("=")[0]
            is_short = not word.startswith("--")
            if not word.startswith("-") or len(word) == 1 or name in known:
                continue
            if is_short and word[:2] in known and f"-{name}" not in known:
                continue
            if not re.fullmatch("-[0-9.]+.*", word):
                return name
        return ""

    def _option_hint(self, option: str) -> str:
        name = _WITH_NUMBER.sub(r"\1", option)
        if synonym := self.synonyms.get(name) or EVERYWHERE.get(name):
            return synonym
        is_install = self.prog in ("provision", "provision install")
        if is_install and (option in START_OPTIONS or _SHORT_START_OPTIONS.fullmatch(option)):
            return f"{option} is for the start: provision IMAGE DIR, then DIR/start.sh {option}"
        if option[2:] in self.subcommands and option.startswith("--"):
            return f"type provision {option[2:]}, without dashes"
        if option.startswith("--") and (owner := self.find_owner(option)):
            return f"{option} is an option of {owner}"
        near = difflib.get_close_matches(option.replace("_", "-"), self.options, 1, _SIMILAR)
        if near:
            return f"did you mean {near[0]}? All options: {self._help}"
        if not option.startswith("--") and len(option) > 2:
            return f"a name that begins with a dash is written ./{printable(option)}; all options: {self._help}"
        return f"all options: {self._help}"

    def _argument_error(self, full: str, reason: str) -> UsageError:
        """Return the error for an argument whose value is wrong. `full` has all its names, with slashes between."""
        option = full.split("/")[0]
        action = next(
            (action for action in self._actions if option in (*action.option_strings, action.dest, action.metavar)),
            None,
        )
        option = next((name for name in full.split("/") if name.startswith("--")), option)
        usage = f"{option} {action.metavar}" if action and action.metavar else option
        if reason.startswith("expected "):
            return UsageError(f"{option} needs a value", f"type {usage}; {self._help}")
        if reason.startswith("ignored explicit argument"):
            return UsageError(f"{option} takes no value", f"type {option} alone")
        if other := _EXCLUDED.fullmatch(reason):
            names = [name.split("/")[-1] for name in (other[1], full)]
            return UsageError(f"{' and '.join(names)} contradict each other", "leave out one of them")
        if choice := _CHOICES.fullmatch(reason):
            names = [str(name) for name in (action.choices if action and action.choices else ())]
            word = choice[1].strip("'\"")
            near = difflib.get_close_matches(word, names, 1)
            what = f"{option} {word!r}" if option.startswith("-") else repr(word)
            hint = f"did you mean {near[0]}?" if near else f"choose one of them; {self._help}"
            return UsageError(printable(f"{what} is none of {', '.join(names)}"), hint)
        return UsageError(printable(f"{option}: {reason}"), f"type {usage}; {self._help}")

    def _usage(self, *options: str) -> str:
        """Return the command with its operands, and with `options` before them."""
        return " ".join([self.prog, *options, *(self._operands or self._operand_words())])

    def _operand_words(self) -> Sequence[str]:
        """Return the operands as usage lines have them, as [DIR]. While argparse parses, it changes their `nargs`."""
        forms = {"?": "[{}]", argparse.REMAINDER: "[{}]...", "*": "[{}]...", "+": "{}..."}
        operands = [action for action in self._actions if not action.option_strings]
        return [forms.get(str(action.nargs), "{}").format(action.metavar) for action in operands]


def _with_marks(words: Sequence[str]) -> list[str]:
    """Return a command line with a mark before each word behind `--` that begins with a dash.

    argparse parses operands among options in two steps, and would take them for options in the second one.
    """
    if "--" not in words:
        return list(words)
    at = words.index("--")
    if at == len(words) - 1:
        return list(words[:at])
    return [*words[: at + 1], *(f"{_MARK}{word}" if word.startswith("-") else word for word in words[at + 1 :])]


def add_common_options(parser: argparse.ArgumentParser, quiet_help: str = "show errors only") -> None:
    """Add the options that every subcommand has. `quiet_help` is what `--quiet` means for this one."""
    parser.add_argument("-V", "--version", action="version", version=f"provision {__version__}")
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument("-q", "--quiet", action="store_true", help=quiet_help)
    loudness.add_argument(
        "-v", "--verbose", action="store_true", help="show requests, sizes, and what was decided and why"
    )
    parser.add_argument(
        "--color",
        metavar="WHEN",
        choices=COLOUR_CHOICES,
        default="auto",
        help="colours: auto (on terminals, unless NO_COLOR is set), always or never; default: auto",
    )
