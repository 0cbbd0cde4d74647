"""Requests bearer tokens from the server that a registry names (distribution's token specification)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import requests

from provisioner.errors import NetworkError
from provisioner.image.manifest import DOCUMENT_LIMIT
from provisioner.image.reference import Reference
from provisioner.registry.address import Address
from provisioner.registry.auth import Challenge
from provisioner.registry.authfile import Login
from provisioner.registry.http import Http, limited_body, parse_json, status_text
from provisioner.registry.refusals import refusal
from provisioner.registry.retry import TransientError, retry_after


@dataclass(frozen=True)
class TokenRequest:
    """A request for a token."""

    challenge: Challenge
    """The registry's challenge. Its realm is the address of the token server."""
    reference: Reference
    """The repository that the token is for."""
    login: Login | None
    """The user's credentials; None for an anonymous token."""
    registry: Address
    """The address of the registry."""


def fetch_token(http: Http, request: TokenRequest, warn: Callable[[str], None]) -> dict[str, Any]:
    """Return the token server's parsed answer. Raises ProvisionError if it refuses or its answer isn't JSON.

    `warn` is called with a line for the user before a password is sent to a server outside of the registry's domain.
    """
    server = Address.parse(request.challenge.realm)
    request = replace(request, login=_allowed_login(request, server, warn))
    registry, login = request.reference.registry, request.login
    with _send(http, request, server) as response:
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


def may_get_password(challenge: Challenge, registry: Address) -> bool:
    """Return whether the token server of `registry` may get the user's password for it."""
    return registry.may_send_passwords_to(Address.parse(challenge.realm))


def _allowed_login(request: TokenRequest, server: Address, warn: Callable[[str], None]) -> Login | None:
    """Return the credentials that the token server may get, if any.

    Raises NetworkError if a token would be sent less securely than to the registry itself.
    """
    name, registry, login = request.reference.registry, request.registry, request.login
    if not registry.may_lead_to(server):
        kind = "" if registry.is_https else f" of another host, {server.host_and_port}"
        raise NetworkError(f"{name} wants a token from plain http{kind}", "ask the registry's owner to fix that")
    if login is None:
        return None
    if not registry.may_send_passwords_to(server):
        warn(f"{name} speaks plain http, so its token server {server.host_and_port} doesn't get your password")
        return None
    if not server.is_in_domain(_domain(name)) and server.host != registry.host:
        warn(f"the password for {name} goes to the token server that it names, {server.host_and_port}")
    return login


def _domain(registry: str) -> str:
    """Return the name of a registry without its port."""
    return registry if registry.endswith("]") else registry.partition(":")[0]


def _send(http: Http, request: TokenRequest, server: Address) -> requests.Response:
    """Return the token server's response.

    An identity token is sent in a form (OAuth 2.0, RFC 6749 section 6), a password in a header.
    """
    challenge, login = request.challenge, request.login
    query = {name: value for name, value in (("service", challenge.service), ("scope", challenge.scope)) if value}
    if login and login.identity_token:
        grant = {"grant_type": "refresh_token", "refresh_token": login.identity_token, "client_id": "provisioner"}
        return http.post(server, grant | query)
    # Several scopes are several parameters here, and one parameter with spaces in the form.
    service = {"service": challenge.service} if challenge.service else {}
    server = server.with_query(service)
    for scope in challenge.scope.split():
        server = server.with_query({"scope": scope})
    return http.get(server.url, {"Authorization": login.basic} if login else {})
