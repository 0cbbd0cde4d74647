"""A client for one registry (OCI distribution-spec v1.1): manifests, configs and blobs over HTTP."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import requests

from provisioner.errors import MalformedImage, NetworkError, NotAllowed, NotFound, ProvisionError, error_context
from provisioner.image.digest import Digest, verify
from provisioner.image.manifest import (
    CONFIG_TYPES,
    DOCKER_SCHEMA1,
    DOCUMENT_LIMIT,
    INDEX_TYPES,
    MANIFEST_TYPES,
    Descriptor,
    media_type_of,
)
from provisioner.image.reference import DOCKER_HUB, Reference, is_loopback
from provisioner.registry.address import Address
from provisioner.registry.auth import Challenge, Tokens
from provisioner.registry.authfile import Login
from provisioner.registry.credentials import Credentials
from provisioner.registry.http import (
    Http,
    UntrustedCertificate,
    limited_body,
)
from provisioner.registry.limits import RateLimit
from provisioner.registry.ping import RETRIED, PingProblem, is_web_page
from provisioner.registry.ranges import chunks_from, range_header
from provisioner.registry.refusals import Incomplete, NoSuchRepository, refusal
from provisioner.registry.retry import TransientError
from provisioner.registry.token_server import TokenRequest, fetch_token, may_get_password
from provisioner.terminal.progress import Console

_HUB_HOST = "registry-1.docker.io"
TAGS_LIMIT = 32 << 20
"""The largest page of a list of tags that is read, in bytes."""

_RENEWALS = 3
"""The most renewals of a token for one request while no other request succeeds."""

_ACCEPT = ", ".join(MANIFEST_TYPES + INDEX_TYPES + DOCKER_SCHEMA1)


@dataclass(frozen=True)
class Document:
    """An index or a manifest, verified."""

    data: bytes
    """The bytes as they were served."""
    media_type: str
    """The media type that the document itself states, else the registry's."""
    digest: Digest
    """The digest of `data`."""


class RegistryClient:
    """Reads from the registry of `reference`, without retries. Thread-safe.

    `insecure` allows plain HTTP and certificates that can't be verified. `connections` may be open at the same time.
    `credentials` are looked up when the registry asks for some. `warn` shows a line to the user. `seconds` is the time
    limit for a document and for a silence of the server; by default those of Http. All methods raise NotFound,
    NotAllowed, NetworkError and MalformedImage.
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
        self._challenge: Challenge | None = None
        self._base = ""
        self._ping_problem: PingProblem | None = None
        self._answers = 0
        """The number of requests that succeeded."""
        self.limit: RateLimit | None = None
        """The rate limit in the last answer that had one; None if none had."""

    def manifest(self, selector: str | Descriptor) -> Document:
        """Return the index or manifest of a tag or a digest. The size of a Descriptor is checked as well.

        If the registry doesn't have a manifest with this digest, it is looked for among the blobs (as containerd does),
        and by the tag of the reference, if it has one.
        """
        expected = selector if isinstance(selector, Descriptor) else None
        name = str(expected.digest if expected else selector)
        try:
            return self._document(f"manifests/{name}", name, expected)
        except (Incomplete, NotFound):
            if ":" not in name:
                raise
            tag = self._reference.tag if str(self._reference.digest) == name else ""
            for path in (f"blobs/{name}", *([f"manifests/{tag}"] if tag else [])):
                with suppress(ProvisionError):
                    return self._document(path, name, expected)
            raise

    def _document(self, path: str, name: str, expected: Descriptor | None) -> Document:
        """Return the document at `path` with the tag or digest `name`, verified by `expected` if that isn't None."""
        what = f"manifest {name}" if ":" in name else f"tag {name!r}"
        with (
            self._get(path, what, is_part=expected is not None, accept=_ACCEPT) as response,
            error_context(f"{self._reference.name}: {what}"),
        ):
            data = limited_body(response, DOCUMENT_LIMIT)
            announced = response.headers.get("Docker-Content-Digest", "")
            digest = Digest.parse(name) if ":" in name else Digest.parse(announced) if announced else Digest.of(data)
            verify(data, digest, expected.size if expected else None, "the registry's answer")
            return Document(data, media_type_of(data, response.headers.get("Content-Type", "")), digest)

    def resolve(self, selector: str) -> Descriptor:
        """Return the descriptor of a tag or a digest, by a HEAD request if the registry's headers suffice.

        If it refuses HEAD, or the headers are implausible, the document is requested.
        """
        what = f"manifest {selector}" if ":" in selector else f"tag {selector!r}"
        headers: Mapping[str, str] = {}
        try:
            with self._get(f"manifests/{selector}", what, is_part=False, accept=_ACCEPT, method="HEAD") as response:
                limited_body(response, 0)  # it is empty; after reading it, the connection can be used again
                headers = response.headers
        except TransientError:
            raise
        except (NotFound, NotAllowed, NetworkError, MalformedImage):
            pass  # registries refuse HEAD in many ways; the answer to GET decides
        # Some registries leave out Docker-Content-Digest and have the digest as the ETag.
        announced = headers.get("Docker-Content-Digest") or ("" if ":" in selector else headers.get("ETag", ""))
        size, media_type = headers.get("Content-Length", ""), headers.get("Content-Type", "")
        with suppress(MalformedImage):
            digest = Digest.parse(announced.strip('"') or selector)
            is_right = re.fullmatch("0*[1-9][0-9]{0,6}", size) and not media_type.startswith("text/html")
            if is_right and str(digest) == (selector if ":" in selector else str(digest)):
                return Descriptor(media_type, digest, int(size))
        document = self.manifest(selector)
        return Descriptor(document.media_type, document.digest, len(document.data))

    def check_login(self) -> bool:
        """Check the credentials with the registry. Return False if it asks for none; raise NotAllowed if it refuses
        them."""
        self._connect()
        if self._ping_problem:
            raise self._ping_problem.error()
        if self._challenge is None:
            return False
        if self._challenge.scheme == "bearer" and not may_get_password(self._challenge, Address.parse(self._base)):
            raise NotAllowed(
                f"{self._reference.registry} speaks plain http and has its token server on another host, which gets no"
                " password",
                "ask the registry's owner for https",
            )
        with self._http.get(self._base, _headers("*/*", self._authorization())) as response:
            if response.status_code != 200:
                raise self._refusal(response, "ping", is_part=False)
        return True

    def tags_page(self, query: str) -> tuple[bytes, str]:
        """Return one page of the list of tags for `query`, not yet parsed, and its Link header (may be empty)."""
        with self._get(f"tags/list?{query}", "tags", is_part=False) as response:
            return limited_body(response, TAGS_LIMIT), response.headers.get("Link", "")

    def blob(self, descriptor: Descriptor, start: int = 0) -> Generator[bytes, None, None]:
        """Yield the bytes of a blob from `start` on as they arrive. They are not verified, and no more than its size.

        If the registry ignores the range or sends another one, the whole blob is downloaded and its first part skipped.
        A config has the time limit of a document; other blobs may take any time.
        """
        path, what = f"blobs/{descriptor.digest}", f"blob {descriptor.digest.short}"
        is_blob = descriptor.media_type not in CONFIG_TYPES or descriptor.size > DOCUMENT_LIMIT

        def get(at: int) -> AbstractContextManager[requests.Response]:
            return self._get(path, what, is_part=True, start=at, is_blob=is_blob)

        return chunks_from(get, start, descriptor.size, self._http, f"{what} from {self._reference.registry}")

    @contextmanager
    def _get(
        self,
        path: str,
        what: str,
        *,
        is_part: bool,
        accept: str = "*/*",
        method: str = "GET",
        start: int = 0,
        is_blob: bool = False,
    ) -> Iterator[requests.Response]:
        """Yield the response for `path` of the repository, with the status 200, or with `start` also 206 or 416.

        `what` and `is_part` are as in `refusal`, `is_blob` is as in Http. With `start`, the bytes from there on are
        requested. Raises ProvisionError for other statuses.
        """
        self._connect()
        url = f"{self._base}{self._reference.repository}/{path}"

        def send(authorization: str) -> requests.Response:
            return self._http.get(url, _headers(accept, authorization, start), method, is_blob=is_blob)

        with self._send_authorized(send) as response:
            if response.status_code not in ((200, 206, 416) if start else (200,)):
                raise self._refusal(response, what, is_part=is_part)
            if self._ping_problem and not is_blob and is_web_page(response):
                raise self._ping_problem.error()
            self._answers += 1
            if "ratelimit-limit" in response.headers:
                self.limit = RateLimit.from_headers(response.headers, time.time())
            yield response

    def _send_authorized(self, send: Callable[[str], requests.Response]) -> requests.Response:
        """Return the response to a request, sent with a token or a password if the registry asks for one.

        `send` sends the request with a value of `Authorization`, which may be empty, and may be called several times.
        A token may expire early, reach a limit of uses, or be for another scope. It is renewed any number of times as
        long as requests succeed in between.
        """
        renewals = 0
        while True:
            answers, sent = self._answers, self._authorization()
            response = send(sent)
            # A 403 with a challenge also refuses the token.
            challenge = self._usable_challenge(response, self._base) if response.status_code in (401, 403) else None
            if challenge is None:
                return response
            self._challenge = self._with_scope(challenge)
            try:
                is_same = self._authorization(refused=sent) == sent
            except BaseException:
                response.close()
                raise
            renewals = 1 if self._answers > answers else renewals + 1
            if is_same or renewals > (_RENEWALS if self._answers else 1):
                return response
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
            if not self._answers:
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


def _headers(accept: str, authorization: str, start: int = 0) -> dict[str, str]:
    headers = {"Accept": accept}
    if authorization:
        headers["Authorization"] = authorization
    return headers | range_header(start)
