"""Says that a tag names another image than the lock that a run goes by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from provisioner.errors import ProvisionError
from provisioner.image.reference import Reference
from provisioner.terminal.progress import Console
from provisioner.threads import BackgroundThread

if TYPE_CHECKING:
    from provisioner.image.lockfile import Lock
    from provisioner.image.manifest import Descriptor
    from provisioner.registry.client import RegistryClient

_MOVED_SECONDS = 3.0
"""How long a run with --locked waits at its end for the digest that the tag has now."""


@contextmanager
def report_moved_tag(
    lock: Lock, client: RegistryClient, reference: Reference, console: Console
) -> Iterator[Callable[[], None]]:
    """Give a function that asks the registry, in a thread, which digest the tag has now.

    In the end show that digest, if it was asked for and isn't the locked one.
    """
    now: list[Descriptor] = []

    def ask() -> None:
        with suppress(ProvisionError):  # the run itself doesn't need the answer
            now.append(client.resolve(reference.selector))

    thread = BackgroundThread(ask, "moved")
    yield thread.start
    if thread.ident is not None:
        thread.join(_MOVED_SECONDS)
    if now and now[0].digest != lock.digest:
        moved = f"{reference.familiar} has moved since {lock.locked:%Y-%m-%d}"
        console.step(f"{moved}: it is {now[0].digest!s:.19} now, and locked at {lock.digest!s:.19}")
