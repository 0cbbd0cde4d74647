"""Mistakes in the word that names a source: typos, words of other tools, and files without `./` in front."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager

from provisioner.commands.similar import nearest
from provisioner.errors import NetworkError, NotAllowed, NotFound, UsageError
from provisioner.image.reference import DOCKER_HUB, Reference
from provisioner.image.source_name import is_path
from provisioner.terminal.escaping import printable

_LONG = ("docker-archive", "oci-archive", "rootfs", "containers-storage", "docker-daemon")
"""Words that no image has a name near to."""
_FILES = ("docker-archive", "oci-archive", "oci", "dir")
"""Words for what is on this machine."""
_HOST = re.compile(r"//((?:[a-z0-9-]+\.)+[a-z]{2,}(?::[0-9]+)?/.+)")


def check_source_word(text: str) -> None:
    """Raise UsageError where `text` is meant as the name of a source, and can't be one."""
    word, colon, rest = text.partition(":")
    if not colon or is_path(text):
        return
    if word in _FILES and re.match("https?://", rest, re.IGNORECASE):
        raise _mistake(f"{word}: is for what is on this machine", rest)
    if word in _FILES and (found := _HOST.fullmatch(rest)) and not os.path.lexists(rest):
        raise _mistake(f"{word}: is for what is on this machine", found[1])
    if word == "file" and rest:
        path = rest if rest.startswith("/") else f"./{rest}"
        raise _mistake("a file is named by its path alone", re.sub("^/+", "/", path))
    if word == "images" and "/" in rest:
        raise _mistake("images: is the word of lxc and incus for their image server", f"lxc:{rest}")
    if word.lower() in ("http", "https") and not rest.startswith("//"):
        raise _mistake("an address has two slashes", f"{word}://{rest.lstrip('/')}")
    if word == "docker" and rest.startswith("/"):
        raise _mistake("docker: has two slashes behind it", f"docker://{rest.lstrip('/')}")
    meant = word.lower() if word.lower() in (*_LONG, *_FILES, "lxc", "docker") else nearest(word.lower(), _LONG)
    if meant and meant != word:
        image = "" if word.lower() != word else f"; an image of that name: provision {_quoted(f'docker://{text}')} DIR"
        raise UsageError(f"there is no word {printable(word)}:", f"did you mean {_quoted(f'{meant}:{rest}')}?{image}")


@contextmanager
def suggest_file(reference: Reference) -> Iterator[None]:
    """Where the block doesn't find an image, and a file of its name is here, say how that is named."""
    try:
        yield
    except (NotFound, NotAllowed, NetworkError) as error:
        hub_name = reference.repository.removeprefix("library/") if reference.registry == DOCKER_HUB else ""
        if found := next((name for name in (hub_name, reference.name) if name and os.path.isfile(name)), ""):
            error.hint = f"{error.hint}; the file that is here: {_quoted(f'./{found}')}"
        raise


def _mistake(what: str, word: str) -> UsageError:
    return UsageError(what, f"type provision {_quoted(word)} DIR")


def _quoted(word: str) -> str:
    return printable(shlex.quote(word[:300]))
