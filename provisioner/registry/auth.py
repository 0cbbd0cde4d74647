"""Challenges and bearer tokens (RFC 9110 section 11, distribution's token specification)."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from provisioner.errors import NetworkError
from provisioner.terminal.escaping import printable

_WORD = re.compile(r"""([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+)))?""")
"""A name with its value, quoted or plain, or a word that stands alone: the scheme of the next challenge."""

_SHORTEST_LIFE, _LONGEST_LIFE = 60, 86400
"""Seconds: the life of a token whose server says none (token specification), and the most that is believed."""


@dataclass(frozen=True)
class Challenge:
    """What a 401 asks for in `WWW-Authenticate`: a scheme in lower case, and its parameters."""

    scheme: str
    realm: str
    service: str = ""
    scope: str = ""

    @classmethod
    def parse(cls, header: str) -> Challenge | None:
        """Make a challenge of the header's value; of several, the bearer's. None where there is none with a realm."""
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
    """Bearer tokens of one run, each asked for once and again when it has ended. Safe to use from several threads.

    `fetch(challenge)` asks the token server and gives its parsed answer.
    """

    def __init__(self, fetch: Callable[[Challenge], dict[str, Any]]) -> None:
        self._fetch = fetch
        self._lock = threading.Lock()
        self._kept: dict[Challenge, tuple[str, float]] = {}

    def get(self, challenge: Challenge, refused: str = "") -> str:
        """A token that answers `challenge`, a new one where the registry has `refused` the one that was given before.

        Raises what `fetch` raises, and NetworkError for an answer without a token.
        """
        with self._lock:
            token, ends = self._kept.get(challenge, ("", 0.0))
            if token != refused and time.monotonic() < ends:
                return token
            answer = self._fetch(challenge)
            token = answer.get("token") or answer.get("access_token") or ""
            if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
                raise NetworkError(
                    f"the token server {printable(challenge.realm)[:200]} gave no token",
                    "try again later; if it stays so, tell the registry's owner",
                )
            life = answer.get("expires_in")
            life = min(life, _LONGEST_LIFE) if isinstance(life, int) and life > 0 else _SHORTEST_LIFE
            # A token about to end is asked for again, so that it doesn't end under a request.
            self._kept[challenge] = (token, time.monotonic() + life * 0.9)
            return token
