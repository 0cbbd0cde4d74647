"""HTTP requests: redirects, timeouts, and the bodies of responses. All clients in this package use it."""

from __future__ import annotations

import http.client
import http.cookiejar
import json
import logging
import time
import zlib
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

import requests
import urllib3

from provisioner import __version__
from provisioner.errors import MalformedImage, NetworkError
from provisioner.registry.address import Address, check_redirect
from provisioner.registry.certificates import Certificates
from provisioner.registry.connection import LimitedAdapter, limit_rest, limit_silence_only
from provisioner.registry.http_errors import http_errors, too_slow
from provisioner.registry.proxies import check_proxy
from provisioner.registry.upload_body import UploadBody
from provisioner.sizes import size_text
from provisioner.terminal.escaping import printable
from provisioner.terminal.progress import REQUEST_LOGGER

CONNECT_SECONDS = 15.0
"""The time limit for a server to accept a connection."""

SILENCE_SECONDS = 60.0
"""The time limit for a silence of a server during a blob, and for the head of its response."""

DOCUMENT_SECONDS = 30.0
"""The time limit for a document, from the first request to the last byte, with all redirects."""

CHUNK_SIZE = 1 << 16
"""Bytes of a body that are read at a time. If the process is killed, at most this many received bytes are lost."""

_REQUESTS = logging.getLogger(REQUEST_LOGGER)
_MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_REDIRECTS_OF_BODIES = (307, 308)
"""The statuses after which a request is repeated with the same method and body."""


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None, so that requests follows no redirect: it would read the whole body and trust the address."""


class Http:
    """An HTTP client that reuses up to `connections` connections. Thread-safe.

    `insecure` allows certificates that can't be verified. `seconds` is the time limit for a document, by default
    DOCUMENT_SECONDS. `registry` is the host and port whose directories in certs.d are used (see Certificates).
    """

    def __init__(self, *, insecure: bool, connections: int, seconds: float | None = None, registry: str = "") -> None:
        self._insecure = insecure
        self._seconds = seconds or DOCUMENT_SECONDS
        self._silence = min(SILENCE_SECONDS, seconds or SILENCE_SECONDS)
        self._session = _Session()
        self._session.headers["User-Agent"] = f"provisioner/{__version__}"
        # Blobs are compressed already, and a digest is that of the bytes as they are stored.
        self._session.headers["Accept-Encoding"] = "identity"
        self._session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        adapter = LimitedAdapter(Certificates(registry, insecure=insecure), pool_maxsize=connections)
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)
        if insecure:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)

    def get(
        self, url: str, headers: Mapping[str, str], method: str = "GET", *, is_blob: bool = False
    ) -> requests.Response:
        """Return the response for `url` before its body is read. Raises NetworkError.

        `method` is GET or HEAD. Redirects are followed if `check_redirect` allows them; credentials are sent only to
        the same scheme, host and port. With `is_blob`, the body may take any time, as long as the server isn't silent.
        """
        deadline = None if is_blob else time.monotonic() + self._seconds
        response = self._follow(
            Address.parse(url),
            headers,
            _REDIRECTS,
            lambda address, left: self._send_once(method, address, left, deadline),
        )
        if is_blob and response.status_code in (200, 206):
            limit_silence_only(response, self._silence)
        elif is_blob:
            self.limit_rest(response)
        return response

    def limit_rest(self, response: requests.Response) -> None:
        """Limit the time for the rest of a response, after a blob's content, to that for a document."""
        limit_rest(response, self._seconds)

    def post(self, address: Address, form: Mapping[str, str]) -> requests.Response:
        """Post a form and return the response. No redirect is followed, because the form is for this host only."""
        return self._send_once("POST", address, {}, time.monotonic() + self._seconds, form)

    def upload(
        self, method: str, address: Address, headers: Mapping[str, str], body: UploadBody | bytes = b""
    ) -> requests.Response:
        """Send a request with a body and return the response. It may take any time as long as the server accepts bytes.

        Redirects with the status 307 or 308 are followed as in `get`. Raises NetworkError.
        """

        def send(address: Address, headers: Mapping[str, str]) -> requests.Response:
            content = body.again() if isinstance(body, UploadBody) else body
            response = self._send_once(method, address, headers, None, content)
            self.limit_rest(response)
            return response

        return self._follow(address, headers, _REDIRECTS_OF_BODIES, send)

    def _follow(
        self,
        first: Address,
        headers: Mapping[str, str],
        redirects: Container[int],
        send: Callable[[Address, Mapping[str, str]], requests.Response],
    ) -> requests.Response:
        """Return the first response that isn't a redirect with a status of `redirects`. Raises NetworkError."""
        left, address = dict(headers), first
        for _ in range(_MAX_REDIRECTS + 1):
            response = send(address, left)
            location = response.headers.get("Location")
            if response.status_code not in redirects or not location:
                return response
            response.close()
            target = address.join(location)
            check_redirect(address, target)
            if not target.has_origin_of(address):
                left.pop("Authorization", None)
            address = target
        raise _too_many_redirects(first)

    def _send_once(
        self,
        method: str,
        address: Address,
        headers: Mapping[str, str],
        deadline: float | None,
        data: Mapping[str, str] | UploadBody | bytes | None = None,
    ) -> requests.Response:
        """Return the response to one request after its head was read, at `deadline` at the latest."""
        if not address.is_loopback:
            check_proxy(address.url)
        host = address.host_and_port
        seconds = None if deadline is None else deadline - time.monotonic()
        if seconds is not None and seconds <= 0:
            raise too_slow(host)
        began = time.monotonic()
        with http_errors(host):
            response = self._session.request(
                method,
                address.url,
                headers=headers,
                data=data,
                stream=True,
                timeout=urllib3.Timeout(seconds, CONNECT_SECONDS, self._silence),  # type: ignore[arg-type]
                auth=_no_netrc,
                verify=not self._insecure,
                # No proxy for requests to this machine.
                proxies={"no_proxy": address.host.strip("[]")} if address.is_loopback else None,
            )
        _log_request(response, method, address, time.monotonic() - began)
        return response


def _log_request(response: requests.Response, method: str, address: Address, seconds: float) -> None:
    """Log a request and the status of its response, without the query, which may have a secret."""
    size = response.headers.get("Content-Length", "")
    length = f", {size_text(int(size))}" if size.isdecimal() and len(size) < 19 else ""
    path = address.url.partition("://")[2].partition("?")[0]
    _REQUESTS.debug("%s %s: %d%s, %d ms", method, path, response.status_code, length, seconds * 1000)


def host_of(response: requests.Response) -> str:
    """Return the host and port that a response comes from."""
    return Address.parse(response.url).host_and_port


def body_chunks(response: requests.Response) -> Iterator[bytes]:
    """Yield the body as sent, not decompressed. Raises NetworkError, also when it ends before its Content-Length."""
    with http_errors(host_of(response)):
        yield from response.raw.stream(CHUNK_SIZE, decode_content=False)


def limited_body(response: requests.Response, limit: int) -> bytes:
    """Return the whole body. Raises MalformedImage when it has more than `limit` bytes, NetworkError."""
    data = bytearray()
    for chunk in body_chunks(response):
        data += chunk
        if len(data) > limit:
            raise MalformedImage(f"the answer of {host_of(response)} has more than {limit >> 20} MiB")
    return bytes(data)


def inflate(body: bytes, response: requests.Response, limit: int) -> bytes:
    """Return a body decompressed, if its Content-Encoding is gzip: for requests with `Accept-Encoding: gzip`.

    Raises MalformedImage when it has more than `limit` bytes or is cut off, NetworkError when it is no gzip.
    """
    if response.headers.get("Content-Encoding", "").lower() not in ("gzip", "x-gzip"):
        return body
    inflater, host = zlib.decompressobj(wbits=31), host_of(response)
    try:
        content = inflater.decompress(body, limit)
    except zlib.error as error:
        raise NetworkError(f"can't decompress the answer of {host}: {error}", "try again later") from None
    if not inflater.eof:
        raise MalformedImage(f"the answer of {host} has more than {limit >> 20} MiB, or is cut off")
    return content


def status_text(response: requests.Response) -> str:
    """Return the status and its reason, escaped for display: `404 Not Found`."""
    return f"{response.status_code} {printable(response.reason or '')[:60]}".strip()


def parse_json(data: bytes) -> Any:
    """Return the value of a JSON document, or None if it isn't JSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _too_many_redirects(first: Address) -> NetworkError:
    return NetworkError(
        f"{first.host_and_port} redirects more than {_MAX_REDIRECTS} times", "ask the registry's owner to fix that"
    )


def _no_netrc(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Return the request unchanged. Without this hook, requests replaces the token by a password of ~/.netrc."""
    return request
