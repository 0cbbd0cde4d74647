"""A registry on loopback that misbehaves on demand: scripted answers, broken connections, token challenges, TLS."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

from provisioner.image.reference import Reference
from provisioner.registry.client import RegistryClient
from provisioner.registry.mirrors import Mirrors
from provisioner.registry.retry import Timing
from scripts.loopback_registry import Handler, LoopbackRegistry, Response
from tests.support import builders
from tests.support.tcp import wait_for_reader
from tests.support.tools import need, run


@dataclass(frozen=True)
class Request:
    """A request. The names of its headers are case-insensitive."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: Message
    form: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Broken(Response):
    """A response that is cut off; then the connection is closed. With the status 0, not even headers are sent."""

    sent: int = 0
    """How many bytes of the body are sent."""
    announced: bool = True
    """Whether the length of the whole body is announced."""
    reset: bool = False
    """Whether the connection is reset (RST) in place of closed."""
    wait: threading.Event | None = None
    """The connection stays open and silent until this is set, for two minutes at most: longer than tests wait."""


@dataclass(frozen=True)
class Raw(Response):
    """Bytes that are sent as they are, head and all: `pieces` one by one, with `pause` seconds before each.

    Then the connection is closed. Clients mostly hang up long before.
    """

    pieces: Iterable[bytes] = ()
    pause: float = 0.0


class Link:
    """A limit of bytes a second, shared by all connections that use it."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._lock = threading.Lock()
        self._free = time.monotonic()

    def carry(self, count: int) -> None:
        """Wait until `count` more bytes may be sent."""
        with self._lock:
            # Unused time is lost, but for 0.1 s, since a sleep may last too long.
            self._free = max(self._free, time.monotonic() - 0.1) + count / self._speed
            wait = self._free - time.monotonic()
        if wait > 0:
            time.sleep(wait)


PIECE = 1 << 14
"""Bytes per write."""

Answer = Response | Callable[[Request], Response | None]
"""A response, or a function that returns one; None stands for the registry's own."""


class ScriptedHandler(Handler):
    """Asks the script of its registry for each response, and sends broken ones."""

    registry: ScriptedRegistry

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.send(self.registry.answer(Request(self.command, url.path, parse_qs(url.query), self.headers)))

    do_HEAD = do_GET

    def do_POST(self) -> None:
        url, body = urlsplit(self.path), self.rfile.read(int(self.headers.get("Content-Length", "0")))
        form = parse_qs(body.decode())
        self.send(self.registry.answer(Request(self.command, url.path, parse_qs(url.query), self.headers, form)))

    def setup(self) -> None:
        super().setup()
        each = self.registry.link_of_each
        self.link = Link(each) if each else self.registry.link
        if self.link:  # bytes in the system's buffers would count as sent
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 15)

    def send_body(self, body: bytes) -> None:
        view = memoryview(body)
        with self.registry.sending():
            for at in range(0, len(view), PIECE):
                piece = view[at : at + PIECE]
                if self.link:
                    self.link.carry(len(piece))
                if self.registry.is_read_along:
                    wait_for_reader(self.connection, PIECE)
                self._write(piece)

    def send_raw(self, response: Raw) -> None:
        self.close_connection = True
        for piece in response.pieces:
            time.sleep(response.pause)
            self._write(piece)

    def _write(self, piece: bytes | memoryview) -> None:
        """Write a piece of a body, which is counted before: whoever has got it may look at once."""
        self.registry.count(self.path, len(piece))
        try:
            self.wfile.write(piece)
        except OSError:
            self.registry.count(self.path, -len(piece))
            raise

    def send(self, response: Response) -> None:
        if isinstance(response, Raw):
            self.send_raw(response)
            return
        if not isinstance(response, Broken):
            super().send(response)
            return
        if response.status:
            self._send_part(response)
        if response.wait:
            response.wait.wait(120)
        self.close_connection = True
        if response.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())

    def _send_part(self, response: Broken) -> None:
        self.send_response(response.status)
        headers = {**response.headers, "Connection": "close"}
        if response.announced:
            headers["Content-Length"] = str(len(response.body))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.send_body(response.body[: response.sent])


@dataclass
class _Rule:
    pattern: str
    answer: Answer
    left: int


class ScriptedRegistry(LoopbackRegistry):
    """A registry that works as specified, but for the answers that a test sets by `on(PATTERN, ANSWER)`."""

    handler = ScriptedHandler

    def __init__(self, certificate: tuple[Path, Path] | None = None) -> None:
        super().__init__()
        self.requests: list[Request] = []
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self.link: Link | None = None
        self.link_of_each: float | None = None
        self.is_read_along = False
        """Whether hardly more is sent than clients have read: the rest would wait in the system's buffers."""
        self.sent: Counter[str] = Counter()
        self._sending = 0
        self.scheme = "http"
        if certificate:
            self.scheme = "https"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that hang up
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )

    @property
    def url(self) -> str:
        """Its URL, without a path."""
        return f"{self.scheme}://{self.host}"

    def on(self, pattern: str, answer: Answer, times: int = 1 << 30) -> Self:
        """Give this answer to requests whose path matches `pattern`, the next `times` of them, before earlier rules."""
        self._rules.insert(0, _Rule(pattern, answer, times))
        return self

    def answer(self, request: Request) -> Response:
        """Return the response of the script, else that of the registry."""
        with self._lock:
            self.requests.append(request)
            rule = next((rule for rule in self._rules if rule.left and re.fullmatch(rule.pattern, request.path)), None)
            if rule:
                rule.left -= 1
        if rule:
            response = rule.answer if isinstance(rule.answer, Response) else rule.answer(request)
            if response is not None:
                return response
        return self.respond(request.method, request.path, request.headers)

    def count(self, path: str, sent: int) -> None:
        """Count `sent` bytes of a body as sent."""
        with self._lock:
            self.sent[path] += sent

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Note that a body is being sent."""
        with self._lock:
            self._sending += 1
        try:
            yield
        finally:
            with self._lock:
                self._sending -= 1

    @property
    def is_sending(self) -> bool:
        """Whether a body is being sent."""
        return self._sending > 0

    def asked(self, pattern: str) -> list[Request]:
        """Return the requests so far whose path matches."""
        with self._lock:
            return [request for request in self.requests if re.fullmatch(pattern, request.path)]

    def push(self, name: str, image: builders.Image, tag: str | None = "latest") -> str:
        """Add an image and return its digest."""
        for blob in image.blobs:
            self.add_blob(name, blob)
        return self.add_manifest(name, image.manifest, image.media_type, tag)


@dataclass
class TokenServer:
    """Makes a registry require tokens, which its /token issues to anybody."""

    registry: ScriptedRegistry
    uses: int = 1 << 30
    """How many requests a token is valid for."""
    issued: int = 0
    """How many tokens have been issued."""
    scopes: list[str] = field(default_factory=list)
    """The scopes that were asked for."""
    _left: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.registry.on("/token", self._issue).on("/v2/.*", self.check)

    def _issue(self, request: Request) -> Response:
        with self._lock:
            self.issued += 1
            self.scopes += request.query.get("scope", [])
            token = hashlib.sha256(str(self.issued).encode()).hexdigest()
            self._left[token] = self.uses
        return json_response({"token": token, "expires_in": 300})

    def check(self, request: Request) -> Response | None:
        """Return a challenge for a request without a good token; None for one with it."""
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        with self._lock:
            if self._left.get(token, 0) > 0:
                self._left[token] -= 1
                return None
        return challenge(f'Bearer realm="{self.registry.url}/token",service="scripted"')


@dataclass
class PrivateTokens:
    """Makes a registry require tokens, which its /token issues only for a password or an identity token."""

    registry: ScriptedRegistry
    basic: str = ""
    identity_token: str = ""

    def __post_init__(self) -> None:
        self.registry.on("/token", self._issue).on("/v2/.*", self._check)

    def _issue(self, request: Request) -> Response:
        if request.method == "POST":
            wanted = {"grant_type": ["refresh_token"], "refresh_token": [self.identity_token], "service": ["scripted"]}
            is_right = bool(self.identity_token) and wanted.items() <= request.form.items()
        else:
            is_right = bool(self.basic) and request.headers.get("Authorization") == self.basic
        return json_response({"access_token": "good"}) if is_right else Response(401, b'{"details": "no"}')

    def _check(self, request: Request) -> Response | None:
        if request.headers.get("Authorization") == "Bearer good":
            return None
        return challenge(f'Bearer realm="{self.registry.url}/token",service="scripted"')


@dataclass
class Time:
    """A clock that only `sleep` moves."""

    now: float = 0.0
    slept: list[float] = field(default_factory=list)
    """The seconds of each sleep."""

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    @property
    def timing(self) -> Timing:
        """Return the timing of a run by this clock, with the longest pauses."""
        return Timing(lambda: self.now, self.sleep, lambda: 1.0)


def mirrored(
    reference: Reference, *mirrors: str, say: Callable[[str], None] = lambda line: None, time: Time | None = None
) -> Mirrors:
    """Return the registry of a reference with mirrors, on a separate clock."""
    return Mirrors(
        reference,
        mirrors,
        lambda where, plain: RegistryClient(where, insecure=plain),
        say,
        (time or Time()).timing,
    )


def challenge(header: str) -> Response:
    """Return a 401 with this `WWW-Authenticate`."""
    return Response.error(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": header})


def json_response(value: object, status: int = 200) -> Response:
    """Return a response with a JSON document."""
    return Response(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


def html() -> Response:
    """Return a web page, as captive portals do."""
    return Response(200, b"<!doctype html><title>Welcome</title>", {"Content-Type": "text/html; charset=utf-8"})


def tag_pages(
    names: list[str], size: int, link: str = '</v2/user/x/tags/list?n={n}&last={last}>; rel="next"'
) -> Callable[[Request], Response]:
    """Return what answers requests for a list of tags: those after `last`, at most `size` in a page."""

    def answer(request: Request) -> Response:
        last = request.query.get("last", [""])[0]
        start = names.index(last) + 1 if last else 0
        page = names[start : start + size]
        following = {"Link": link.format(n=size, last=page[-1])} if start + size < len(names) else {}
        body = json.dumps({"name": "user/x", "tags": page}).encode()
        return Response(200, body, {"Content-Type": "application/json", **following})

    return answer


def certificate_for(host: str, directory: Path) -> tuple[Path, Path]:
    """Create a self-signed certificate for an IP address; return its path and that of its key."""
    need("openssl")
    certificate, key = directory / f"{host}.pem", directory / f"{host}.key"
    subject = ("-subj", f"/CN={host}", "-addext", f"subjectAltName=IP:{host}")
    new = ("openssl", "req", "-x509", "-nodes", "-days", "2", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    run(*new, *subject, "-keyout", key, "-out", certificate)
    return certificate, key
