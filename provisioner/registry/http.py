"""HTTP requests: redirects, timeouts, and errors that say what a user can do. Everything in this room uses it."""

from __future__ import annotations

import http.cookiejar
import json
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

import requests
import requests.adapters
import urllib3

from provisioner import __version__
from provisioner.errors import MalformedImage, NetworkError, UsageError
from provisioner.image.reference import is_loopback
from provisioner.registry.retry import TransientError
from provisioner.terminal.escaping import printable

CONNECT_SECONDS = 15.0
"""How long a server may take to accept a connection."""

SILENCE_SECONDS = 60.0
"""How long a server may send nothing. The whole response may take any time."""

CHUNK_SIZE = 1 << 16
"""Bytes of a body that are read at a time. A kill of the process loses this much, and what the system has buffered."""

_MAX_REDIRECTS = 5
_GET_SOCKS = "pip install 'provisioner[socks]', or take another proxy"
_CHECK_PROXIES = "check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY"


class UntrustedCertificate(NetworkError):
    """The server has a certificate that can't be verified."""


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None, so that requests follows no redirect: it would read the whole body and trust the address."""


class Http:
    """An HTTP client that reuses up to `connections` connections. Thread-safe.

    `insecure` allows certificates that can't be verified. `silence` is for how many seconds a server may send nothing.
    """

    def __init__(self, *, insecure: bool, connections: int, silence: float | None = None) -> None:
        self._insecure = insecure
        silence = silence or SILENCE_SECONDS
        self._timeout = (min(CONNECT_SECONDS, silence), silence)
        self._session = _Session()
        self._session.headers["User-Agent"] = f"provisioner/{__version__}"
        # Blobs are compressed already, and digests are those of the stored bytes.
        self._session.headers["Accept-Encoding"] = "identity"
        self._session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=connections)
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)
        if insecure:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)

    def get(self, url: str, headers: Mapping[str, str], method: str = "GET") -> requests.Response:
        """Return the response for `url`, whose body is still to be read. Raises NetworkError.

        `method` is GET or HEAD. Redirects are followed, but take no credentials to another host, and never lead from
        https to http.
        """
        headers = dict(headers)
        first = host_of(url)
        for _ in range(_MAX_REDIRECTS + 1):
            host = host_of(url)
            response = self._send_once(method, url, host, headers)
            target = response.headers.get("Location")
            if response.status_code not in (301, 302, 303, 307, 308) or not target:
                return response
            response.close()
            target = _join(url, target)
            if is_https(url) and not is_https(target):
                raise NetworkError(
                    f"{host} redirects from https to something else", "ask the registry's owner to fix that"
                )
            if host_of(target) != host:
                headers.pop("Authorization", None)
            url = target
        raise NetworkError(
            f"{first} redirects more than {_MAX_REDIRECTS} times", "ask the registry's owner to fix that"
        )

    def post(self, url: str, form: Mapping[str, str]) -> requests.Response:
        """Return the response to a form. No redirect is followed: the content of the form is for this host only."""
        return self._send_once("POST", url, host_of(url), {}, form)

    def _send_once(
        self, method: str, url: str, host: str, headers: Mapping[str, str], form: Mapping[str, str] | None = None
    ) -> requests.Response:
        name = _split(url).hostname or ""
        with http_errors(host):
            return self._session.request(
                method,
                url,
                headers=headers,
                data=form,
                stream=True,
                timeout=self._timeout,
                auth=_no_netrc,
                verify=not self._insecure,
                # Requests to this machine use no proxy.
                proxies={"no_proxy": name} if is_loopback(name) else None,
            )


def host_of(url: str) -> str:
    """Return the host and port of `url`, escaped for display. Raises NetworkError for text that is no URL."""
    return printable(_split(url).netloc.rpartition("@")[2])


def is_https(url: str) -> bool:
    """Return whether `url` is one of https. Raises NetworkError for text that is no URL."""
    return _split(url).scheme == "https"


def body_chunks(response: requests.Response) -> Iterator[bytes]:
    """Yield the body as sent, not decompressed. Raises NetworkError, also when it ends before its Content-Length."""
    with http_errors(host_of(response.url)):
        yield from response.raw.stream(CHUNK_SIZE, decode_content=False)


def limited_body(response: requests.Response, limit: int) -> bytes:
    """Return the whole body. Raises MalformedImage when it has more than `limit` bytes, NetworkError."""
    data = bytearray()
    for chunk in body_chunks(response):
        data += chunk
        if len(data) > limit:
            raise MalformedImage(f"the answer of {host_of(response.url)} has more than {limit >> 20} MiB")
    return bytes(data)


def status_text(response: requests.Response) -> str:
    """Return the status and its reason, escaped for display: `404 Not Found`."""
    return f"{response.status_code} {printable(response.reason or '')[:60]}".strip()


def parse_json(data: bytes) -> Any:
    """Return the value of a JSON document; None where it isn't JSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


@contextmanager
def http_errors(host: str) -> Iterator[None]:
    """Turn exceptions of requests and urllib3 into a NetworkError about `host`, or a UsageError about settings."""
    try:
        yield
    except (requests.exceptions.SSLError, urllib3.exceptions.SSLError) as error:
        raise _tls_error(host, error) from error
    except (
        requests.exceptions.ProxyError,
        requests.exceptions.InvalidProxyURL,
        urllib3.exceptions.ProxyError,
    ) as error:
        raise _proxy_error(host, error) from error
    except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise TransientError(f"{host} doesn't answer in time", "check the network and try again") from error
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema) as e:
        if "SOCKS" in str(e):  # requests' own message without the package
            raise UsageError(f"the proxy to {host} speaks SOCKS, which needs the package PySocks", _GET_SOCKS) from e
        raise _unusable_address(host) from e
    except urllib3.exceptions.ProtocolError as error:
        raise TransientError(f"{host} broke off: {_cause(error)}", "try again") from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _connection_error(host, error) from error
    except OSError as error:  # requests checks that the file of certificates exists
        raise UsageError(printable(str(error)), "check REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE") from error


def _proxy_error(host: str, error: Exception) -> TransientError:
    return TransientError(f"the proxy to {host} fails: {_cause(error)}", _CHECK_PROXIES)


def _connection_error(host: str, error: Exception) -> TransientError:
    if type(_innermost(error).__context__).__module__ == "socks":  # urllib3 has no exception of its own for it
        return _proxy_error(host, error)
    return TransientError(f"{host} can't be reached: {_cause(error)}", "check the host's name and the network")


def _tls_error(host: str, error: Exception) -> NetworkError:
    cause = _cause(error)
    if isinstance(_innermost(error), ssl.SSLEOFError):
        return TransientError(f"{host} broke off: {cause}", "try again")
    if "certificate" not in str(_innermost(error)):
        return NetworkError(f"{host} doesn't speak https: {cause}", "for plain http: --insecure")
    hint = "if you trust it all the same: --insecure; for your own authority: REQUESTS_CA_BUNDLE=FILE"
    return UntrustedCertificate(f"{host} has a certificate that can't be verified: {cause}", hint)


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise _unusable_address(url) from None


def _join(url: str, target: str) -> str:
    try:
        return urljoin(url, target)
    except ValueError:
        raise _unusable_address(target) from None


def _unusable_address(address: str) -> NetworkError:
    return NetworkError(
        f"the registry names an address that can't be used: {printable(address[:200])!r}", "tell the registry's owner"
    )


def _no_netrc(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Return the request as it is. Without this, requests replaces our token by a password of ~/.netrc."""
    return request


def _cause(error: BaseException) -> str:
    """Return the innermost reason of an HTTP exception in one short line, without error numbers and C file names."""
    error = _innermost(error)
    text = re.sub(r"\[[^]]*\] |\s*\(_ssl\.c:\d+\)", "", str(getattr(error, "strerror", None) or error))
    return printable(text.rpartition(": ")[2])[:200]


def _innermost(error: BaseException) -> BaseException:
    """Return the exception at the bottom of a chain: urllib3 and requests wrap them as `reason` or as an argument."""
    while True:
        inside = (getattr(error, "reason", None), *error.args)
        inner = next((item for item in inside if isinstance(item, BaseException)), None)
        if inner is None:
            return error
        error = inner
