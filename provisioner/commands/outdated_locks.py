"""Says at the end of a run with --locked where a server has something newer than what the lock names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from provisioner.errors import ProvisionError
from provisioner.image.reference import Reference
from provisioner.terminal.progress import Console
from provisioner.threads import BackgroundThread

if TYPE_CHECKING:
    from provisioner.image.lockfile import Lock
    from provisioner.registry.client import RegistryClient
    from provisioner.registry.lxc_server import LxcImages
    from provisioner.sources.lxc import LxcSource

T = TypeVar("T")
_SECONDS = 3.0
"""How long a run waits at its end for the server's answer."""


@contextmanager
def report_moved_tag(lock: Lock, client: RegistryClient, reference: Reference, console: Console) -> Iterator[None]:
    """Ask a registry which digest a tag has now, during the block, and say after it where that isn't the locked one."""
    with _asked_meanwhile(lambda: client.resolve(reference.selector)) as answers:
        yield
    if answers and answers[0].digest != lock.digest:
        moved = f"{reference.familiar} has moved since {lock.locked:%Y-%m-%d}"
        console.step(f"{moved}: it is {answers[0].digest!s:.19} now, and locked at {lock.digest!s:.19}")


@contextmanager
def report_newer_build(source: LxcSource, images: LxcImages, console: Console) -> Iterator[None]:
    """Ask for the list of LXC images, during the block, and say after it where that has a newer build than the lock."""
    with _asked_meanwhile(images.products) as answers:
        yield
    with suppress(ProvisionError):
        if answers and (line := source.newer_build(answers[0])):
            console.step(line)


@contextmanager
def _asked_meanwhile(ask: Callable[[], T]) -> Iterator[list[T]]:
    """Call `ask` in a thread during the block. The list has its result after the block.

    It stays empty where `ask` raises ProvisionError or takes _SECONDS longer than the block, and where no thread can be
    started: the run itself doesn't need the answer.
    """
    answers: list[T] = []

    def run() -> None:
        with suppress(ProvisionError):
            answers.append(ask())

    thread = BackgroundThread(run, "ask")
    thread.try_start()
    yield answers
    thread.join(_SECONDS)
