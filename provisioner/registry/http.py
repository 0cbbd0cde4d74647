"""GET over HTTP, as all that talks to registries does it: redirects, timeouts, and errors that a user can mend."""

from __future__ import annotations

import http.cookiejar
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import SplitResult, urljoin, urlsplit

import requests
import requests.adapters
import urllib3

from provisioner import __version__
from provisioner.errors import MalformedImage, NetworkError, UsageError
from provisioner.image.reference import is_loopback
from provisioner.registry.proxies import check_proxy
from provisioner.registry.retry import Transient
from provisioner.terminal.escaping import printable

CONNECT_SECONDS, SILENCE_SECONDS = 15.0, 60.0
"""How long a server may take to accept a connection, and to send its next bytes: silence, not the whole."""

PIECE = 1 << 16
"""Bytes of a body that are read at a time: what a kill loses of it, with what the system has in its buffers."""

_REDIRECTS = 5
_GET_SOCKS = "pip install 'provisioner[socks]', or take another proxy"
_CHECK_PROXIES = "check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY"


class Untrusted(NetworkError):
    """The server has a certificate that can't be verified."""


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: redirects are ours to follow. Requests would read the whole body first, and trust the address."""


class Http:
    """Connections that are kept open and shared by several threads.

    `insecure` allows certificates that can't be verified. `silence` is for how many seconds a server may say nothing.
    """

    def __init__(self, *, insecure: bool, connections: int, silence: float | None = None) -> None:
        self._insecure = insecure
        silence = silence or SILENCE_SECONDS
        self._timeout = (min(CONNECT_SECONDS, silence), silence)
        self._session = _Session()
        self._session.headers["User-Agent"] = f"provisioner/{__version__}"
        # Blobs are compressed already, and digests are of the bytes as they are stored.
        self._session.headers["Accept-Encoding"] = "identity"
        self._session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=connections)
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)
        if insecure:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)

    def get(self, url: str, headers: Mapping[str, str], method: str = "GET") -> requests.Response:
        """The answer for `url`, its body yet to be read; HEAD as the `method` gives one without. Raises NetworkError.

        Redirects are followed; they never carry credentials to another host, nor leave https.
        """
        headers = dict(headers)
        first = host_of(url)
        for _ in range(_REDIRECTS + 1):
            host = host_of(url)
            response = self._get_once(method, url, host, headers)
            target = response.headers.get("Location")
            if response.status_code not in (301, 302, 303, 307, 308) or not target:
                return response
            response.close()
            target = _joined(url, target)
            if is_https(url) and not is_https(target):
                raise NetworkError(
                    f"{host} redirects from https to something else", "ask the registry's owner to mend that"
                )
            if host_of(target) != host:
                headers.pop("Authorization", None)
            url = target
        raise NetworkError(f"{first} redirects more than {_REDIRECTS} times", "ask the registry's owner to mend that")

    def post(self, url: str, form: Mapping[str, str]) -> requests.Response:
        """The answer to a form. No redirect is followed: what the form holds is for this host only."""
        return self._get_once("POST", url, host_of(url), {}, form)

    def _get_once(
        self, method: str, url: str, host: str, headers: Mapping[str, str], form: Mapping[str, str] | None = None
    ) -> requests.Response:
        name = _split(url).hostname or ""
        is_local = is_loopback(name)
        if not is_local:
            check_proxy(url)
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
                # No proxy is asked for what is on this machine.
                proxies={"no_proxy": name} if is_local else None,
            )


def host_of(url: str) -> str:
    """The host and port of `url`, fit to be shown. Raises NetworkError for what is no URL."""
    return printable(_split(url).netloc.rpartition("@")[2])


def is_https(url: str) -> bool:
    """Whether what travels to `url` is encrypted. Raises NetworkError for what is no URL."""
    return _split(url).scheme == "https"


def body_chunks(response: requests.Response) -> Iterator[bytes]:
    """The body as it is on the wire, in pieces. Raises NetworkError, also when it ends before its Content-Length."""
    with http_errors(host_of(response.url)):
        yield from response.raw.stream(PIECE, decode_content=False)


def limited_body(response: requests.Response, limit: int) -> bytes:
    """The body. Raises MalformedImage when it has more than `limit` bytes, NetworkError."""
    data = bytearray()
    for chunk in body_chunks(response):
        data += chunk
        if len(data) > limit:
            raise MalformedImage(f"the answer of {host_of(response.url)} has more than {limit >> 20} MiB")
    return bytes(data)


def status_text(response: requests.Response) -> str:
    """`404 Not Found`, fit to be shown."""
    return f"{response.status_code} {printable(response.reason or '')[:60]}".strip()


@contextmanager
def http_errors(host: str) -> Iterator[None]:
    """Turn what requests and urllib3 raise into a NetworkError about `host`."""
    try:
        yield
    except (requests.exceptions.SSLError, urllib3.exceptions.SSLError) as error:
        raise _tls_error(host, error) from error
    except (
        requests.exceptions.ProxyError,
        requests.exceptions.InvalidProxyURL,
        urllib3.exceptions.ProxyError,
    ) as error:
        raise _failing_proxy(host, error) from error
    except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise Transient(f"{host} doesn't answer in time", "check the network and try again") from error
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema) as e:
        if "SOCKS" in str(e):  # what requests says without the package
            raise UsageError(f"the proxy to {host} speaks SOCKS, which needs the package PySocks", _GET_SOCKS) from e
        raise _unusable(host) from e
    except urllib3.exceptions.ProtocolError as error:
        raise Transient(f"{host} broke off: {_cause(error)}", "try again") from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _unreachable(host, error) from error
    except OSError as error:  # requests looks for the file itself
        raise UsageError(printable(str(error)), "check REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE") from error


def _failing_proxy(host: str, error: Exception) -> Transient:
    return Transient(f"the proxy to {host} fails: {_cause(error)}", _CHECK_PROXIES)


def _unreachable(host: str, error: Exception) -> Transient:
    if type(_innermost(error).__context__).__module__ == "socks":  # urllib3 makes no difference
        return _failing_proxy(host, error)
    return Transient(f"{host} can't be reached: {_cause(error)}", "check the host's name and the network")


def _tls_error(host: str, error: Exception) -> NetworkError:
    cause = _cause(error)
    if isinstance(_innermost(error), ssl.SSLEOFError):
        return Transient(f"{host} broke off: {cause}", "try again")
    if "certificate" not in str(_innermost(error)):
        return NetworkError(f"{host} doesn't speak https: {cause}", "for plain http: --insecure")
    hint = "if you trust it all the same: --insecure; for your own authority: REQUESTS_CA_BUNDLE=FILE"
    return Untrusted(f"{host} has a certificate that can't be verified: {cause}", hint)


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise _unusable(url) from None


def _joined(url: str, target: str) -> str:
    try:
        return urljoin(url, target)
    except ValueError:
        raise _unusable(target) from None


def _unusable(address: str) -> NetworkError:
    return NetworkError(
        f"the registry names an address that can't be used: {printable(address[:200])!r}", "tell the registry's owner"
    )


def _no_netrc(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keep requests from putting a password of ~/.netrc in place of our token."""
    return request


def _cause(error: BaseException) -> str:
    """The innermost reason of an HTTP exception, in one short line without numbers and C files."""
    error = _innermost(error)
    text = re.sub(r"\[[^]]*\] |\s*\(_ssl\.c:\d+\)", "", str(getattr(error, "strerror", None) or error))
    return printable(text.rpartition(": ")[2])[:200]


def _innermost(error: BaseException) -> BaseException:
    while True:
        inside = (getattr(error, "reason", None), *error.args)
        inner = next((item for item in inside if isinstance(item, BaseException)), None)
        if inner is None:
            return error
        error = inner
