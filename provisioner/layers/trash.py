"""Removes what layers hide: it is moved to a directory of its own while layers are unpacked, and removed later."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from provisioner.errors import machine_errors
from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.filesystem.removal import empty_directory
from provisioner.threads import BackgroundThread


@contextmanager
def emptying_in_background(folder: int, name: str) -> Iterator[None]:
    """Return a context in which a thread empties the directory `name` of the open one `folder`.

    Leaving it waits for that. Raises MachineError where it fails.
    """
    failures: list[Exception] = []
    with machine_errors("remove what layers hide"):
        directory = os.open(name, DIRECTORY, dir_fd=folder)

    def run() -> None:
        try:
            empty_directory(directory)
        except Exception as error:  # noqa: BLE001  removal is tried again below
            failures.append(error)

    thread = BackgroundThread(run, "remove")
    with closing_descriptor(directory):
        has_started = thread.try_start()
        try:
            yield
        finally:
            thread.join()
        if failures or not has_started:
            with machine_errors("remove what layers hide"):
                empty_directory(directory)
