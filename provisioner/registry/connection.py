"""Connections with time limits for whole responses, below urllib3: also for headers and trailers.

urllib3's timeouts limit only silence, so that a response which sends a byte now and then would never end.
"""

from __future__ import annotations

import http.client
import io
import math
import re
import socket
import time
from contextlib import suppress
from functools import lru_cache
from itertools import chain, zip_longest
from typing import Any

import requests
import requests.adapters
import urllib3
from urllib3.connection import HTTPSConnection

from provisioner.image.reference import is_loopback
from provisioner.registry.address import Address
from provisioner.registry.certificates import Certificates

MAX_HEADERS = 1000
"""The most headers of a response. Python's own limit of 100 is too low for registries behind several proxies."""

MAX_HEAD_BYTES = 1 << 20
"""The most bytes of a head with all headers, or of all trailers. One line may have 64 KiB."""

_UNKNOWN_AUTHORITY = re.compile("CERTIFICATE_VERIFY_FAILED.*(self.signed|unable to (get|verify))").search

_LINES_OF_TRAILERS = 2
"""The number of lines in a row from which on they are trailers: one line alone may be the size of a chunk."""


class LimitedAdapter(requests.adapters.HTTPAdapter):
    """Sends requests over connections whose responses have a deadline, also through proxies.

    The head of a response must arrive within the read timeout, and the body within another one, unless
    `limit_silence_only` is called for the response. `certificates` has the TLS contexts.
    """

    def __init__(self, certificates: Certificates, **options: Any) -> None:
        self._certificates = certificates
        super().__init__(**options)

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        """Send a request, with one `Accept` line for each media type, since some registries need that."""
        request.headers = _separate_lines(request.headers)  # type: ignore[assignment]
        try:
            return super().send(request, *args, **options)
        except requests.exceptions.SSLError as error:
            if not _UNKNOWN_AUTHORITY(str(error)) or not self._certificates.extend(Address.parse(request.url or "")):
                raise
            with suppress(requests.exceptions.RequestException):
                return super().send(request, *args, **options)
            raise

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        """Return the attributes in which requests must agree to share connections."""
        host, options = super().build_connection_pool_key_attributes(request, bool(verify), cert)
        if host["scheme"] == "https":
            options["ssl_context"] = self._certificates.context(Address.parse(request.url))
        return host, options

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Set whether a connection verifies certificates. The TLS context has the authorities."""
        conn.cert_reqs = "CERT_REQUIRED" if verify else "CERT_NONE"

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Make the manager of direct connections."""
        super().init_poolmanager(*args, **options)
        _limit(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Return the manager of connections through a proxy."""
        host = urllib3.util.parse_url(proxy)
        if host.scheme == "https" and host.host:
            address = Address("https", host.host, host.port or 443, "/")
            options.setdefault("proxy_ssl_context", self._certificates.context(address))
        return _limit(super().proxy_manager_for(proxy, **options))


def limit_silence_only(response: requests.Response, seconds: float) -> None:
    """Remove the deadline of the rest of a response. A silence of the server is limited to `seconds`."""
    if reader := _reader(response):
        reader.deadline, reader.silence = math.inf, seconds


def limit_rest(response: requests.Response, seconds: float) -> None:
    """Set the deadline of the rest of a response to `seconds` from now."""
    if reader := _reader(response):
        reader.deadline = time.monotonic() + seconds


def _separate_lines(headers: Any) -> urllib3.HTTPHeaderDict:
    """Return headers of a request, with a line for each media type in `Accept`."""
    lines = urllib3.HTTPHeaderDict()
    for name, value in headers.items():
        for part in value.split(", ") if name.lower() == "accept" else [value]:
            lines.add(name, part)
    return lines


class HeadTooLarge(http.client.HTTPException):
    """The head of a response, or its trailers, have more than MAX_HEAD_BYTES."""


class _LimitedReader(io.RawIOBase):
    """Reads from a socket until a deadline."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        seconds = sock.gettimeout()  # what urllib3 has left of the timeouts of the request
        self.silence = math.inf if seconds is None else seconds
        self.deadline = time.monotonic() + self.silence
        self._timeout = self.silence

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read once, as `io.RawIOBase.readinto`. Raises TimeoutError after the deadline."""
        seconds = min(self.silence, self.deadline - time.monotonic())
        if seconds <= 0:
            raise TimeoutError("timed out")
        if seconds != self._timeout:
            self._sock.settimeout(None if seconds == math.inf else seconds)
            self._timeout = seconds
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        """Close this side of the connection; the socket follows when urllib3 closes its own."""
        if not self.closed:
            self._raw.close()
        super().close()


class _LimitedFile(io.BufferedReader):
    """A response as a file. Trailers, which are lines in a row, have a deadline even if the content has none."""

    def __init__(self, reader: _LimitedReader) -> None:
        super().__init__(reader)
        self._reader = reader
        self._lines = self._line_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read content."""
        self._lines = self._line_bytes = 0
        return super().read(size)

    def readline(self, size: int | None = -1, /) -> bytes:
        """Read a line of the head, the size of a chunk, or a trailer."""
        self._lines += 1
        if self._lines == _LINES_OF_TRAILERS:
            self._reader.deadline = min(self._reader.deadline, time.monotonic() + self._reader.silence)
        line = super().readline(size)
        self._line_bytes += len(line)
        if self._line_bytes > MAX_HEAD_BYTES:
            raise HeadTooLarge(f"headers of more than {MAX_HEAD_BYTES >> 20} MiB")
        return line


class _LimitedSocket:
    """The socket from which http.client reads a response. It only has the method that http.client calls."""

    def __init__(self, sock: Any) -> None:
        self.reader = _LimitedReader(sock)

    def makefile(self, mode: str) -> _LimitedFile:
        return _LimitedFile(self.reader)


class _LimitedResponse(http.client.HTTPResponse):
    """A response whose status line, headers, 1xx answers, body, chunk sizes and trailers all have one deadline."""

    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        limited = _LimitedSocket(sock)
        super().__init__(limited, *args, **options)  # type: ignore[arg-type]
        self.reader = limited.reader


class _DirectConnection:
    """Connects to one of the addresses of a host, within one timeout for all of them."""

    def _new_conn(self: Any) -> socket.socket:
        deadline = time.monotonic() + self.timeout
        addresses = self._addresses()
        # To look them up may take all of the time.
        failure: OSError = TimeoutError() if addresses else OSError("it is not on this machine")
        while addresses and (seconds := deadline - time.monotonic()) > 0:
            family, kind, protocol, _, address = addresses.pop(0)
            try:
                sock = socket.socket(family, kind, protocol)
            except OSError as error:  # IPv6 may be missing
                failure = error
                continue
            try:
                for option in self.socket_options or ():
                    sock.setsockopt(*option)
                # An address that never answers must leave time for the next one.
                sock.settimeout(seconds / 2 if addresses else seconds)
                sock.connect(address)
            except OSError as error:
                failure = error
                sock.close()
                continue
            sock.settimeout(self.timeout)
            return sock
        if isinstance(failure, TimeoutError):
            raise urllib3.exceptions.ConnectTimeoutError(self, "the connection timed out") from failure
        raise urllib3.exceptions.NewConnectionError(self, str(failure)) from failure

    def _addresses(self: Any) -> list[Any]:
        """Return the addresses of the host as `getaddrinfo` does, alternating between IPv4 and IPv6."""
        host = self._dns_host.strip("[]")
        try:
            found = socket.getaddrinfo(host, self.port, 0, socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:
            raise urllib3.exceptions.NameResolutionError(self.host, self, error) from error  # type: ignore[arg-type]
        # A resolver may return any address for names below localhost, for which plain HTTP is allowed.
        if self.proxy is None and not isinstance(self, HTTPSConnection) and is_loopback(host):
            found = [entry for entry in found if is_loopback(f"[{entry[4][0]}]")]
        first = [entry for entry in found if entry[0] == found[0][0]]
        others = [entry for entry in found if entry[0] != found[0][0]]
        return [entry for entry in chain.from_iterable(zip_longest(first, others)) if entry]


def _limit(manager: Any) -> Any:
    """Make a manager of urllib3 use connections with limits, and return it."""
    http.client._MAXHEADERS = MAX_HEADERS  # type: ignore[attr-defined]  # there is no other way to set it
    manager.pool_classes_by_scheme = {
        scheme: _limited_pool(pool) for scheme, pool in manager.pool_classes_by_scheme.items()
    }
    return manager


@lru_cache
def _limited_pool(pool: Any) -> Any:
    """Return a class of pools like `pool` whose connections have limits."""
    if getattr(pool.ConnectionCls, "response_class", None) is _LimitedResponse:
        return pool
    makes_own = "socks" in pool.ConnectionCls.__module__  # its connections are made to the user's proxy
    bases = (pool.ConnectionCls,) if makes_own else (_DirectConnection, pool.ConnectionCls)
    connection = type(pool.ConnectionCls.__name__, bases, {"response_class": _LimitedResponse})
    return type(pool.__name__, (pool,), {"ConnectionCls": connection})


def _reader(response: requests.Response) -> _LimitedReader | None:
    """Return the reader of a response; None if it has none with limits."""
    original = getattr(response.raw, "_original_response", None)
    return original.reader if isinstance(original, _LimitedResponse) else None
