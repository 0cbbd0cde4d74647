"""Probes of the network: whether the name of Docker Hub's registry can be resolved, and whether it answers."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from provisioner.doctor.check import Finding, Site, no, ok, unknown
from provisioner.doctor.fixes import is_termux
from provisioner.errors import NetworkError, UsageError
from provisioner.terminal.escaping import printable

HUB = "https://registry-1.docker.io/v2/"
_SECONDS = 3.0


def check_dns(site: Site, url: str = HUB) -> Finding:
    """Check whether the registry's name can be resolved."""
    host = urlsplit(url).hostname or ""
    try:
        addresses = socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    except OSError as error:
        if proxy := _proxy(url):
            return unknown(f"{host}: {error.strerror or error}; the proxy {proxy} may resolve it")
        server = "pkg install resolv-conf" if is_termux() else "set a server in /etc/resolv.conf: nameserver 9.9.9.9"
        return no(f"{host}: {error.strerror or error}", f"check the network; {server}")
    return ok(f"{host} is {addresses[0][4][0]}")


def check_registry(site: Site, url: str = HUB) -> Finding:
    """Check whether the registry answers at `/v2/` (distribution-spec, "determining support")."""
    from provisioner.registry.http import Http

    host = urlsplit(url).netloc
    proxy = _proxy(url)
    route = f" through the proxy {proxy}" if proxy else ""
    try:
        with Http(insecure=False, connections=1, seconds=_SECONDS).get(url, {}) as response:
            status = response.status_code
    except UsageError as error:  # a variable that names no proxy
        return no(error.message, error.hint)
    except NetworkError as error:
        return no(f"{error.message}{route}", error.hint)
    if status in (200, 401):
        return ok(f"{host} answers{route}")
    return no(
        f"{host} answers with status {status}{route}", "check the network: something else may be answering in its place"
    )


def _proxy(url: str) -> str:
    """Return host and port of the proxy for `url`, without its password; empty where none is used."""
    parts = urlsplit(url)
    if proxy_bypass(parts.hostname or ""):
        return ""
    proxies = getproxies()
    address = proxies.get(parts.scheme) or proxies.get("all") or ""
    return printable(address.rpartition("@")[2].rpartition("//")[2].rstrip("/"))
