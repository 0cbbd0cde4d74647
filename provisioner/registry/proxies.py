"""Checks the environment variables that name proxies for requests and curl, before they are used."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

import requests.utils
import urllib3.util

from provisioner.errors import UsageError

_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")
_PORTS = range(1, 1 << 16)


def check_proxy(url: str) -> None:
    """Raise UsageError if the variable that names the proxy for `url` is not the address of a proxy.

    The message has the variable's name and what is wrong, but not its value, which may contain a password.
    """
    proxies = requests.utils.get_environ_proxies(url)
    scheme = next((scheme for scheme in (urlsplit(url).scheme, "all") if scheme in proxies), None)
    if scheme is None:
        return
    if fault := _fault(proxies[scheme]):
        name = _variable(f"{scheme}_proxy")
        raise UsageError(
            f"{name} is not the address of a proxy: {fault}",
            f"set it to http://HOST:PORT or socks5h://HOST:PORT; for no proxy: unset {name}",
        )


def _fault(value: str) -> str:
    """Return what is wrong with the address of a proxy, in words; empty for a valid one."""
    if not value.isprintable() or " " in value:
        return "there is a space or a control character in it"
    try:
        with_scheme = requests.utils.prepend_scheme_if_needed(value, "http")  # type: ignore[no-untyped-call]
        address = urllib3.util.parse_url(with_scheme)
        host = (address.host or "").strip("[]").encode("idna")
    except (ValueError, TypeError):  # urllib3's errors don't say which part is wrong
        return "its host or port can't be read"
    if not host:
        return "it names no host"
    is_without_colon = "://" not in value and (address.path or "/") != "/"  # as in http//host
    if address.scheme not in _SCHEMES or is_without_colon:
        return f"it begins with none of {', '.join(f'{name}://' for name in _SCHEMES)}"
    if address.port is not None and address.port not in _PORTS:
        return f"its port isn't from 1 to {_PORTS[-1]}"
    return ""


def _variable(name: str) -> str:
    """Return the variable `name` in the case in which the environment has it; lower case has precedence."""
    return name if name in os.environ else next((other for other in os.environ if other.lower() == name), name.upper())
