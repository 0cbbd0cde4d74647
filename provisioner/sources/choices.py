"""Chooses one of several images in an archive, by name or number."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from provisioner.errors import NotFound, UsageError
from provisioner.image.reference import Reference
from provisioner.terminal.escaping import printable

T = TypeVar("T")
_LISTED = 20
"""The most images that a message lists."""


@dataclass(frozen=True)
class NamedImage(Generic[T]):
    """One of the images of an archive."""

    value: T
    names: tuple[str, ...]
    """What it is called there; may be empty."""


def choose_image(images: Sequence[NamedImage[T]], choice: str, word: str) -> T:
    """Return the image that `choice` names: one of its names, or `@N` for the one of that number from 0.

    Without a choice there must be only one. `word` names the archive for messages, as `docker-archive:/x.tar`. Raises
    NotFound for another name, UsageError where a choice is needed.
    """
    if not images:
        raise NotFound(f"{word} has no image", "save one into it, or name another archive")
    if choice.startswith("@"):
        number = int(choice[1:])
        if number < len(images):
            return images[number].value
        raise NotFound(f"{word} has no image {choice}; it has {_list(images)}", _hint(images, word))
    fitting = [image for image in images if not choice or any(_is_same(name, choice) for name in image.names)]
    if not fitting:
        raise NotFound(f"{word} has no image {printable(choice)!r}; it has {_list(images)}", _hint(images, word))
    if any(image.value != fitting[0].value for image in fitting):
        raise UsageError(f"{word} has {len(images)} images: {_list(images)}", _hint(images, word))
    return fitting[0].value


def _is_same(name: str, choice: str) -> bool:
    """Return whether two names are the same, or the same in full: `alpine` is `docker.io/library/alpine:latest`."""
    if name == choice:
        return True
    with suppress(UsageError):
        return Reference.parse(name) == Reference.parse(choice)
    return False


def _list(images: Sequence[NamedImage[T]]) -> str:
    """Return the numbers and names of images for a message."""
    words = [
        f"@{number} {printable(', '.join(image.names)) or 'without a name'}"
        for number, image in enumerate(images[:_LISTED])
    ]
    return "; ".join(words) + (f"; and {len(images) - _LISTED} more" if len(images) > _LISTED else "")


def _hint(images: Sequence[NamedImage[T]], word: str) -> str:
    name = next((name for image in images for name in image.names), "")
    if "://" in word:
        word = f"save it to a file, and name that: {word.partition(':')[0]}:FILE"
        return f"{word}:{printable(name) or '@0'}"
    return f"name one of them: {word}:{printable(name)}, or {word}:@0" if name else f"name one by its number: {word}:@0"
