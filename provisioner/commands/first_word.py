"""What a first word means that is no subcommand: an image, a word of another tool, or a typo."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Collection, Sequence

from provisioner.errors import UsageError
from provisioner.terminal.escaping import printable

INSTEAD = {
    "pull": "provision {image} {directory}",
    "create": "provision {image} {directory}",
    "get": "provision {image} {directory}",
    "add": "provision {image} {directory}",
    "build": "provision doesn't build images; a rootfs of your own: provision ./rootfs.tar DIR",
    "kill": "provision stop {container}",
    "attach": "provision exec {container} COMMAND",
    "enter": "provision shell {container}",
    "sh": "provision shell {container}",
    "ls": "provision list",
    "ps": "provision list",
    "images": "provision list, and provision cache for what was downloaded",
    "rm": "provision remove DIR",
    "delete": "provision remove DIR",
    "uninstall": "provision remove DIR",
    "cp": "provision copy DIR NEW",
    "clone": "provision copy DIR NEW",
    "mv": "provision move DIR NEW",
    "rename": "provision move DIR NEW",
    "rmi": "provision cache prune",
    "prune": "provision cache prune",
    "clean": "provision cache prune",
    "clear": "provision cache clear",
    "info": "provision doctor",
    "version": "provision --version",
    "show": "provision inspect {image}",
    "manifest": "provision inspect --raw {image}",
}
"""First words of docker, podman, pip and proot-distro, and what to type instead of each."""

_SIMILAR = 0.75
"""How similar a word has to be to the name of a subcommand to be taken for a typo, from 0 to 1.

The first letter, or the first two in another order, are the same then: `flink` and `cirros` are images.
"""


def check_first_word(words: Sequence[str], names: Collection[str]) -> None:
    """Raise UsageError where the command line begins with a word that is no image by all appearance.

    `words` is the command line, without the name of a subcommand; `names` are those of all subcommands. An image with
    such a name is still found by `provision install`.
    """
    at = next((at for at, word in enumerate(words) if word == "-" or not word.startswith("-")), None)
    if at is None:
        return
    word, others = words[at], [*words[:at], *words[at + 1 :]]
    operands = [other for other in others if not other.startswith("-")]
    if word in names:  # behind an option, which then belongs to the subcommand
        raise UsageError(
            f"options come behind the name of the subcommand {word}",
            f"type {printable(shlex.join(['provision', word, *others]))}",
        )
    shown = printable(word)
    image = f"an image of that name: {printable(shlex.join(['provision', 'install', *words]))}"
    if word in INSTEAD:
        raise UsageError(f"there is no subcommand {shown}", f"{_instead(word, operands)}; {image}")
    suggestion = similar_subcommand(words, names)
    if suggestion and len(operands) != 1:
        raise UsageError(f"there is no subcommand {shown}", f"{suggestion}; {image}")


def similar_subcommand(words: Sequence[str], names: Collection[str]) -> str:
    """Return "did you mean: …" where the first word is similar to the name of a subcommand, else ""."""
    at = next((at for at, word in enumerate(words) if word == "-" or not word.startswith("-")), None)
    if at is None or words[at] in names:
        return ""
    near = difflib.get_close_matches(words[at], names, 3, _SIMILAR)
    name = next((name for name in near if name[0] == words[at][0] or sorted(name[:2]) == sorted(words[at][:2])), "")
    return f"did you mean: {printable(shlex.join(['provision', name, *words[:at], *words[at + 1 :]]))}" if name else ""


def _instead(word: str, operands: Sequence[str]) -> str:
    """Return what to type instead of a word of another tool with these words behind it."""
    first = operands[0] if operands else ""
    name = first.rpartition("/")[2].partition("@")[0].partition(":")[0]
    words = {"image": first or "IMAGE", "directory": f"./{name}" if name else "DIR", "container": first or "NAME"}
    return INSTEAD[word].format(**{key: printable(shlex.quote(text)) for key, text in words.items()})
