"""Mistakes in the word that names a source: typos, words of other tools, and files without `./` in front."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from provisioner.commands.similar import nearest
from provisioner.errors import NetworkError, NotAllowed, NotFound, UsageError
from provisioner.image.reference import DOCKER_HUB, Reference, is_loopback
from provisioner.image.source_name import is_path
from provisioner.terminal.escaping import printable, shell_word

_LONG = ("docker-archive", "oci-archive", "rootfs", "containers-storage", "docker-daemon")
"""Words that no image has a name near to."""
_FILES = ("docker-archive", "oci-archive", "oci", "dir")
"""Words for what is on this machine."""
_ARCHIVE = re.compile(r"\.(?:tar|tgz|txz|tbz2?|tzst|squashfs|sqfs)(?:\.[a-z0-9]+)?$")
"""The end of an archive's name. No image that is known has such a name."""
_FETCH = {
    **dict.fromkeys(("ftp", "ftps", "sftp", "scp"), "curl -L {}"),
    "s3": "aws s3 cp {} -",
    "gs": "gcloud storage cat {}",
    "ssh": "ssh HOST cat FILE",
}
"""What writes the file at an address to its standard output."""
_HOST = re.compile(r"//((?:[a-z0-9-]+\.)+[a-z]{2,}(?::[0-9]+)?/.+)")
"""What looks like the address of an image: a host name with a dot in it, and a path."""


def check_source_word(text: str) -> None:
    """Raise UsageError where `text` is meant as the name of a source, and can't be one."""
    word, colon, rest = text.partition(":")
    if is_path(text):
        return
    if os.path.isfile(text) and (_ARCHIVE.search(text) or not _is_reference(text)):
        raise _mistake(f"{printable(text)} is a file, and the name of a file begins with ./", f"./{text}")
    if not colon:
        return
    if rest.startswith("//") and word in _FETCH:
        fetch = f"{_FETCH[word].format(shell_word(text))} | provision - DIR"
        raise UsageError(f"provision reads no {word}: addresses", f"let another program read it: {fetch}")
    _check_slashes(word, rest)
    if word == "file" and rest:
        raise _mistake("a file is named by its path alone", re.sub("^/+", "/", rest) if rest[0] == "/" else f"./{rest}")
    if word in ("images", "lxd", "incus") and "/" in rest:
        raise _mistake("images of lxd and incus are those of lxc: here", f"lxc:{rest}")
    _check_typo(word, rest)


def _check_slashes(word: str, rest: str) -> None:
    """Raise UsageError where an address has too few slashes, or is behind a word for what is on this machine."""
    if word.lower() in ("http", "https") and not rest.startswith("//"):
        raise _mistake("an address has two slashes", f"{word}://{rest.lstrip('/')}")
    if word == "docker" and rest.startswith("/") and not rest.startswith("//"):
        raise _mistake("docker: has two slashes behind it", f"docker://{rest.lstrip('/')}")
    if word in _FILES:
        host = _HOST.fullmatch(rest)
        if re.match("https?://", rest, re.IGNORECASE) or (host and not os.path.lexists(rest)):
            raise _mistake(f"{word}: is for what is on this machine", host[1] if host else rest)


def _check_typo(word: str, rest: str) -> None:
    """Raise UsageError where a word is near to one that names a source."""
    lower = word.lower()
    meant = lower if lower in (*_LONG, *_FILES, "lxc", "docker") else nearest(lower, _LONG)
    if not meant or meant == word:
        return
    hint = f"did you mean: provision {_quoted(f'{meant}:{rest}')} DIR"
    if _is_reference(f"{word}:{rest}"):
        hint += f"; an image of that name: provision {_quoted(f'docker://{word}:{rest}')} DIR"
    raise UsageError(f"there is no word {printable(word)}:", hint)


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


@contextmanager
def suggest_image(url: str) -> Iterator[None]:
    """Where the block finds no file at a URL that may be the name of an image behind http://, say how that is named."""
    try:
        yield
    except (NotFound, NotAllowed, UsageError) as error:
        scheme, _, name = url.partition("://")
        if "/" in name and _is_reference(name) and not _ARCHIVE.search(name):
            is_insecure = scheme.lower() == "http" and not is_loopback(Reference.parse(name).registry)
            option = "--insecure " if is_insecure else ""
            error.hint = f"{error.hint}; an image of a registry: provision {option}{_quoted(name)} DIR".removeprefix(
                "; "
            )
        raise


def _is_reference(text: str) -> bool:
    try:
        Reference.parse(text)
    except UsageError:
        return False
    return True


def _mistake(what: str, word: str) -> UsageError:
    return UsageError(what, f"type provision {_quoted(word)} DIR")


def _quoted(word: str) -> str:
    return shell_word(word[:300])
