"""Files at URLs: requests for a whole file, for the rest of one, or only if it has changed (RFC 9110).

Addresses, redirects, proxies, certificates and retries are those of registries.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from urllib.parse import unquote, urljoin

import requests

from provisioner.errors import NetworkError, NotAllowed, NotFound, ProvisionError, UsageError
from provisioner.registry.address import Address
from provisioner.registry.http import Http, body_chunks, limited_body, status_text
from provisioner.registry.ping import RETRIED
from provisioner.registry.retry import (
    GIVE_UP_SECONDS,
    MAX_PAUSES,
    MAX_PAUSES_AT_FIRST,
    PROGRESS_BYTES,
    Backoff,
    Timing,
    TransientError,
    retry_after,
)
from provisioner.terminal.escaping import printable

SUMS_LIMIT = 16 << 20
"""The most bytes that a list of checksums may have."""
_GONE = (404, 410)


@dataclass(frozen=True)
class FileVersion:
    """The version of a file at a URL, by a server's headers. Missing texts are empty."""

    etag: str = ""
    modified: str = ""
    """The header Last-Modified."""
    size: int | None = None
    """Bytes."""

    @property
    def condition(self) -> str:
        """Return the value of If-Range for this version; empty if it has neither a strong ETag nor a date."""
        return self.modified if not self.etag or self.etag.startswith("W/") else self.etag

    @property
    def conditions(self) -> dict[str, str]:
        """Return the headers of a request that is answered only if the file is another version than this."""
        if self.etag:
            return {"If-None-Match": self.etag}
        return {"If-Modified-Since": self.modified} if self.modified else {}

    @classmethod
    def of(cls, response: requests.Response) -> FileVersion:
        """Return the version in a response of status 200 or 206."""
        etag, modified = (printable(response.headers.get(name, ""))[:1000] for name in ("ETag", "Last-Modified"))
        if response.status_code == 206:
            total = re.fullmatch(r"bytes [0-9]+-[0-9]+/([0-9]{1,18})", response.headers.get("Content-Range", ""))
            return cls(etag, modified, int(total[1]) if total else None)
        length = response.headers.get("Content-Length", "")
        return cls(etag, modified, int(length) if re.fullmatch("[0-9]{1,18}", length) else None)


@dataclass(frozen=True)
class FileAnswer:
    """The response for a file, or for the rest of one."""

    version: FileVersion
    start: int
    """The offset of `chunks` in the file, in bytes."""
    chunks: Iterator[bytes]
    """The content. It raises NetworkError, also if fewer bytes arrive than the server has announced."""


class RemoteFile:
    """The file at a URL. `insecure` allows certificates that can't be verified, and plain HTTP to other hosts.

    `is_verified` says that the file will be verified by a digest, so that plain HTTP is allowed. `say` is called with a
    line for each retry. Raises UsageError for an invalid URL.
    """

    def __init__(
        self,
        url: str,
        *,
        insecure: bool = False,
        is_verified: bool = False,
        say: Callable[[str], None] = lambda line: None,
        timing: Timing | None = None,
    ) -> None:
        self._address = parse_url(url)
        if not (self._address.is_https or self._address.is_loopback or insecure or is_verified):
            raise UsageError(
                f"plain http isn't safe: others on the way to {self._address.host_and_port} can change the file",
                "use https://, or --sha256 HEX with the file's digest; if you trust it anyway: --insecure",
            )
        self._http = Http(insecure=insecure, connections=1, registry=self._address.host_and_port)
        self._say = say
        self._timing = timing or Timing()

    @property
    def url(self) -> str:
        """The URL in one spelling."""
        return self._address.url

    @property
    def host(self) -> str:
        """The host, and the port where it isn't the usual one."""
        return self._address.host_and_port

    @property
    def name(self) -> str:
        """The file's name, which is the last part of the path; the host if that is empty."""
        return unquote(self._address.target.partition("?")[0].rpartition("/")[2]) or self.host

    def tries(self) -> Tries:
        """Return the tries for one file."""
        return Tries(self._say, self._timing)

    @contextmanager
    def request(self, start: int = 0, had: FileVersion = FileVersion()) -> Iterator[FileAnswer | None]:
        """Yield the response for the file. If `start` isn't 0, request only the bytes from there on, of the version
        `had`.

        The server may send the whole file anyway. Without `start`, yield None if the file is still the version `had`.
        Raises NotFound, NotAllowed, NetworkError.
        """
        headers: Mapping[str, str] = had.conditions
        if start:
            headers = {"Range": f"bytes={start}-"} | ({"If-Range": had.condition} if had.condition else {})
        with self._http.get(self.url, headers, is_blob=True) as response:
            if response.status_code == 304 and headers and not start:
                yield None
                return
            if response.status_code == 206 and start and self._continues(response, start, had):
                version = FileVersion.of(response)
                yield FileAnswer(replace(had, size=version.size), start, self._content(response, start, version.size))
                return
            if response.status_code == 200:
                version = FileVersion.of(response)
                yield FileAnswer(version, 0, self._content(response, 0, version.size))
                return
            if response.status_code not in (206, 416) or not start:
                raise self._refusal(response)
        with self.request() as answer:  # the server has another version now
            yield answer

    def sibling(self, name: str) -> bytes | None:
        """Return the content of the file `name` in the same directory; None if the server has no such file.

        Raises NetworkError.
        """
        address = parse_url(urljoin(self.url.partition("?")[0], name))
        tries = self.tries()
        while True:
            try:
                with self._http.get(address.url, {}) as response:
                    if response.status_code == 200:
                        return limited_body(response, SUMS_LIMIT)
                    if response.status_code in RETRIED:
                        raise self._refusal(response)
                    return None
            except TransientError as error:
                tries.record_failure(error, 0)

    def _continues(self, response: requests.Response, start: int, had: FileVersion) -> bool:
        """Return whether a response of status 206 has the rest of the version `had` from `start` on."""
        sent = re.match(r"bytes ([0-9]{1,18})-", response.headers.get("Content-Range", ""))
        version = FileVersion.of(response)
        if sent is None or int(sent[1]) != start or (version.size is not None and version.size < start):
            return False
        # A server that ignores If-Range still states the version of the file.
        return (not had.etag or not version.etag or had.etag == version.etag) and had.size in (None, version.size)

    def _content(self, response: requests.Response, start: int, size: int | None) -> Iterator[bytes]:
        count = start
        for chunk in body_chunks(response):
            count += len(chunk)
            yield chunk
        if size is not None and count != size:
            raise TransientError(f"{self.host} broke off: {count} of {size} bytes of {printable(self.name)} came")

    def _refusal(self, response: requests.Response) -> ProvisionError:
        """Return the error for a response that isn't a success."""
        status, name = response.status_code, printable(self.name[:200])
        if status in _GONE:
            return NotFound(f"{self.host} has no {name} there: {status_text(response)}", "check the address")
        if status in (401, 403):
            hint = "check the address; download it with a program that can log in, and name the file"
            return NotAllowed(f"{self.host} refuses {name}: {status_text(response)}", hint)
        message = f"{self.host} answers with {status_text(response)} for {name}"
        if status in RETRIED:
            return TransientError(message, after=retry_after(response.headers))
        return NetworkError(message, "check the address, and try again later")


class Tries:
    """The tries to download one file."""

    def __init__(self, say: Callable[[str], None], timing: Timing) -> None:
        self._say = say
        self._timing = timing
        self._backoff = Backoff(timing, MAX_PAUSES_AT_FIRST)

    def record_failure(self, error: TransientError, count: int) -> None:
        """Wait for the next try, after one that got `count` bytes. Raises `error` when it is time to give up."""
        if count >= PROGRESS_BYTES:
            self._backoff = Backoff(self._timing, MAX_PAUSES)
        wait = None if error.after > GIVE_UP_SECONDS else self._backoff.pause(error.after)
        if wait is None:
            raise error
        self._say(f"{error.message}; trying again" + (f" in {wait:.0f} s" if wait >= 1 else ""))
        self._timing.sleep(wait)


def parse_url(text: str) -> Address:
    """Return the address in a URL that a user has typed. Raises UsageError."""
    try:
        return Address.parse(text)
    except NetworkError:
        shown = printable(re.sub("//.*@", "//…@", text, flags=re.DOTALL)[:200])  # it may be a password
        hint = "give https://HOST/FILE, in ASCII and without a user's name"
        raise UsageError(f"{shown!r} is not an address that can be used", hint) from None
