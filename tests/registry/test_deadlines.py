"""Servers that never end: a document has a deadline as a whole, a blob one for all that isn't its content."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from provisioner.errors import MalformedImage, NetworkError, ProvisionError
from provisioner.image.digest import Digest
from provisioner.image.manifest import CONFIG_TYPES, Descriptor
from provisioner.image.reference import Reference
from provisioner.registry import connection, http
from provisioner.registry.authfile import Login
from provisioner.registry.client import RegistryClient
from provisioner.registry.credentials import Credentials
from provisioner.registry.hub import Hub
from provisioner.registry.retry import TransientError
from provisioner.registry.tags import tag_names
from tests.support import builders
from tests.support.proxies import Proxy
from tests.support.scripted_registry import Raw, ScriptedRegistry, TokenServer, certificate_for

IMAGE = builders.small()
LAYER = IMAGE.layers[0].blob
BLOB = Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", Digest.of(LAYER), len(LAYER))
CONFIG = Descriptor(CONFIG_TYPES[0], Digest.of(LAYER), len(LAYER))
OK, CHUNKED = b"HTTP/1.1 200 OK\r\n", b"Transfer-Encoding: chunked\r\n\r\n"

SLOW = r"doesn't answer in time$"

ENDLESS_HEADS = {
    "status": (b"HTTP/1.1 200 ", b"O"),
    "header": (OK + b"X: ", b"a"),
    "headers": (OK, b"X: a\r\n"),
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "headers of continue": (b"HTTP/1.1 100 Continue\r\nX: ", b"a"),
}
ENDLESS_BODIES = {
    "body": (OK + b"Content-Length: 1000000\r\n\r\n", b" "),
    "body without a length": (OK + b"\r\n", b" "),
    "chunks": (OK + CHUNKED, b"1\r\n \r\n"),
    "size of a chunk": (OK + CHUNKED, b"0"),
    "extension of a chunk": (OK + CHUNKED + b"1;", b"x"),
    "trailer": (OK + CHUNKED + b"2\r\n{}\r\n0\r\nX: ", b"a"),
    "trailers": (OK + CHUNKED + b"2\r\n{}\r\n0\r\n", b"X: a\r\n"),
}
ENDLESS = {**ENDLESS_HEADS, **ENDLESS_BODIES}


class Clock:
    """A clock that goes forward with what slow servers send, so that only that takes long, and no test does."""

    current: Clock

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


class Slow:
    """The pieces of a response that take `seconds` each."""

    def __init__(self, pieces: Iterable[bytes], seconds: float = 3.0) -> None:
        self._pieces, self._seconds, self._clock = pieces, seconds, Clock.current

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self._clock.ahead += self._seconds
            yield piece


def drip(kind: str) -> Raw:
    """A response that goes on for ever, byte by byte, and is never silent for long."""
    start, more = ENDLESS[kind]
    return drops(start, more)


def drops(start: bytes, more: bytes) -> Raw:
    """One byte after the other, for a minute: a test that waits for longer has failed."""
    return Raw(200, pieces=Slow(_Drops(start, more)), pause=0.03)


class _Drops:
    def __init__(self, start: bytes, more: bytes) -> None:
        self._start, self._more = start, more

    def __iter__(self) -> Iterator[bytes]:
        endless = itertools.chain(
            [self._start] if self._start else [], (bytes([b]) for b in itertools.cycle(self._more))
        )
        return itertools.islice(endless, 2000)


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the deadline for documents ends a test in time."""
    Clock.current = Clock()
    for module in (connection, http):
        monkeypatch.setattr(module, "time", Clock.current)
    monkeypatch.setattr(http, "SILENCE_SECONDS", 600.0)


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    with ScriptedRegistry() as served:
        served.push("user/x", IMAGE)
        yield served


def client(registry: ScriptedRegistry, login: Login | None = None) -> RegistryClient:
    return RegistryClient(Reference.parse(f"{registry.host}/user/x"), credentials=Credentials((), login))


def blob(registry: ScriptedRegistry, descriptor: Descriptor = BLOB) -> bytes:
    return b"".join(client(registry).blob(descriptor))


# Documents


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_manifest_that_never_ends(registry: ScriptedRegistry, kind: str) -> None:
    registry.on("/v2/user/x/manifests/.*", drip(kind))
    with pytest.raises(TransientError, match=SLOW):
        client(registry).manifest("latest")
    assert len(registry.asked("/v2/user/x/manifests/.*")) == 1


Ask = Callable[[ScriptedRegistry], object]
DOCUMENTS: dict[str, tuple[str, Ask]] = {
    "ping": ("/v2/", lambda registry: client(registry).manifest("latest")),
    "token": ("/token", lambda registry: client(registry).manifest("latest")),
    "token for a password": ("/token", lambda registry: client(registry, Login("me", "x")).manifest("latest")),
    "token for a token": ("/token", lambda registry: client(registry, Login("", "", "x")).manifest("latest")),
    "check of a login": ("/token", lambda registry: client(registry, Login("me", "x")).check_login()),
    "tags": ("/v2/user/x/tags/list", lambda registry: tag_names(client(registry).tags_page, registry.host)),
    "config": ("/v2/user/x/blobs/.*", lambda registry: blob(registry, CONFIG)),
    "search": ("/v2/search/.*", lambda registry: Hub(registry.url).search("x", 1)),
    "tags of the hub": ("/v2/repositories/.*", lambda registry: Hub(registry.url).tags("user/x")),
}


@pytest.mark.parametrize("kind", ["header", "continue", "chunks"])
@pytest.mark.parametrize("document", DOCUMENTS)
def test_other_documents_that_never_end(registry: ScriptedRegistry, document: str, kind: str) -> None:
    path, ask = DOCUMENTS[document]
    if path == "/token":
        TokenServer(registry)
    registry.on(path, drip(kind))
    if (document, kind) == ("ping", "chunks"):  # the status says it all: the body isn't read
        ask(registry)
        return
    with pytest.raises(NetworkError, match=SLOW):
        ask(registry)
    assert registry.asked(path)


@pytest.mark.parametrize("kind", ENDLESS_HEADS)
def test_a_head_alone_that_never_ends(registry: ScriptedRegistry, kind: str) -> None:
    registry.on("/v2/user/x/manifests/.*", drip(kind))
    with pytest.raises(TransientError, match=SLOW):
        client(registry).resolve("latest")


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("manifests/latest", b"404 Not Found", "has no tag"),
        ("manifests/latest", b"401 Unauthorized", "is private"),
        ("manifests/latest", b"500 Oops", "answers with 500"),
        ("blobs/.*", b"404 Not Found", "has no blob"),
        ("blobs/.*", b"401 Unauthorized", "refuses the blob"),
        ("blobs/.*", b"500 Oops", "answers with 500"),
    ],
)
def test_an_error_that_never_ends_is_that_error(
    registry: ScriptedRegistry, path: str, status: bytes, error: str
) -> None:
    """What it says is left out."""
    head = b"HTTP/1.1 " + status + b"\r\nContent-Length: 60000\r\n\r\n"
    registry.on(f"/v2/user/x/{path}", drops(head + b'{"errors": ', b" "))
    with pytest.raises((ProvisionError, TransientError), match=error):
        client(registry).manifest("latest") if path.startswith("m") else blob(registry)
    assert sum(registry.sent.values()) < 1000


def test_all_redirects_together_have_one_deadline(registry: ScriptedRegistry) -> None:
    """Each of them alone is quick enough."""
    moved = (OK.replace(b"200 OK", b"307 Moved") + b"Location: /again\r\nContent-Length: 0\r\n\r\n",)
    registry.on("/again|/v2/user/x/manifests/.*", Raw(307, pieces=Slow(moved, 11.0)))
    with pytest.raises(TransientError, match=SLOW):
        client(registry).manifest("latest")


def test_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = certificate_for("127.0.0.1", tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    with ScriptedRegistry(certificate) as registry:
        for kind in ("continue", "chunks"):
            registry.on("/m", drip(kind))
            with pytest.raises(TransientError, match=SLOW):
                http.limited_body(http.Http(insecure=False, connections=1).get(f"{registry.url}/m", {}), 1 << 20)


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
@pytest.mark.parametrize("kind", ["header", "body"])
def test_through_a_proxy(registry: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch, scheme: str, kind: str) -> None:
    registry.on("/m", drip(kind))
    with Proxy(registry.host) as proxy:
        monkeypatch.setenv("ALL_PROXY", f"{scheme}://{proxy.host}")
        for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY", "http_proxy"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(TransientError, match=SLOW):
            http.limited_body(http.Http(insecure=True, connections=1).get("http://far.example/m", {}), 1 << 20)
        assert proxy.asked


# Blobs


def test_a_blob_may_take_any_time_as_long_as_bytes_arrive(registry: ScriptedRegistry) -> None:
    head = OK + b"Content-Length: %d\r\n\r\n" % len(LAYER)
    step = -(-len(LAYER) // 40)
    pieces = [head, *(LAYER[at : at + step] for at in range(0, len(LAYER), step))]
    registry.on("/b", Raw(200, pieces=Slow(pieces), pause=0.01))
    client = http.Http(insecure=False, connections=1)
    with pytest.raises(TransientError, match=SLOW):
        http.limited_body(client.get(f"{registry.url}/b", {}), 1 << 20)
    assert http.limited_body(client.get(f"{registry.url}/b", {}, is_blob=True), 1 << 20) == LAYER


@pytest.mark.parametrize("kind", [*ENDLESS_HEADS, "trailer", "trailers"])
def test_what_is_no_content_of_a_blob_and_never_ends(
    registry: ScriptedRegistry, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "SILENCE_SECONDS", 30.0)
    registry.on("/v2/user/x/blobs/.*", drip(kind))
    with pytest.raises(TransientError, match=SLOW):
        blob(registry)


@pytest.mark.parametrize("more", [b"X: a\r\n", b"a"])
def test_what_follows_a_blob_has_a_deadline(registry: ScriptedRegistry, more: bytes) -> None:
    start = OK + CHUNKED + b"%x\r\n%b\r\n0\r\nX: " % (len(LAYER), LAYER)
    registry.on("/v2/user/x/blobs/.*", drops(start, more))
    with pytest.raises(TransientError, match=SLOW):
        blob(registry)


# Floods: as fast as it goes, and more than memory holds

FLOOD = 32 << 20
"""Bytes that a flood has, more than the system's buffers hold."""


@pytest.mark.parametrize("kind", [kind for kind in ENDLESS if kind not in ("body", "body without a length")])
@pytest.mark.parametrize("path", ["/v2/user/x/manifests/latest", f"/v2/user/x/blobs/{BLOB.digest}"])
def test_what_comes_without_an_end_is_not_kept(
    registry: ScriptedRegistry, kind: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """urllib3 before 2.8 collected the size of a chunk until memory was full."""
    for name in ("DOCUMENT_SECONDS", "SILENCE_SECONDS"):
        monkeypatch.setattr(http, name, 0.4)
    start, more = ENDLESS[kind]
    registry.on(path, Raw(200, pieces=[start, *[more * (1 << 16)] * (FLOOD // len(more) >> 16)]))
    with pytest.raises((NetworkError, MalformedImage)):
        client(registry).manifest("latest") if "manifests" in path else blob(registry)
    assert registry.sent[path] < FLOOD // 2


# Connections


def test_an_address_that_swallows_everything_leaves_time_for_the_next(
    registry: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "CONNECT_SECONDS", 4.0)
    with ExitStack() as stack:
        port = swallow(stack, int(registry.host.rpartition(":")[2]))
        real = socket.getaddrinfo
        addresses = ["127.0.0.2", "127.0.0.1"]
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda host, *rest: [found for a in addresses for found in real(a, *rest)]
        )
        found = RegistryClient(Reference.parse(f"localhost:{port}/user/x")).manifest("latest")
        assert found.data == IMAGE.manifest
        monkeypatch.setattr(http, "CONNECT_SECONDS", 0.5)
        addresses = ["127.0.0.2"] * 200
        with pytest.raises(NetworkError, match=SLOW):
            RegistryClient(Reference.parse(f"localhost:{port}/user/x")).manifest("latest")


def test_a_name_that_is_looked_up_for_too_long(registry: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def look_up(*words: Any) -> list[Any]:
        Clock.current.ahead += http.CONNECT_SECONDS
        return real(*words)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(TransientError, match=SLOW):
        client(registry).manifest("latest")


def swallow(stack: ExitStack, port: int) -> int:
    """Listen at 127.0.0.2 and let no connection in: the queue is full. Return the port."""
    server = stack.enter_context(socket.create_server(("127.0.0.2", port), backlog=0))
    for _ in range(3):
        waiting = stack.enter_context(socket.socket())
        waiting.setblocking(False)
        waiting.connect_ex(("127.0.0.2", port))
    return int(server.getsockname()[1])
