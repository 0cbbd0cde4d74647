"""Opens sources that are files: root file systems, of this machine or from URLs."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.errors import MachineError, NotFound, UsageError, machine_errors
from provisioner.image.source_name import Rootfs, Url
from provisioner.terminal.escaping import printable

if TYPE_CHECKING:
    from provisioner.commands.source_options import Opening
    from provisioner.sources import Source
    from provisioner.store.url_files import UrlFile


def open_rootfs(name: Rootfs, opening: Opening) -> Source:
    """Return the root file system in an archive, which is a file or at a URL. Raises ProvisionError."""
    from provisioner.sources import NOT_VERIFIED
    from provisioner.sources.rootfs import RootfsSource, check_digest, hash_file

    if "://" in name.location:
        fetched = fetch(name.location, str(name), opening)
        shown = printable(name.location)
        return RootfsSource(fetched.file, str(name), shown, fetched.digest, fetched.verified, is_named=True)
    shown = printable(name.location)
    expected, who = opening.expected_digest(None, is_rootfs=True)
    file = opening.stack.enter_context(open_file(Path(name.location)))
    if expected is None:
        return RootfsSource(file, str(name), shown, None, NOT_VERIFIED, is_named=True)
    check_digest(hash_file(file, shown), expected, shown, f"{who} says")
    return RootfsSource(file, str(name), shown, expected, f"by {who}", is_named=True)


def open_url(name: Url, opening: Opening) -> Source:
    """Return what is at a URL: an archive of images, or of a root file system. Raises ProvisionError."""
    from provisioner.commands.archive_sources import recognise

    fetched = fetch(name.url, str(name), opening)
    return recognise(fetched.file, printable(name.url), str(name), opening, fetched)


def fetch(url: str, reference: str, opening: Opening) -> UrlFile:
    """Return the file at a URL, by way of the cache; it is closed at the end of the run. Raises ProvisionError."""
    from provisioner.registry.files import RemoteFile
    from provisioner.store.url_files import UrlFiles

    options, console = opening.options, opening.console
    expected, who = opening.expected_digest(reference)
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


def open_file(path: Path) -> io.FileIO:
    """Open a file for reading. Raises NotFound, UsageError for what is no file, MachineError."""
    shown = printable(str(path))
    try:
        with machine_errors(f"open {shown}"):
            opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except MachineError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            raise NotFound(f"there is no file {shown}", "check the path") from None
        raise
    kind = os.fstat(opened).st_mode
    if not stat.S_ISREG(kind):
        os.close(opened)
        hint = f"tar -C {shown} -c . | provision - DIR" if stat.S_ISDIR(kind) else "write it to standard input: -"
        raise UsageError(f"{shown} is {'a directory' if stat.S_ISDIR(kind) else 'no regular file'}", hint)
    return io.FileIO(opened)
