"""A client for one registry (OCI distribution-spec v1.1): manifests, configs and blobs over HTTP."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import requests

from provisioner.errors import MalformedImage, NetworkError, NotAllowed, NotFound, ProvisionError, error_context
from provisioner.image.digest import Digest, verify
from provisioner.image.manifest import (
    DOCKER_SCHEMA1,
    DOCUMENT_LIMIT,
    INDEX_TYPES,
    MANIFEST_TYPES,
    Descriptor,
    media_type_of,
)
from provisioner.image.reference import DOCKER_HUB, Reference, is_loopback
from provisioner.registry.auth import Challenge, Tokens
from provisioner.registry.authfile import Login
from provisioner.registry.credentials import Credentials
from provisioner.registry.http import (
    Http,
    Untrusted,
    body_chunks,
    host_of,
    http_errors,
    is_https,
    limited_body,
    status_text,
)
from provisioner.registry.limits import RateLimit
from provisioner.registry.retry import Transient, retry_after
from provisioner.terminal.escaping import printable

_HUB_HOST = "registry-1.docker.io"
TAGS_LIMIT = 32 << 20
"""The most bytes that one page of a list of tags may have."""

_ACCEPT = ", ".join(MANIFEST_TYPES + INDEX_TYPES + DOCKER_SCHEMA1)


class NoSuchRepository(NotFound):
    """The registry has no such repository, or hides it from those without the right credentials."""


@dataclass(frozen=True)
class Document:
    """An index or a manifest as it was served, verified: its bytes, media type and digest."""

    data: bytes
    media_type: str
    digest: Digest


class RegistryClient:
    """Reads from the registry of `reference`. Its methods may be called from several threads.

    `insecure` allows plain HTTP and certificates that can't be verified. `credentials` are looked at when the registry
    asks for some. All methods raise NotFound, NotAllowed, NetworkError and MalformedImage.
    """

    def __init__(
        self,
        reference: Reference,
        *,
        insecure: bool = False,
        connections: int = 4,
        credentials: Credentials = Credentials(),  # noqa: B008  it is frozen
    ) -> None:
        self._reference = reference
        self._credentials = credentials
        self._insecure = insecure
        self._http = Http(insecure=insecure, connections=connections)
        self._tokens = Tokens(self._fetch_token)
        self._challenge: Challenge | None = None
        self._base = ""

    def manifest(self, selector: str | Descriptor) -> Document:
        """The index or manifest that a tag or a digest names. A Descriptor's size is checked as well."""
        expected = selector if isinstance(selector, Descriptor) else None
        name = str(expected.digest if expected else selector)
        what = f"manifest {name}" if ":" in name else f"tag {name!r}"
        with (
            self._get(f"manifests/{name}", what, is_part=expected is not None, accept=_ACCEPT) as response,
            error_context(f"{self._reference.name}: {what}"),
        ):
            data = limited_body(response, DOCUMENT_LIMIT)
            announced = response.headers.get("Docker-Content-Digest", "")
            digest = Digest.parse(name) if ":" in name else Digest.parse(announced) if announced else Digest.of(data)
            verify(data, digest, expected.size if expected else None, "the registry's answer")
            return Document(data, media_type_of(data, response.headers.get("Content-Type", "")), digest)

    def resolve(self, selector: str) -> Descriptor:
        """What a tag or a digest names now. Only headers are asked for, where the registry tells enough in them."""
        what = f"manifest {selector}" if ":" in selector else f"tag {selector!r}"
        with self._get(f"manifests/{selector}", what, is_part=False, accept=_ACCEPT, method="HEAD") as response:
            limited_body(response, 0)  # there is none; once that is read the connection serves again
            headers = response.headers
        # Registries that leave out the header for it have the digest as the entity's tag.
        digest = headers.get("Docker-Content-Digest") or headers.get("ETag", "").strip('"')
        size = headers.get("Content-Length", "")
        with suppress(MalformedImage):
            if re.fullmatch("[0-9]{1,7}", size):
                return Descriptor(
                    headers.get("Content-Type", ""), Digest.parse(selector if ":" in selector else digest), int(size)
                )
        document = self.manifest(selector)
        return Descriptor(document.media_type, document.digest, len(document.data))

    def check_login(self) -> bool:
        """See that the registry takes the credentials; False where it asks for none. Raises NotAllowed otherwise."""
        self._connect()
        if self._challenge is None:
            return False
        with self._http.get(self._base, _headers("*/*", self._authorization())) as response:
            if response.status_code != 200:
                raise self._refusal(response, "ping", is_part=False)
        return True

    def tags_page(self, query: str) -> tuple[bytes, str]:
        """One page of the list of tags: what was served for `query`, not yet parsed, and the Link to the next."""
        with self._get(f"tags/list?{query}", "tags", is_part=False) as response:
            return limited_body(response, TAGS_LIMIT), response.headers.get("Link", "")

    def blob(self, descriptor: Descriptor, start: int = 0) -> Generator[bytes, None, None]:
        """The bytes of a blob from `start` on as they arrive, not yet verified, and no more than its size.

        A registry that gives no range, or another one, is asked for the whole, of which the first part is left out.
        """
        path, what = f"blobs/{descriptor.digest}", f"blob {descriptor.digest.short}"
        if start:
            with self._get(path, what, is_part=True, start=start) as response:
                if response.status_code == 206 and _is_range(response, start, descriptor.size):
                    yield from self._content(response, descriptor, start, start)
                    return
                if response.status_code == 200:
                    yield from self._content(response, descriptor, 0, start)
                    return
        with self._get(path, what, is_part=True) as response:
            yield from self._content(response, descriptor, 0, start)

    def _content(self, response: requests.Response, descriptor: Descriptor, at: int, start: int) -> Iterator[bytes]:
        """What comes after byte `start` of a blob, from a body that begins at its byte `at`."""
        what, size = f"blob {descriptor.digest.short} from {self._reference.registry}", descriptor.size
        length = response.headers.get("Content-Length", "")
        if response.status_code == 200 and re.fullmatch(r"[0-9]{1,19}", length) and int(length) != size:
            raise MalformedImage(f"{what} has {int(length)} bytes, {size} were announced")
        for chunk in body_chunks(response):
            if at + len(chunk) > size:
                raise MalformedImage(f"{what} has more than the {size} bytes that were announced")
            if at + len(chunk) > start:
                yield chunk[max(0, start - at) :]
            at += len(chunk)
        if at < size:
            raise Transient(f"{what} broke off: it ends after {at} of {size} bytes", "try again")

    @contextmanager
    def _get(
        self, path: str, what: str, *, is_part: bool, accept: str = "*/*", method: str = "GET", start: int = 0
    ) -> Iterator[requests.Response]:
        """An answer of status 200 for `path` below the repository, to a range that begins at `start` also 206 and 416.

        `is_part` says that the image names it, not the user.
        """
        self._connect()
        url = f"{self._base}{self._reference.repository}/{path}"
        sent = self._authorization()
        response = self._http.get(url, _headers(accept, sent, start), method)
        # The token may have ended early, or the registry wants another scope for this path, or any token only here.
        if response.status_code == 401 and (challenge := self._answerable(response)):
            self._challenge = challenge if challenge.scope else replace(challenge, scope=self._scope)
            answer = self._authorization(refused=sent)
            if answer != sent:
                response.close()
                response = self._http.get(url, _headers(accept, answer, start), method)
        with response:
            if response.status_code not in ((200, 206, 416) if start else (200,)):
                raise self._refusal(response, what, is_part)
            yield response

    @cached_property
    def _login(self) -> Login | None:
        """Whom the registry is shown, if anybody."""
        return self._credentials.find(self._reference.registry, self._reference.repository)

    def _authorization(self, refused: str = "") -> str:
        """What answers the registry's challenge in `Authorization`: another token than one that it has `refused`."""
        if self._challenge is None:
            return ""
        if self._challenge.scheme == "bearer":
            return "Bearer " + self._tokens.get(self._challenge, refused.removeprefix("Bearer "))
        return self._login.basic if self._login else ""

    def _answerable(self, response: requests.Response) -> Challenge | None:
        """The challenge of a 401, where a token answers it or we have a password."""
        challenge = Challenge.parse(response.headers.get("WWW-Authenticate", ""))
        if challenge and challenge.scheme == "basic":
            return challenge if self._login and self._login.password else None
        return challenge if challenge and challenge.scheme == "bearer" else None

    def _connect(self) -> None:
        """Find out, once, how the registry is spoken to, and what it wants to see first."""
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
                    continue  # what many servers with TLS answer to plain HTTP
                self._challenge = self._pinged(response)
            self._base = base
            return
        # A certificate shows that TLS is spoken there; else the first way is the usual one.
        raise next((error for error in failures if isinstance(error, Untrusted)), failures[0])

    def _pinged(self, response: requests.Response) -> Challenge | None:
        """What the answer to a ping of /v2/ asks for. Raises NetworkError when that was no registry."""
        registry, status = self._reference.registry, response.status_code
        if status == 401:
            if challenge := self._answerable(response):
                return replace(challenge, scope=self._scope)  # some name one that is an example
            raise NotAllowed(f"{registry} wants a user name and a password", f"log in: provision login {registry}")
        if status == 403:
            raise NotAllowed(f"{registry} refuses access{_reason(response)}", "ask its owner, or use another registry")
        if status == 429 or status >= 500:
            raise self._refusal(response, "ping", is_part=False)
        html = response.headers.get("Content-Type", "").startswith("text/html")
        if status != 200 or html:
            what = "a web page" if html else status_text(response)
            raise NetworkError(f"{registry} is not a registry: it answers with {what}", "check the host and the port")
        return None

    @property
    def _scope(self) -> str:
        return f"repository:{self._reference.repository}:pull" if self._reference.repository else ""

    def _fetch_token(self, challenge: Challenge) -> dict[str, Any]:
        """The token server's answer. The token travels back to the registry only."""
        registry = self._reference.registry
        with self._token_response(challenge) as response:
            if response.status_code in (401, 403, 429):
                raise self._refusal(response, "token", is_part=False)
            answer = _json(limited_body(response, DOCUMENT_LIMIT))
            if response.status_code != 200 or not isinstance(answer, dict):
                what = f"the token server of {registry} answers with"
                if response.status_code == 200:
                    raise NetworkError(f"{what} something else than a token", "check the host and the port")
                said = self._hidden(status_text(response))
                if response.status_code >= 500:
                    raise Transient(f"{what} {said}", after=retry_after(response.headers))
                raise NetworkError(f"{what} {said}", "try again later")
            return answer

    def _token_response(self, challenge: Challenge) -> requests.Response:
        """What the token server says: to an identity token in a form (OAuth 2.0, RFC 6749 section 6), to a password in
        a header, or to nobody."""
        query = {name: value for name, value in (("service", challenge.service), ("scope", challenge.scope)) if value}
        login = self._login
        identity = login.identity_token if login else ""
        with http_errors(host_of(challenge.realm)):
            request = requests.Request("GET", challenge.realm, params=None if identity else query)
            url = request.prepare().url or ""
        if is_https(self._base) and not is_https(url):
            raise NetworkError(
                f"{self._reference.registry} wants a token from plain http", "ask the registry's owner to mend that"
            )
        host = urlsplit(url).hostname or ""
        if login and not is_https(url) and not is_loopback(host) and not self._insecure:
            raise NetworkError(f"{printable(host)} would get a password in plain http", "allow it: --insecure")
        if identity:
            grant = {"grant_type": "refresh_token", "refresh_token": identity, "client_id": "provisioner"}
            return self._http.post(url, grant | query)
        return self._http.get(url, {"Authorization": login.basic} if login else {})

    def _refusal(self, response: requests.Response, what: str, is_part: bool) -> ProvisionError:
        """The error that an answer which isn't 200 stands for."""
        name, registry = self._reference.name, self._reference.registry
        login = self._login if self._challenge else None  # nobody else has been shown it
        status, reason = response.status_code, self._hidden(_reason(response))
        if status == 404 and is_part:
            return MalformedImage(
                f"{name} is incomplete: the registry has no {what}{reason}", "try another tag, or tell its owner"
            )
        if status == 404:
            others = "" if what == "tags" else f"; tags that are there: provision tags {name}"
            return NotFound(f"{name} has no {what}{reason}", f"check the spelling{others}")
        if login and (status == 401 or what == "token") and status != 429:
            who = f"of {printable(login.username)}" if login.username else "that are kept for it"
            return NotAllowed(
                f"{registry} refuses the credentials {who}{reason}", f"log in again: provision login {registry}"
            )
        if status in (401, 403):
            # A registry that hides what exists says the same of private and missing repositories.
            hint = f"check the spelling; if it is private: provision login {registry}"
            if login:
                who = printable(login.username) or "this login"
                return NotAllowed(f"{name} is not found, or {who} may not read it{reason}", hint)
            return NoSuchRepository(f"{name} is not found, or it is private{reason}", hint)
        after = retry_after(response.headers)
        if status == 429:
            told = RateLimit.of(response.headers, time.time())
            hint = told.mend + ("" if login else f", or log in for more: provision login {registry}")
            return Transient(f"{registry} says that there were too many requests{reason}{told}", hint, after)
        message = f"{registry} answers with {self._hidden(status_text(response))} for the {what}{reason}"
        if status == 408 or status >= 500:
            return Transient(message, after=after)
        return NetworkError(message, "try again later")

    def _hidden(self, text: str) -> str:
        """What a registry says, without what it has been shown."""
        return self._login.hidden(text) if self._challenge and self._login else text


def _headers(accept: str, authorization: str, start: int = 0) -> Mapping[str, str]:
    headers = {"Accept": accept}
    if authorization:
        headers["Authorization"] = authorization
    if start:
        headers["Range"] = f"bytes={start}-"
    return headers


def _is_range(response: requests.Response, start: int, size: int) -> bool:
    """Whether the body of a 206 begins at `start` of something that has `size` bytes (RFC 9110, 14.4)."""
    said = re.fullmatch(
        r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", response.headers.get("Content-Range", "")
    )
    return said is not None and int(said[1]) == start <= int(said[2]) < size and said[3] in ("*", str(size))


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _reason(response: requests.Response) -> str:
    """The first error that the registry names in the body, in brackets, or nothing."""
    try:
        first = _json(limited_body(response, 1 << 16))["errors"][0]
        return f" ({printable(str(first.get('message') or first.get('code')))[:200]})"
    except (ProvisionError, TypeError, KeyError, IndexError, AttributeError):
        return ""
