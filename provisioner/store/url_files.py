"""Files from URLs in the cache: downloaded once, resumed where they broke off, and asked for by ETag afterwards.

A file is a blob of the cache like any other, by its digest. What a URL had last is in the folder of tags. A part of a
file is in the folder of partial files, by the hash of its URL.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import quote

from provisioner.errors import MalformedImage, NetworkError
from provisioner.image.digest import CHUNK, Digest
from provisioner.registry.files import FileAnswer, FileVersion, RemoteFile
from provisioner.registry.retry import TransientError
from provisioner.sizes import size_text
from provisioner.store.blobs import BlobCache
from provisioner.store.known_files import NOT_VERIFIED, KnownFile, KnownFiles, name_for_url
from provisioner.store.partial import PartialFile, write_all
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import Console

_SUM_LINE = re.compile(rb"([0-9a-fA-F]{64}) [ *](.+?)\r?")
_BSD_LINE = re.compile(rb"SHA256 \((.+)\) = ([0-9a-fA-F]{64})\r?")


@dataclass(frozen=True)
class UrlFile:
    """A file that was downloaded, and is whole and verified as far as `verified` says."""

    digest: Digest
    size: int
    file: io.FileIO
    """Open for reading, at its start."""
    verified: str
    """Such as `by --sha256`, `by SHA256SUMS of HOST`, or NOT_VERIFIED."""


class UrlFiles:
    """Gets files from URLs by way of a cache."""

    def __init__(self, cache: BlobCache, console: Console) -> None:
        self._cache = cache
        self._console = console
        self._known = KnownFiles(cache.files)

    def fetch(self, remote: RemoteFile, expected: Digest | None = None, who: str = "--sha256") -> UrlFile:
        """Return the file at a URL as it is now: from the cache where the server, or `expected`, says that it is there.

        `who` says what is expected, for messages. Without it, the digest that SHA256SUMS or NAME.sha256 beside the file
        states has to fit. Raises MalformedImage for a file with another digest, which is deleted; NotFound, NotAllowed,
        NetworkError, MachineError.
        """
        verified = f"by {who}"
        if expected and (cached := self._cached(expected, verified)):
            return cached
        if expected is None:
            expected, verified = self._listed_digest(remote)
            if expected and (cached := self._cached(expected, verified)):
                self._known.save(KnownFile(remote.url, str(expected), verified=verified))
                return cached
        with self._cache.partial(name_for_url(remote.url)) as partial:
            digest = self._update(remote, partial, expected, verified)
        with self._cache.errors():  # its digest has just been compared
            file = self._cache.open(digest)
            return UrlFile(digest, os.fstat(file.fileno()).st_size, file, verified)

    def fetch_offline(self, remote: RemoteFile, expected: Digest | None = None) -> UrlFile:
        """Return the file that the cache has of a URL, or with the digest `expected`. Raises NetworkError."""
        known = self._known.find(remote.url)
        if expected is not None:
            found = self._cached(expected, "by its digest")
        else:
            found = self._cached(Digest.parse(known.digest), known.verified) if known and known.digest else None
        if found is None:
            raise NetworkError(f"offline: the cache has no {printable(remote.url)}", "run once without --offline")
        return found

    @contextmanager
    def forgetting_damaged(self, remote: RemoteFile, found: UrlFile) -> Iterator[None]:
        """Where the block raises MalformedImage, delete the file and what the server said of it, unless it is verified.

        Otherwise a damaged file would come from the cache for ever: the server says that its own hasn't changed.
        """
        try:
            yield
        except MalformedImage as error:
            if found.verified == NOT_VERIFIED:
                self._known.delete(remote.url)
                with suppress(OSError):
                    self._cache.delete(found.digest)
                error.hint = f"try again, which downloads it anew; if it stays so, {remote.host} has a damaged file"
            raise

    def _update(self, remote: RemoteFile, partial: PartialFile, expected: Digest | None, verified: str) -> Digest:
        """Bring the file of a URL into the cache, if it isn't there, and return its digest."""
        known = self._known.find(remote.url) or KnownFile(remote.url)
        if known.digest and (expected or Digest.parse(known.digest)) != Digest.parse(known.digest):
            known = KnownFile(remote.url)  # what the server had the last time isn't what is expected
        if known.digest and not self._has(Digest.parse(known.digest)):
            known = KnownFile(remote.url)
        download = _Download(remote, partial.file, self._cache, self._console, self._known.save)
        is_resumed = not known.digest and (bool(known.version.condition) or expected is not None) and download.resume()
        if not is_resumed:
            download.begin()
        version = download.run(known.version if is_resumed or known.digest else FileVersion())
        if version is None:
            return Digest.parse(known.digest)
        if expected and download.digest != expected and is_resumed:  # the part may be of another version
            download.begin()
            version = download.run(FileVersion()) or version
        if expected and download.digest != expected:
            with self._cache.errors():
                self._cache.discard(partial)
            what = f"{printable(remote.name)} from {remote.host} has the SHA-256 {download.digest.hex}"
            hint = "check the address and the digest; if they are right, the file was changed: don't use it"
            raise MalformedImage(f"{what}, {verified.removeprefix('by ')} says {expected.hex}", hint)
        # Before the file gets its name: another run that has waited for it would find neither, and download it anew.
        self._known.save(KnownFile(remote.url, str(download.digest), version, verified))
        with self._cache.errors():
            self._cache.complete(partial, download.digest)
        return download.digest

    def _listed_digest(self, remote: RemoteFile) -> tuple[Digest | None, str]:
        """Return the digest that a list of checksums beside a file states for it, and who says so."""
        for name in ("SHA256SUMS", f"{quote(remote.name)}.sha256"):
            content = remote.sibling(name)
            if content is not None and (digest := find_sum(content, remote.name)):
                return digest, f"by {name} of {remote.host}"
        return None, NOT_VERIFIED

    def _cached(self, digest: Digest, verified: str) -> UrlFile | None:
        """Return a file of the cache, hashed once more; None where there is none. A damaged one is deleted."""
        with self._cache.errors():
            try:
                file = self._cache.open(digest)
            except FileNotFoundError:
                return None
            hasher = digest.hasher()
            while chunk := file.read(CHUNK):
                hasher.update(chunk)
            if hasher.hexdigest() != digest.hex:
                file.close()
                self._cache.delete(digest)
                return None
            with suppress(OSError):  # the cache may be another user's
                os.utime(file.fileno())  # last use, for pruning
            size = file.tell()
            file.seek(0)
            return UrlFile(digest, size, file, verified)

    def _has(self, digest: Digest) -> bool:
        """Return whether the cache has a sound file with this digest."""
        if found := self._cached(digest, ""):
            found.file.close()
        return found is not None


class _Download:
    """The download of a URL's file to an open file of the cache, and the hash of what is there of it."""

    def __init__(
        self,
        remote: RemoteFile,
        file: io.FileIO,
        cache: BlobCache,
        console: Console,
        save: Callable[[KnownFile], None],
    ) -> None:
        self._remote = remote
        self._file = file
        self._cache = cache
        self._console = console
        self._save = save
        """Called with the version of a file when its download begins."""
        self._size = 0
        self._hasher = hashlib.sha256()

    @property
    def digest(self) -> Digest:
        """Return the digest of the bytes that have been received."""
        return Digest("sha256", self._hasher.hexdigest())

    def begin(self) -> None:
        """Begin with an empty file."""
        with self._cache.errors():
            self._file.truncate(0)
        self._size, self._hasher = 0, hashlib.sha256()

    def resume(self) -> bool:
        """Hash what an earlier run has received, to go on behind it; return whether that is anything."""
        with self._cache.errors():
            while chunk := os.pread(self._file.fileno(), CHUNK, self._size):
                self._hasher.update(chunk)
                self._size += len(chunk)
        return self._size > 0

    def run(self, version: FileVersion) -> FileVersion | None:
        """Download what is missing, and return the version of the file.

        `version` is that of the part which is there; without one, that of the whole file in the cache: if the server
        still has that one, None is returned. Raises NotFound, NotAllowed, NetworkError, MachineError.
        """
        tries, has_begun = self._remote.tries(), False
        while True:
            before = self._size
            try:
                with self._remote.request(self._size, version) as answer:
                    if answer is None:
                        return None
                    if answer.start != self._size:
                        self.begin()
                        before = 0
                    version, has_begun = answer.version, True
                    self._save(KnownFile(self._remote.url, version=version))
                    self._receive(answer)
                return version
            except TransientError as error:
                tries.record_failure(error, self._size - before if version.condition else 0)
                if self._size and not version.condition:
                    self._console.step(f"{self._remote.host} doesn't say whether the file is the same: it begins again")
                    self.begin()
                if not self._size and has_begun:  # there is nothing that could be unchanged
                    version = FileVersion()

    def _receive(self, answer: FileAnswer) -> None:
        """Append the bytes of a response to the file. Raises MachineError where there is no room for them."""
        size = answer.version.size
        name = printable(self._remote.name)
        limit = room = self._room(size)
        with self._console.progress(size) as progress:
            progress.describe(f"download {name}" + ("" if size is None else f", {size_text(size)}"))
            progress.advance(self._size)
            for chunk in answer.chunks:
                if (room := room - len(chunk)) < 0:
                    size = self._size + len(chunk)
                    self.begin()  # a file of unknown size that doesn't fit must not fill the disk
                    raise self._cache.files.no_room(name, size, limit)
                with self._cache.errors():
                    write_all(self._file, chunk)
                self._hasher.update(chunk)
                self._size += len(chunk)
                progress.advance(len(chunk))

    def _room(self, size: int | None) -> int:
        """Return how many bytes may be received: what is missing of `size`, or nine tenths of the free space.

        Raises MachineError where they don't fit.
        """
        free = self._cache.free_space()
        if size is None:
            return free.default_limit
        if (missing := size - self._size) > free.size:
            raise self._cache.files.no_room(printable(self._remote.name), missing, free.size)
        return missing


def find_sum(content: bytes, name: str) -> Digest | None:
    """Return the digest of the file `name` in a list as sha256sum writes it; None where it isn't listed.

    A list of a single digest without a name is about any file. Raises MalformedImage where a name has two digests.
    """
    if re.fullmatch(rb"[0-9a-fA-F]{64}\s*", content):
        return Digest("sha256", content.strip().decode().lower())
    found = set()
    for line in content.split(b"\n"):
        if match := _SUM_LINE.fullmatch(line):
            hexadecimal, listed = match.groups()
        elif match := _BSD_LINE.fullmatch(line):
            listed, hexadecimal = match.groups()
        else:
            continue
        if os.path.basename(listed) == os.fsencode(name):
            found.add(hexadecimal.decode().lower())
    if len(found) > 1:
        raise MalformedImage(f"the checksums name {printable(name)} twice", "say which one is right: --sha256 HEX")
    return Digest("sha256", found.pop()) if found else None
