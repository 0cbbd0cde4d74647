"""Errors of requests and responses, with hints for the user."""

from __future__ import annotations

import http.client
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import requests
import urllib3

from provisioner.errors import NetworkError, NotAllowed, UsageError
from provisioner.registry.connection import HeadTooLarge
from provisioner.registry.retry import TransientError
from provisioner.sizes import size_text
from provisioner.terminal.escaping import printable

_GET_SOCKS = "pip install PySocks, or use another proxy"
_CHECK_PROXIES = "check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY"


class UntrustedCertificate(NetworkError):
    """The server has a certificate that can't be verified."""


@contextmanager
def http_errors(host: str) -> Iterator[None]:
    """Convert exceptions of requests and urllib3 to a NetworkError about `host`, or a UsageError about settings."""
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
        raise too_slow(host) from error
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema) as e:
        if "SOCKS" in str(e):  # requests' own message without the package
            raise UsageError(f"the proxy to {host} speaks SOCKS, which needs the package PySocks", _GET_SOCKS) from e
        raise _unusable_address(host) from e
    except urllib3.exceptions.ProtocolError as error:
        raise _head_error(host, error) or TransientError(f"{host} broke off: {_cause(error)}", "try again") from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _connection_error(host, error) from error


def too_slow(host: str) -> TransientError:
    """Return the error for a server that has used up its time."""
    return TransientError(f"{host} doesn't answer in time", "check the network and try again")


def _proxy_error(host: str, error: Exception) -> TransientError:
    return TransientError(f"the proxy to {host} fails: {_cause(error)}", _CHECK_PROXIES)


def _head_error(host: str, error: Exception) -> NetworkError | None:
    """Return the error for a response with too many or too large headers; None for other errors."""
    innermost = _innermost(error)
    if type(innermost) not in (http.client.HTTPException, http.client.LineTooLong, HeadTooLarge):
        return None
    return NetworkError(f"{host} sends too much before its content: {_cause(error)}", "tell the registry's owner")


def _connection_error(host: str, error: Exception) -> NetworkError:
    if type(_innermost(error).__context__).__module__ == "socks":  # urllib3 has no exception of its own for it
        return _proxy_error(host, error)
    if head_error := _head_error(host, error):
        return head_error
    return TransientError(f"{host} can't be reached: {_cause(error)}", "check the host's name and the network")


def _tls_error(host: str, error: Exception) -> NetworkError | NotAllowed:
    cause = _cause(error)
    if isinstance(_innermost(error), ssl.SSLEOFError):
        return TransientError(f"{host} broke off: {cause}", "try again")
    if re.search("alert.*certificate|alert handshake failure", str(_innermost(error))):
        folder = f"~/.config/containers/certs.d/{host}"
        hint = f"put client.cert and client.key into {folder}, or see what is wrong with those that are there"
        return NotAllowed(f"{host} wants a certificate of yours: {cause}", hint)
    if "certificate" not in str(_innermost(error)):
        return NetworkError(f"{host} doesn't speak https: {cause}", "for plain http: --insecure")
    hint = "for an authority of your own: SSL_CERT_FILE=FILE, REQUESTS_CA_BUNDLE=FILE, or"
    hint += f" ~/.config/containers/certs.d/{host}/ca.crt; if you trust it all the same: --insecure"
    return UntrustedCertificate(f"{host} has a certificate that can't be verified: {cause}", hint)


def _unusable_address(address: str) -> NetworkError:
    return NetworkError(
        f"the registry names an address that can't be used: {printable(address[:200])!r}", "tell the registry's owner"
    )


def _cause(error: BaseException) -> str:
    """Return the innermost reason of an HTTP exception as one short line, without error numbers and C file names."""
    error = _innermost(error)
    if isinstance(error, http.client.IncompleteRead):
        return _missing_text(error)
    text = re.sub(r"\[[^]]*\] |\s*\(_ssl\.c:\d+\)", "", str(getattr(error, "strerror", None) or error))
    return printable(text.rpartition(": ")[2])[:200]


def _missing_text(error: http.client.IncompleteRead) -> str:
    """Return how much of a body came, and how much didn't, as far as that is known."""
    if isinstance(error, urllib3.exceptions.InvalidChunkLength):
        return "the size of the next part is missing, or is no number"
    partial: int | bytes | None = error.partial  # urllib3 has their number, not the bytes
    came = len(partial) if isinstance(partial, bytes) else partial or 0
    return f"{size_text(came)} came" + (f", {size_text(error.expected)} are missing" if error.expected else "")


def _innermost(error: BaseException) -> BaseException:
    """Return the exception at the bottom of a chain: urllib3 and requests wrap them as `reason` or as an argument."""
    while True:
        inside = (getattr(error, "reason", None), *error.args)
        inner = next((item for item in inside if isinstance(item, BaseException)), None)
        if inner is None:
            return error
        error = inner
