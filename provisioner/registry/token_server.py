"""Fetching bearer tokens from the server that a registry names (distribution's token specification)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests

from provisioner.errors import NetworkError
from provisioner.image.manifest import DOCUMENT_LIMIT
from provisioner.image.reference import Reference, is_loopback
from provisioner.registry.auth import Challenge
from provisioner.registry.authfile import Login
from provisioner.registry.http import Http, host_of, http_errors, is_https, limited_body, parse_json, status_text
from provisioner.registry.refusals import refusal
from provisioner.registry.retry import TransientError, retry_after
from provisioner.terminal.escaping import printable


@dataclass(frozen=True)
class TokenRequest:
    """Which token to fetch, and for whom."""

    challenge: Challenge
    """What the registry asked for; its realm is the address of the token server."""
    reference: Reference
    """The repository that the token is for."""
    login: Login | None
    """The user's credentials; without, an anonymous token is fetched."""
    registry_is_https: bool
    """Whether the registry itself is reached by https."""
    insecure: bool
    """Whether credentials may be sent in plain HTTP."""


def fetch_token(http: Http, request: TokenRequest) -> dict[str, Any]:
    """Return the token server's parsed answer. Raises ProvisionError where it refuses or answers with anything else."""
    registry, login = request.reference.registry, request.login
    with _send(http, request) as response:
        if response.status_code in (401, 403, 429):
            raise refusal(response, request.reference, "token", login=login)
        answer = parse_json(limited_body(response, DOCUMENT_LIMIT))
        if response.status_code != 200 or not isinstance(answer, dict):
            what = f"the token server of {registry} answers with"
            if response.status_code == 200:
                raise NetworkError(f"{what} something else than a token", "check the host and the port")
            status = status_text(response)
            status = login.redact(status) if login else status
            if response.status_code >= 500:
                raise TransientError(f"{what} {status}", after=retry_after(response.headers))
            raise NetworkError(f"{what} {status}", "try again later")
        return answer


def _send(http: Http, request: TokenRequest) -> requests.Response:
    """Return the token server's response.

    An identity token is sent in a form (OAuth 2.0, RFC 6749 section 6), a password in a header. Raises NetworkError
    where the address is unusable, or less secure than it has to be.
    """
    challenge, login = request.challenge, request.login
    query = {name: value for name, value in (("service", challenge.service), ("scope", challenge.scope)) if value}
    identity = login.identity_token if login else ""
    with http_errors(host_of(challenge.realm)):
        prepared = requests.Request("GET", challenge.realm, params=None if identity else query).prepare()
        url = prepared.url or ""
    if request.registry_is_https and not is_https(url):
        raise NetworkError(
            f"{request.reference.registry} wants a token from plain http", "ask the registry's owner to fix that"
        )
    host = urlsplit(url).hostname or ""
    if login and not is_https(url) and not is_loopback(host) and not request.insecure:
        raise NetworkError(f"{printable(host)} would get a password in plain http", "allow it: --insecure")
    if identity:
        grant = {"grant_type": "refresh_token", "refresh_token": identity, "client_id": "provisioner"}
        return http.post(url, grant | query)
    return http.get(url, {"Authorization": login.basic} if login else {})
