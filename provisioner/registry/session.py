"""Requests about one repository: the scheme of its registry, and the token or password for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import requests

from provisioner.errors import NetworkError, ProvisionError
from provisioner.image.reference import DOCKER_HUB, Reference, is_loopback
from provisioner.registry.address import Address
from provisioner.registry.auth import Challenge, RequestsUnderWay, Tokens
from provisioner.registry.authfile import Login
from provisioner.registry.credentials import Credentials
from provisioner.registry.http import Http
from provisioner.registry.http_errors import UntrustedCertificate
from provisioner.registry.ping import RETRIED, PingProblem
from provisioner.registry.refusals import NoSuchRepository, refusal
from provisioner.registry.retry import TransientError
from provisioner.registry.token_server import TokenRequest, fetch_token
from provisioner.terminal.progress import Console

_HUB_HOST = "registry-1.docker.io"
_RENEWALS = 3
"""The most renewals of a token for one request while no other request succeeds."""


class RepositorySession:
    """The base of clients of the registry of `reference`, which ask for its repository. Thread-safe.

    `insecure` allows plain HTTP and certificates that can't be verified. `connections` may be open at the same time.
    `credentials` are looked up when the registry asks for some. `warn` shows a line to the user. `seconds` is the time
    limit for a document and for a silence of the server; by default those of Http. Methods raise ProvisionError.
    """

    def __init__(
        self,
        reference: Reference,
        *,
        insecure: bool = False,
        connections: int = 4,
        credentials: Credentials = Credentials(),  # noqa: B008  it is frozen
        warn: Callable[[str], None] | None = None,
        seconds: float | None = None,
    ) -> None:
        self._reference = reference
        self._credentials = credentials
        self._insecure = insecure
        self._warn = warn or Console().warn
        self._http = Http(insecure=insecure, connections=connections, seconds=seconds, registry=reference.registry)
        self._tokens = Tokens(self._fetch_token)
        self._requests = RequestsUnderWay()
        self._challenge: Challenge | None = None
        self._base = ""
        self._ping_problem: PingProblem | None = None

    def _send_authorized(self, send: Callable[[str], requests.Response]) -> requests.Response:
        """Return the response to a request, sent with a token or a password if the registry asks for one.

        `send` sends the request with a value of `Authorization`, which may be empty, and may be called several times.
        A token may expire early, reach a limit of uses, or be for another scope. It is renewed any number of times as
        long as requests succeed in between, also one whose answer comes only now: it may have used the token up.
        """
        renewals, accepted = 0, self._requests.accepted
        while True:
            sent = self._authorization()
            with self._requests.sending(sent):
                response = send(sent)
                is_refused = response.status_code in (401, 403)
                if not is_refused and response.status_code not in RETRIED:
                    self._requests.accept()
            # A 403 with a challenge also refuses the token.
            challenge = self._usable_challenge(response, self._base) if is_refused else None
            if challenge is None:
                return response
            self._challenge = self._with_scope(challenge)
            before, accepted = accepted, self._requests.accepted
            renewals = 1 if accepted > before else renewals + 1
            try:
                is_same = self._authorization(refused=sent) == sent
                is_last = renewals > (_RENEWALS if accepted else 1)
                if is_same or (is_last and not self._requests.is_another_accepted(sent, before)):
                    return response
            except BaseException:
                response.close()
                raise
            response.close()

    @cached_property
    def _login(self) -> Login | None:
        """The credentials for this repository, looked up at the first use."""
        return self._credentials.find(self._reference.registry, self._reference.repository)

    def _authorization(self, refused: str = "") -> str:
        """Return the value of `Authorization` that answers the registry's challenge; empty without a challenge.

        `refused` is a value that the registry has refused: its token is renewed.
        """
        if self._challenge is None:
            return ""
        if self._challenge.scheme == "bearer":
            return "Bearer " + self._tokens.get(self._challenge, refused.removeprefix("Bearer "))
        return self._login.basic if self._login else ""

    def _usable_challenge(self, response: requests.Response, base: str) -> Challenge | None:
        """Return the challenge of a response if it can be answered: by a token, or by a password of the login; else
        None.

        A challenge of another server, to which a redirect led, is ignored.
        """
        if not _is_from(response, base):
            return None
        challenge = Challenge.parse(response.headers.get("WWW-Authenticate", ""))
        if challenge and challenge.scheme == "basic":
            return challenge if self._login and self._login.password else None
        return challenge if challenge and challenge.scheme == "bearer" else None

    def _connect(self) -> None:
        """At the first call, ping the registry to find out whether it speaks HTTP or HTTPS, and its challenge."""
        if self._base:
            return
        host = _HUB_HOST if self._reference.registry == DOCKER_HUB else self._reference.registry
        schemes = ["http", "https"] if is_loopback(host) else ["https", "http"] if self._insecure else ["https"]
        failures: list[NetworkError] = []
        for scheme in schemes:
            base = f"{scheme}://{host}/v2/"
            try:
                response = self._http.get(base, {})
            except NetworkError as error:
                failures.append(error)
                continue
            with response:
                if response.status_code == 400 and scheme != schemes[-1]:
                    continue  # many servers with TLS answer plain HTTP with 400
                self._challenge = self._check_ping(response, base)
            self._base = base
            return
        # An error about a certificate shows that the server speaks TLS, so it is shown first; else that of the first
        # scheme.
        raise next((error for error in failures if isinstance(error, UntrustedCertificate)), failures[0])

    def _check_ping(self, response: requests.Response, base: str) -> Challenge | None:
        """Return the challenge in the response to a ping of `base`, if any.

        An answer that isn't a registry's is stored as `_ping_problem`; requests for the repository decide whether it
        matters. Raises TransientError for answers after which another ping may succeed.
        """
        if response.status_code in RETRIED:
            raise self._refusal(response, "ping", is_part=False)
        is_refused = response.status_code in (401, 403)
        if is_refused and (challenge := self._usable_challenge(response, base)):
            return replace(challenge, scope=self._scope)  # some registries name an example as the scope
        if response.status_code != 401 or _is_from(response, base):  # the repository's content may be on another server
            self._ping_problem = PingProblem.of(response, self._reference.registry)
        return None

    def _with_scope(self, challenge: Challenge) -> Challenge:
        """Return a challenge with the scope of this repository, if it has none."""
        return challenge if challenge.scope else replace(challenge, scope=self._scope)

    @property
    def _scope(self) -> str:
        """The scope for token servers; for several repositories, divided by spaces."""
        return f"repository:{self._reference.repository}:pull" if self._reference.repository else ""

    def _fetch_token(self, challenge: Challenge) -> dict[str, Any]:
        """Return the token server's answer to a challenge of this registry."""
        request = TokenRequest(challenge, self._reference, self._login, Address.parse(self._base))
        try:
            return fetch_token(self._http, request, self._warn)
        except NoSuchRepository:
            if not self._requests.accepted:
                raise
            what = f"the token server of {self._reference.registry} refuses a token that it gave before"
            raise TransientError(what, "try again later") from None

    def _refusal(self, response: requests.Response, what: str, *, is_part: bool) -> ProvisionError:
        """Return the error for a response (see `refusal`), or the one for the ping if that is more precise."""
        if self._ping_problem and self._ping_problem.explains(response):
            return self._ping_problem.error()
        login = self._login if self._challenge else None  # without a challenge, no credentials were sent
        return refusal(response, self._reference, what, login=login, is_part=is_part)


def _is_from(response: requests.Response, base: str) -> bool:
    """Return whether a response comes from the server of `base`, not from one that it has redirected to."""
    return Address.parse(response.url).has_origin_of(Address.parse(base))
