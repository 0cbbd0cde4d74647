"""Errors for unsuccessful responses of a registry: message and hint for a status and a body."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import requests

from provisioner.errors import MalformedImage, NetworkError, NotAllowed, NotFound, ProvisionError
from provisioner.image.reference import Reference
from provisioner.registry.authfile import Login
from provisioner.registry.http import limited_body, parse_json, status_text
from provisioner.registry.limits import RateLimit
from provisioner.registry.retry import TransientError, retry_after
from provisioner.terminal.escaping import printable


class NoSuchRepository(NotFound):
    """The registry has no such repository, or hides it from those without the right credentials."""


class NoSuchTag(NotFound):
    """The registry has no such tag, and may not have the repository either."""


class Incomplete(MalformedImage):
    """The registry doesn't have a part of an image."""


def refusal(
    response: requests.Response, reference: Reference, what: str, *, login: Login | None, is_part: bool = False
) -> ProvisionError:
    """Return the error for a response about `what` of an image, such as `tag 'latest'`.

    `login` are the credentials that were sent; they are removed from the registry's messages. `is_part` says that
    `what` is named by a manifest, not by the user, so that the image is incomplete without it.
    """
    name, registry, status = reference.name, reference.registry, response.status_code
    error = _first_error(response)
    reason = _redact(_reason(error), login)
    if status == 404 and is_part:
        return Incomplete(
            f"{name} is incomplete: the registry has no {what}{reason}", "try another tag, or tell its owner"
        )
    if status == 404 and error.get("code") == "NAME_UNKNOWN":
        return NoSuchRepository(f"{name} is not found{reason}", "check the spelling")
    if status == 404:
        others = "" if what == "tags" else f"; tags that are there: provision tags {name}"
        missing = NoSuchTag if what.startswith("tag ") else NotFound
        return missing(f"{name} has no {what}{reason}", f"check the spelling{others}")
    if login and (status == 401 or what == "token") and status != 429:
        who = f"of {printable(login.username)}" if login.username else "that are saved for it"
        return NotAllowed(
            f"{registry} refuses the credentials {who}{reason}", f"log in again: provision login {registry}"
        )
    if status in (401, 403):
        if is_part:  # this user may read the image, since the registry has sent the manifest
            hint = f"try again; if it fails again, log in: provision login {registry}, or tell the registry's owner"
            return NotAllowed(f"{registry} refuses the {what} of {name}, whose manifest it gave{reason}", hint)
        # A registry that hides which repositories exist answers the same for private and missing ones.
        hint = f"check the spelling; if it is private: provision login {registry}"
        if login:
            who = printable(login.username) or "this login"
            return NotAllowed(f"{name} is not found, or {who} may not read it{reason}", hint)
        return NoSuchRepository(f"{name} is not found, or it is private{reason}", hint)
    after = retry_after(response.headers)
    if status == 429:
        limit = RateLimit.from_headers(response.headers, time.time())
        hint = limit.hint + ("" if login else f", or log in for more: provision login {registry}")
        return TransientError(f"{registry} says that there were too many requests{reason}{limit}", hint, after)
    message = f"{registry} answers with {_redact(status_text(response), login)} for the {what}{reason}"
    if status == 408 or (status >= 500 and status != 501):
        return TransientError(message, after=after)
    return NetworkError(message, "try again later")


def error_reason(response: requests.Response) -> str:
    """Return the first error in the body (distribution-spec, error codes) as ` (MESSAGE)`; empty without one."""
    return _reason(_first_error(response))


def _first_error(response: requests.Response) -> dict[str, Any]:
    """Return the first error in the body of a response; empty without one."""
    try:
        first = parse_json(limited_body(response, 1 << 16))["errors"][0]
    except (ProvisionError, TypeError, KeyError, IndexError):
        return {}
    return first if isinstance(first, dict) else {}


def _reason(error: Mapping[str, Any]) -> str:
    text = error.get("message") or error.get("code")
    return f" ({printable(str(text))[:200]})" if text else ""


def _redact(text: str, login: Login | None) -> str:
    return login.redact(text) if login else text
