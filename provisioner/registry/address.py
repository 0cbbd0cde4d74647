"""Addresses from registries, parsed by the library that connects, and the rules for redirects and passwords.

An answer over plain HTTP may come from anybody. It may lead only to HTTPS, to the same host, or from loopback to
loopback; and it can't make provision send a password to another host.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlencode, urljoin

import urllib3

from provisioner.errors import NetworkError
from provisioner.image.reference import is_loopback
from provisioner.terminal.escaping import printable

_PORTS = {"http": 80, "https": 443}

_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?|\[[0-9a-f:.]+\]")
"""A host that all parsers read in the same way: no user name, no percent sign, no zone of IPv6."""

_OWNERS_TASK = "ask the registry's owner to fix that"


@dataclass(frozen=True)
class Address:
    """An address in HTTP or HTTPS, as urllib3 reads it."""

    scheme: str
    """`http` or `https`."""
    host: str
    """The host that is connected to, in lower case and in ASCII; IPv6 in brackets."""
    port: int
    """The port that is connected to."""
    target: str
    """The path with the query, as it is sent."""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return the address in `text`. Raises NetworkError if another parser could read it differently."""
        _refuse_odd_characters(text)
        try:
            scheme, user, host, port, path, query, _ = urllib3.util.parse_url(text)
        except urllib3.exceptions.LocationParseError:
            raise _unusable(text) from None
        has_user = user is not None or "@" in re.split("[/?#]", text.partition("//")[2], maxsplit=1)[0]
        if has_user or scheme not in _PORTS or port == 0 or not _HOST.fullmatch(host or ""):
            raise _unusable(text)
        target = (path or "/") + (f"?{query}" if query else "")
        return cls(scheme, host or "", port or _PORTS[scheme], target)

    def join(self, location: str) -> Address:
        """Return the address that a `Location` header in a response from this address names (RFC 9110, 10.2.2).

        Raises NetworkError.
        """
        _refuse_odd_characters(location)
        try:
            return Address.parse(urljoin(self.url, location))
        except ValueError:
            raise _unusable(location) from None

    def with_query(self, fields: Mapping[str, str]) -> Address:
        """Return this address with `fields` added to its query."""
        added = urlencode(fields)
        return replace(self, target=f"{self.target}{'&' if '?' in self.target else '?'}{added}") if added else self

    @property
    def url(self) -> str:
        """The address in the normalised spelling that is sent."""
        return f"{self.scheme}://{self.host_and_port}{self.target}"

    @property
    def host_and_port(self) -> str:
        """The host, with the port unless it is the scheme's default."""
        return self.host if self.port == _PORTS[self.scheme] else f"{self.host}:{self.port}"

    @property
    def is_https(self) -> bool:
        """Whether the scheme is https."""
        return self.scheme == "https"

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine, by its name or its address."""
        return is_loopback(self.host)

    def has_origin_of(self, other: Address) -> bool:
        """Return whether both have the same scheme, host and port, so that both get the same credentials."""
        return (self.scheme, self.host, self.port) == (other.scheme, other.host, other.port)

    def may_lead_to(self, other: Address) -> bool:
        """Return whether a server at this address may redirect to `other`, without credentials."""
        if other.is_https:
            return True
        return not self.is_https and (self.host == other.host or (self.is_loopback and other.is_loopback))

    def may_send_passwords_to(self, server: Address) -> bool:
        """Return whether a registry at this address may name `server` as the token server that gets the user's
        password."""
        return self.is_https or self.host == server.host or (self.is_loopback and server.is_loopback)

    def is_in_domain(self, name: str) -> bool:
        """Return whether the host is `name`, a subdomain of it, or a parent domain of it other than a top-level
        domain."""
        host = self.host.rstrip(".")
        if host == name or name.rpartition(".")[2].isdigit():  # an IP address is in no domain
            return host == name
        return host.endswith(f".{name}") or ("." in host and name.endswith(f".{host}"))


def check_redirect(origin: Address, target: Address) -> None:
    """Raise NetworkError if a server at `origin` may not redirect to `target`."""
    if origin.may_lead_to(target):
        return
    if origin.is_https:
        raise NetworkError(f"{origin.host_and_port} redirects from https to something else", _OWNERS_TASK)
    raise NetworkError(
        f"{origin.host_and_port} speaks plain http and redirects to another host in plain http, {target.host_and_port}",
        "a redirect from plain http has to lead to https, or to the same host; " + _OWNERS_TASK,
    )


def _refuse_odd_characters(text: str) -> None:
    """Raise NetworkError for characters that parsers read differently.

    Some parsers end the host at a backslash, remove tabs and line breaks, or convert digits and dots of other scripts
    to ASCII.
    """
    if "\\" in text or not text.isascii() or re.search(r"[\x00-\x1f\x7f]", text):
        raise _unusable(text)


def _unusable(text: str) -> NetworkError:
    shown = re.sub("//.*@", "//…@", text, flags=re.DOTALL)  # it may be a password
    return NetworkError(
        f"the registry names an address that can't be used: {printable(shown[:200])!r}", "tell the registry's owner"
    )
