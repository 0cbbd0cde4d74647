"""What a first word means that is no subcommand: an image, a word of another tool, or a typo."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

from provisioner.catalogue import Catalogue
from provisioner.commands.foreign_words import INSTEAD, TOOLS, what_to_type
from provisioner.commands.similar import nearest
from provisioner.config import Config
from provisioner.container_files import looks_provisioned
from provisioner.errors import ProvisionError, UsageError
from provisioner.image.source_name import is_path, parse_source
from provisioner.terminal.escaping import printable, shell_line

_IMAGES = frozenset({"composer", "consul", "crate", "docker", "flink", "plone", "sl", "unit"})
"""Images of Docker Hub with short names that are near to the name of a subcommand, or of INSTEAD."""
_WORD = re.compile("[a-z]+([-_][a-z]+)*")
_TAKES_NEW_DIRECTORY = "doctor"
"""The only subcommand that a directory may follow that isn't there."""


def operand_positions(words: Sequence[str], takes_value: Callable[[str], bool]) -> list[int]:
    """Return where the words are that are no options and no options' values.

    `takes_value` says whether an option, as `--bind` or `-e`, has its value in the word behind it.
    """
    found: list[int] = []
    at = 0
    while at < len(words):
        word = words[at]
        if word == "--":
            return [*found, *range(at + 1, len(words))]
        if word == "-" or not word.startswith("-"):
            found.append(at)
            at += 1
        else:
            at += 2 if _value_is_next(word, takes_value) else 1
    return found


def check_first_word(words: Sequence[str], positions: Sequence[int], names: Collection[str]) -> None:
    """Raise UsageError where the first operand of a command line is no image by all appearance, or the second no DIR.

    `words` is the command line, without the name of a subcommand, and `positions` says where its operands are; `names`
    are those of all subcommands. An image with such a name is still found by `provision install`.
    """
    operands = [words[at] for at in positions]
    if not operands or "--" in words[: positions[0]]:
        return
    is_container = looks_provisioned(operands[0])
    is_locked = any(word.partition("=")[0] == "--locked" for word in words)
    if len(operands) == 1 and (is_container or is_locked):
        return  # a container is answered with its start.sh, and with --locked the only operand is DIR
    others = [*words[: positions[0]], *words[positions[0] + 1 :]]
    if len(operands) > 1 and operands[0] in TOOLS:
        _check_without_tool(operands, others, names)
    is_reversed = len(operands) > 1 and operands[0] != "-" and operands[1] in names and not os.path.lexists(operands[1])
    is_container = is_container and operands[1:2] not in (["list"], ["run"])  # those have no container behind them
    if not (is_container and is_reversed) and (instead := instead_of(operands, others, names)):
        image = f"; an image of that name: {shell_line(['provision', 'install', *words])}"
        hint = instead + (image if operands[0].islower() else "")
        raise UsageError(f"there is no subcommand {printable(operands[0])}", hint)
    if is_reversed:
        before, behind = words[: positions[1]], words[positions[1] + 1 :]
        line = ["provision", operands[1], *before, *behind]
        named = ["provision", *before, f"./{operands[1]}", *behind]
        raise UsageError(
            f"the subcommand comes first: {operands[1]}",
            f"type {shell_line(line)}; a directory of that name: {shell_line(named)}",
        )


def _check_without_tool(operands: Sequence[str], others: Sequence[str], names: Collection[str]) -> None:
    """Raise UsageError where a subcommand of ours or of another tool follows the name of a tool."""
    tool, *rest = operands
    if tool in ("proot-distro", "pd") and rest[0] == "login":
        raise UsageError(f"leave out {tool}", f"type {shell_line(['provision', 'shell', *others[1:]])}")
    if rest[0] in names:
        raise UsageError(f"leave out {tool}", f"type {shell_line(['provision', *others])}")
    if rest[0] in INSTEAD:
        raise UsageError(f"leave out {tool}; there is no subcommand {rest[0]}", what_to_type(rest, names))


def instead_of(operands: Sequence[str], others: Sequence[str], names: Collection[str]) -> str:
    """Return what to type instead of a first operand that is no subcommand and no image's name; else "".

    `others` are all words but this one, with options.
    """
    word = operands[0].lower()
    if word in INSTEAD:
        return what_to_type([word, *operands[1:]], names)
    if word in names and word != operands[0]:
        return f"did you mean: {shell_line(['provision', word, *others])}"
    is_word = _WORD.fullmatch(word) and word not in _IMAGES
    known = (*names, "help", *INSTEAD)
    if len(operands) == 1:
        known = tuple(name for name in known if name != "container")  # alone it is more likely that of a DIR
    name = nearest(word, known) if is_word else ""
    if not name or _is_catalogued(word) or _are_image_and_directory(name, names, operands):
        return ""
    if name in INSTEAD:
        return f"did you mean {name}? Here that is: {what_to_type([name, *operands[1:]], names)}"
    return f"did you mean: {shell_line(['provision', name, *others])}"


def _is_catalogued(word: str) -> bool:
    """Return whether the catalogue, or that of config.toml, has a source for a word."""
    return word in Catalogue.packaged().sources or word in Config.load().catalogue.sources


def _are_image_and_directory(name: str, names: Collection[str], operands: Sequence[str]) -> bool:
    """Return whether operands are IMAGE and DIR, although IMAGE is nearly the name of a subcommand.

    DIR is written as a path, and nothing is there, so that the subcommand couldn't use it, or what was made from IMAGE.
    """
    if name not in names or name == _TAKES_NEW_DIRECTORY or len(operands) != 2 or not is_path(operands[1]):
        return False
    image, directory = operands
    return not os.path.lexists(directory) or _was_made_from(directory, image)


def _was_made_from(directory: str, image: str) -> bool:
    """Return whether there is a provisioned directory that was made from an image."""
    from provisioner.container.access import find_directory
    from provisioner.container.record import Record

    if looks_provisioned(directory):
        with suppress(ProvisionError):
            record = Record.read(find_directory(directory))
            return record is not None and record.reference == str(parse_source(image))
    return False


def _value_is_next(option: str, takes_value: Callable[[str], bool]) -> bool:
    """Return whether the value of an option is the next word, and not in the same one, as in --env=A and -eA."""
    if option.startswith("--"):
        return "=" not in option and takes_value(option)
    for at, letter in enumerate(option[1:], 1):
        if takes_value(f"-{letter}"):
            return at == len(option) - 1
    return False
