"""The address of an LXC image server, and the paths of its files."""

from __future__ import annotations

import re
from dataclasses import dataclass

from provisioner.errors import MalformedImage, UsageError
from provisioner.image.reference import is_loopback, parse_registry
from provisioner.terminal.escaping import printable

ADDRESS_HINT = "an LXC image server looks like images.linuxcontainers.org or https://mirror.example/lxc-images"
"""The hint for an invalid address."""

_PATH = re.compile(r"[A-Za-z0-9_~:+@=,.-]+(/[A-Za-z0-9_~:+@=,.-]+)*")
_PREFIX = re.compile(r"(/[A-Za-z0-9_~.-]+)*")


@dataclass(frozen=True)
class ServerAddress:
    """The address of an LXC image server."""

    url: str
    """Without a slash at its end."""

    @classmethod
    def parse(cls, text: str) -> ServerAddress:
        """Return the address in `[http://|https://]HOST[:PORT][/PREFIX]`. Raises UsageError.

        The default scheme is https, on loopback http.
        """
        if "@" in text:  # it may be a password, which isn't shown
            raise UsageError("the address of an LXC image server can't have credentials in it", ADDRESS_HINT)
        before, divider, after = text.partition("://")
        scheme, rest = (before, after) if divider else ("", text)
        host, slash, prefix = rest.rstrip("/").partition("/")
        try:
            if scheme not in ("", "http", "https"):
                raise UsageError(f"{scheme!r} is not http or https")
            parse_registry(host)
            if not _PREFIX.fullmatch(slash + prefix) or {".", ".."} & set(prefix.split("/")):
                raise UsageError(f"the path {prefix!r} has other characters than letters, digits, '-', '_', '.'")
        except UsageError as error:
            why = error.message.rpartition(": ")[2]
            raise UsageError(
                f"{printable(text)[:200]!r} is not an LXC image server: {printable(why)}", ADDRESS_HINT
            ) from None
        scheme = scheme or ("http" if is_loopback(host) else "https")
        return cls(f"{scheme}://{host.lower()}{slash}{prefix}")

    @property
    def host(self) -> str:
        """Return the host with its port, if it has one."""
        return self.url.partition("://")[2].partition("/")[0]

    @property
    def is_private(self) -> bool:
        """Return whether nobody can change the content on its way: the scheme is https, or the host is this machine."""
        return self.url.startswith("https://") or is_loopback(self.host)


def checked_path(path: str, where: str) -> str:
    """Return `path` if it stays below the server's address. Raises MalformedImage otherwise; `where` names its
    place."""
    if len(path) > 1000 or not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise MalformedImage(f"{where} has an invalid path: {printable(path)[:100]!r}")
    return path
