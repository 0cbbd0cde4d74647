"""Where an LXC image server is, and the paths of files there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from provisioner.errors import MalformedImage, UsageError
from provisioner.image.reference import is_loopback, parse_registry
from provisioner.terminal.escaping import printable

ADDRESS_HINT = "an LXC image server looks like images.linuxcontainers.org or https://mirror.example/lxc-images"
"""What to write."""

_PATH = re.compile(r"[A-Za-z0-9_~:+@=,.-]+(/[A-Za-z0-9_~:+@=,.-]+)*")
_PREFIX = re.compile(r"(/[A-Za-z0-9_~.-]+)*")


@dataclass(frozen=True)
class ServerAddress:
    """Where an LXC image server is."""

    url: str
    """Without a slash at its end."""

    @classmethod
    def parse(cls, text: str) -> ServerAddress:
        """Return the address that `[http://|https://]HOST[:PORT][/PREFIX]` means. Raises UsageError.

        Without a scheme it is HTTPS, on loopback HTTP.
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
                f"{printable(text)[:200]!r} is no LXC image server: {printable(why)}", ADDRESS_HINT
            ) from None
        scheme = scheme or ("http" if is_loopback(host) else "https")
        return cls(f"{scheme}://{host.lower()}{slash}{prefix}")

    @property
    def host(self) -> str:
        """Return the host with its port, if it has one."""
        return self.url.partition("://")[2].partition("/")[0]

    @property
    def is_private(self) -> bool:
        """Return whether nobody on the way can change what comes from there: it is HTTPS, or this machine."""
        return self.url.startswith("https://") or is_loopback(self.host)


def checked_path(path: str, where: str) -> str:
    """Return a path that stays below the address of its server. Raises MalformedImage for any other."""
    if len(path) > 1000 or not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise MalformedImage(f"{where} has a path that can't be used: {printable(path)[:100]!r}")
    return path
