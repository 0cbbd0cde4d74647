"""Authentication: challenges (RFC 9110, section 11) and bearer tokens (distribution's token specification)."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from provisioner.errors import NetworkError
from provisioner.terminal.escaping import printable

_WORD = re.compile(r"""([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+)))?""")
"""A parameter with its value, quoted or plain; or a word without a value, which is the scheme of the next challenge."""

_DEFAULT_LIFE = 60
"""Seconds that a token is valid if its server doesn't say (token specification)."""

_MAX_LIFE = 86400
"""Seconds after which a token is replaced, whatever its server says."""


@dataclass(frozen=True)
class Challenge:
    """A challenge in the header `WWW-Authenticate` of a response of status 401."""

    scheme: str
    """`bearer` or `basic`, or another scheme, in lower case."""
    realm: str
    """For `bearer`, the URL of the token server."""
    service: str = ""
    """The name of the registry for the token server."""
    scope: str = ""
    """The access that is needed, such as `repository:library/ubuntu:pull`."""

    @classmethod
    def parse(cls, header: str) -> Challenge | None:
        """Return the challenge in a header, of several the one for bearer; None if none has a realm."""
        found: list[tuple[str, dict[str, str]]] = []
        for word in _WORD.finditer(header):
            name, quoted, plain = word[1].lower(), word[2], word[3]
            if quoted is None and plain is None:
                found.append((name, {}))
            elif found:
                found[-1][1].setdefault(name, plain or re.sub(r"\\(.)", r"\1", quoted))
        challenges = [
            cls(scheme, values["realm"], values.get("service", ""), values.get("scope", ""))
            for scheme, values in found
            if "realm" in values
        ]
        return min(challenges, key=lambda challenge: challenge.scheme != "bearer", default=None)


class Tokens:
    """The bearer tokens of one run. Each is fetched once, and again when it has expired. Thread-safe.

    `fetch(challenge)` asks the token server and returns its parsed answer.
    """

    def __init__(self, fetch: Callable[[Challenge], dict[str, Any]]) -> None:
        self._fetch = fetch
        self._lock = threading.Lock()
        self._cache: dict[Challenge, tuple[str, float]] = {}

    def get(self, challenge: Challenge, refused: str = "") -> str:
        """Return a token that answers `challenge`, but not the token that the registry has `refused`.

        Raises what `fetch` raises, and NetworkError for an answer without a token.
        """
        with self._lock:
            token, expires = self._cache.get(challenge, ("", 0.0))
            if token != refused and time.monotonic() < expires:
                return token
            answer = self._fetch(challenge)
            token = answer.get("token") or answer.get("access_token") or ""
            if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
                raise NetworkError(
                    f"the token server {printable(challenge.realm)[:200]} gave no token",
                    "try again later; if it fails again, tell the registry's owner",
                )
            life = answer.get("expires_in")
            life = min(life, _MAX_LIFE) if isinstance(life, int) and life > 0 else _DEFAULT_LIFE
            # A token is replaced a little early, so that it doesn't expire on the way to the registry.
            self._cache[challenge] = (token, time.monotonic() + life * 0.9)
            return token


class RequestsUnderWay:
    """How many requests are under way, and how many the registry has accepted. Thread-safe.

    A token may be used up by a request whose answer is still on its way to another thread.
    """

    def __init__(self) -> None:
        self._state = threading.Condition()
        self._under_way: Counter[str] = Counter()
        self.accepted = 0
        """The number of requests that were not refused, and whose answer wasn't an error that passes."""

    @contextmanager
    def sending(self, authorization: str) -> Iterator[None]:
        """Note that a request with this authorization is under way; `accept` has to be called in the context."""
        with self._state:
            self._under_way[authorization] += 1
        try:
            yield
        finally:
            with self._state:
                self._under_way[authorization] -= 1
                self._state.notify_all()

    def accept(self) -> None:
        """Count a request as accepted."""
        with self._state:
            self.accepted += 1

    def is_another_accepted(self, authorization: str, before: int) -> bool:
        """Wait until more than `before` requests are accepted and return True.

        Returns False when no other request with this authorization is under way any more.
        """
        with self._state:
            self._state.wait_for(lambda: self.accepted > before or not self._under_way[authorization])
            return self.accepted > before
