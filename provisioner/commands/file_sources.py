"""Opens sources that are files: root file systems, of this machine or from URLs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.commands.input_files import open_input, spooled, start_of
from provisioner.commands.source_words import suggest_image
from provisioner.image.digest import NOT_VERIFIED
from provisioner.image.source_name import Rootfs, Url
from provisioner.terminal.escaping import printable, shell_word

if TYPE_CHECKING:
    from provisioner.commands.opening import Opening
    from provisioner.sources import Source
    from provisioner.sources.lazy import LocalImages
    from provisioner.store.url_files import UrlFile


def open_rootfs(name: Rootfs, opening: Opening) -> Source:
    """Return the root file system in an archive, which is a file, a pipe or at a URL. Raises ProvisionError."""
    from provisioner.sources.lazy import LazySource

    shown = printable(name.location)
    if "://" in name.location:
        return LazySource(str(name), lambda: _fetched_root_file_system(name, shown, opening))
    hint = f"tar -C {shell_word(name.location)} -c . | provision rootfs:- DIR"
    file = open_input(Path(name.location), opening.stack, hint)
    return LazySource(str(name), lambda: root_file_system(file, shown, str(name), opening, is_named=True))


def _fetched_root_file_system(name: Rootfs, shown: str, opening: Opening) -> LocalImages:
    """Return the root file system in the archive at a URL. Raises ProvisionError."""
    from provisioner.sources.rootfs import RootfsSource

    fetched = fetch(name.location, str(name), opening)
    start_of(fetched.file, shown)
    return RootfsSource(fetched.file, str(name), shown, fetched.digest, fetched.verified, is_named=True)


def root_file_system(file: io.FileIO, shown: str, reference: str, opening: Opening, *, is_named: bool) -> LocalImages:
    """Return the root file system in an open file or pipe, checked against --sha256 or the lock.

    With `is_named`, the user says that it is one. Raises MalformedImage, UsageError, MachineError.
    """
    from provisioner.sources.rootfs import RootfsSource, check_digest, hash_file

    expected, who = opening.expected_digests(opening.locks(reference), is_rootfs=True)
    start = start_of(file, shown)
    if not start.is_seekable:
        file = spooled(start, shown, opening)
    if not expected:
        return RootfsSource(file, reference, shown, None, NOT_VERIFIED, is_named=is_named)
    found = hash_file(file, shown)
    if found not in expected:
        check_digest(found, expected[0], shown, f"{who} says")
    return RootfsSource(file, reference, shown, found, f"by {who}", is_named=is_named)


def open_url(name: Url, opening: Opening) -> Source:
    """Return what is at a URL, which is asked for when the image is: an archive of images, or of a root file system."""
    from provisioner.commands.archive_sources import recognise
    from provisioner.sources.lazy import LazySource

    def read() -> LocalImages:
        with suggest_image(name.url):
            fetched = fetch(name.url, str(name), opening)
            return recognise(fetched.file, printable(name.url), str(name), opening, fetched)

    return LazySource(str(name), read)


def fetch(url: str, reference: str, opening: Opening) -> UrlFile:
    """Return the file at a URL, by way of the cache; it is closed at the end of the run. Raises ProvisionError."""
    from provisioner.registry.files import RemoteFile
    from provisioner.store.url_files import UrlFiles

    options, console = opening.options, opening.console
    lock = opening.lock(reference)
    digests, who = opening.expected_digests([lock] if lock else [])
    expected = digests[0] if digests else None
    insecure = options.insecure
    remote = RemoteFile(url, insecure=insecure, is_verified=expected is not None, say=console.step)
    files = UrlFiles(opening.cache(), console)
    if options.offline:
        fetched = files.fetch_offline(remote, expected)
    else:
        fetched = files.fetch(remote, expected, who)
        opening.stack.enter_context(files.forgetting_damaged(remote, fetched))
    opening.stack.enter_context(fetched.file)
    return fetched
