"""The client against a real HTTP server that misbehaves as each test says."""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from provisioner.errors import MalformedImage, NetworkError, NotAllowed, NotFound, ProvisionError, UsageError
from provisioner.image.digest import Digest
from provisioner.image.manifest import DOCUMENT_LIMIT, OCI_INDEX, OCI_MANIFEST, Descriptor
from provisioner.image.reference import Reference
from provisioner.registry import http, http_errors
from provisioner.registry.auth import RequestsUnderWay
from provisioner.registry.client import RegistryClient
from provisioner.registry.refusals import Incomplete, NoSuchRepository, NoSuchTag
from provisioner.registry.retry import TransientError
from scripts.loopback_registry import Response
from tests.support import builders
from tests.support.scripted_registry import (
    Broken,
    Raw,
    Request,
    ScriptedRegistry,
    TokenServer,
    certificate_for,
    challenge,
    html,
)
from tests.support.scripted_registry import json_response as answer
from tests.support.waiting import wait_until

IMAGE = builders.small()
LAYER = IMAGE.layers[0].blob
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
MANIFESTS, BLOBS = "/v2/user/x/manifests/.*", "/v2/user/x/blobs/.*"


@pytest.fixture
def registry(registry: ScriptedRegistry) -> ScriptedRegistry:
    """A registry with the image `user/x`."""
    registry.push("user/x", IMAGE)
    return registry


def client(registry: ScriptedRegistry | str, name: str = "user/x", *, insecure: bool = False) -> RegistryClient:
    host = registry if isinstance(registry, str) else registry.host
    return RegistryClient(Reference.parse(f"{host}/{name}"), insecure=insecure)


def described(data: bytes, media_type: str = OCI_MANIFEST) -> Descriptor:
    return Descriptor(media_type, Digest.of(data), len(data))


def fetched(registry: ScriptedRegistry, data: bytes = LAYER) -> bytes:
    return b"".join(client(registry).blob(described(data)))


@contextmanager
def refused(kind: type[ProvisionError], why: str, hint: str = "") -> Iterator[None]:
    """Assert that the block raises just this kind, with one line that matches `why` and a hint that matches `hint`."""
    with pytest.raises(kind) as caught:
        yield
    known = (http_errors.UntrustedCertificate, TransientError, NoSuchRepository, NoSuchTag, Incomplete)
    assert type(caught.value) in (kind, *known)
    assert re.search(why, caught.value.message)
    assert caught.value.message.isprintable()
    assert caught.value.hint
    assert re.search(hint, caught.value.hint)
    assert "secret" not in caught.value.message + caught.value.hint


# What goes well


def test_manifests_by_tag_and_digest_and_blobs(registry: ScriptedRegistry) -> None:
    pulled = client(registry)
    for selector in ("latest", builders.digest_of(IMAGE.manifest), described(IMAGE.manifest)):
        document = pulled.manifest(selector)
        assert (document.data, document.media_type) == (IMAGE.manifest, OCI_MANIFEST)
        assert document.digest == Digest.of(IMAGE.manifest)
    assert b"".join(pulled.blob(described(LAYER))) == LAYER
    assert len(registry.asked("/v2/")) == 1


def test_all_media_types_are_asked_for(registry: ScriptedRegistry) -> None:
    client(registry).manifest("latest")
    accepted = registry.asked(MANIFESTS)[0].headers.get_all("Accept")
    assert accepted is not None
    assert {OCI_INDEX, OCI_MANIFEST, builders.DOCKER_LIST, builders.DOCKER_MANIFEST} <= set(accepted)
    assert all("," not in line for line in accepted)  # as Go's clients; some registries read one line only as one type


def test_blobs_come_as_they_are_stored(registry: ScriptedRegistry) -> None:
    """Storage may call a gzip layer encoded, as if it were a web page."""
    registry.on(BLOBS, Response(200, LAYER, {"Content-Encoding": "gzip"}))
    assert fetched(registry) == LAYER
    assert registry.asked(BLOBS)[0].headers["Accept-Encoding"] == "identity"


def test_sha512(registry: ScriptedRegistry) -> None:
    digest = Digest("sha512", hashlib.sha512(IMAGE.manifest).hexdigest())
    registry.on(MANIFESTS, Response(200, IMAGE.manifest, {"Content-Type": OCI_MANIFEST}))
    assert client(registry).manifest(str(digest)).digest == digest


def test_nothing_on_this_machine_is_asked_for_through_a_proxy(
    registry: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert client(registry).manifest("latest").data == IMAGE.manifest


def test_a_proxy_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with refused(NetworkError, "the proxy to registry.invalid fails", "HTTPS_PROXY"):
        client("registry.invalid").manifest("latest")


# Tokens


def test_an_anonymous_token_is_asked_for_once(registry: ScriptedRegistry) -> None:
    server = TokenServer(registry)
    pulled = client(registry)
    pulled.manifest("latest")
    assert b"".join(pulled.blob(described(LAYER))) == LAYER
    assert (server.issued, server.scopes) == (1, ["repository:user/x:pull"])
    assert registry.asked("/token")[0].query["service"] == ["scripted"]
    assert all("Authorization" not in request.headers for request in registry.asked("/token"))


def test_a_token_that_ends_is_renewed(registry: ScriptedRegistry) -> None:
    server = TokenServer(registry, uses=1)
    pulled = client(registry)
    pulled.manifest("latest")
    assert b"".join(pulled.blob(described(LAYER))) == LAYER
    assert server.issued == 2


def test_a_token_that_several_downloads_use_up_is_renewed_as_often_as_it_takes(registry: ScriptedRegistry) -> None:
    blobs = [registry.add_blob("user/x", builders.incompressible(1000, number)) for number in range(40)]
    server = TokenServer(registry, uses=1)
    pulled = client(registry)

    def fetch(digest: str) -> int:
        return len(b"".join(pulled.blob(Descriptor("", Digest.parse(digest), 1000))))

    with ThreadPoolExecutor(16) as threads:
        assert set(threads.map(fetch, blobs)) == {1000}
    assert server.issued >= 40


def test_a_token_that_others_use_up_is_renewed_while_there_is_progress(registry: ScriptedRegistry) -> None:
    """Ten times in a row somebody else was faster, and got through."""
    TokenServer(registry)
    pulled, refusals = client(registry), 0

    def refuse(request: Request) -> Response | None:
        nonlocal refusals
        refusals += 1
        if refusals > 10:
            return None
        pulled.manifest("latest")
        return challenge(f'Bearer realm="{registry.url}/token",service="scripted"')

    registry.on(BLOBS, refuse)
    assert b"".join(pulled.blob(described(LAYER))) == LAYER
    assert refusals == 11


def test_a_token_that_requests_under_way_have_used_up_is_renewed(registry: ScriptedRegistry) -> None:
    """Of three at once, the last one is refused twice before the others have got their answers."""
    server, together, go_on = TokenServer(registry, uses=1), threading.Barrier(3), threading.Event()
    refused: list[Response] = []

    def check(request: Request) -> Response | None:
        if not refused:
            together.wait(60)
        if refusal := server.check(request):
            refused.append(refusal)
            return refusal
        assert go_on.wait(60)
        return None

    registry.on(BLOBS, check)
    pulled = client(registry)
    blob = described(LAYER)
    with ThreadPoolExecutor(3) as threads:
        pulls = [threads.submit(lambda: b"".join(pulled.blob(blob))) for _ in range(3)]
        wait_until(lambda: len(refused) == 3)
        wait_until(lambda: is_awaiting_others() or any(pull.done() for pull in pulls))
        go_on.set()
        assert [pull.result() for pull in pulls] == [LAYER] * 3


def is_awaiting_others() -> bool:
    """Return whether a thread waits for the answers to other threads."""
    waits = RequestsUnderWay.is_another_accepted.__code__
    return any(
        frame.f_code is waits for top in sys._current_frames().values() for frame, _ in traceback.walk_stack(top)
    )


def test_without_progress_the_renewal_ends(registry: ScriptedRegistry) -> None:
    """What a manifest names is there, so it is never \"not found\"."""
    TokenServer(registry)
    pulled = client(registry)
    pulled.manifest("latest")
    registry.on(BLOBS, challenge(f'Bearer realm="{registry.url}/token",service="scripted"'))
    with refused(NotAllowed, "refuses the blob [0-9a-f]+ of .*/user/x, whose manifest it gave", "try again"):
        list(pulled.blob(described(LAYER)))
    assert len(registry.asked(BLOBS)) == 4


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_server_that_refuses_in_the_middle_is_asked_again(registry: ScriptedRegistry, status: int) -> None:
    TokenServer(registry, uses=1)
    pulled = client(registry)
    pulled.manifest("latest")
    registry.on("/token", Response(status))
    with refused(TransientError, "the token server of .* refuses a token that it gave before"):
        list(pulled.blob(described(LAYER)))


def test_a_refusal_with_a_challenge_is_about_the_token(registry: ScriptedRegistry) -> None:
    server = TokenServer(registry)
    pulled = client(registry)
    pulled.manifest("latest")
    header = {"WWW-Authenticate": f'Bearer realm="{registry.url}/token",error="insufficient_scope"'}
    registry.on(BLOBS, Response.error(403, "DENIED", "expired", header), times=1)
    assert b"".join(pulled.blob(described(LAYER))) == LAYER
    assert server.issued == 2


def test_a_scope_that_the_ping_names_is_an_example(registry: ScriptedRegistry) -> None:
    """ghcr.io names `repository:user/image:pull`, whatever is to be pulled."""
    TokenServer(registry)
    registry.on("/v2/", challenge(f'Bearer realm="{registry.url}/token",scope="repository:user/image:pull"'))
    client(registry).manifest("latest")
    assert registry.asked("/token")[0].query["scope"] == ["repository:user/x:pull"]


def test_a_registry_that_asks_for_a_token_only_below_the_ping(registry: ScriptedRegistry) -> None:
    server = TokenServer(registry)
    registry.on("/v2/", Response(200, b"{}"))
    assert client(registry).manifest("latest").data == IMAGE.manifest
    assert server.issued == 1


def test_the_scope_that_a_path_wants_is_asked_for(registry: ScriptedRegistry) -> None:
    asking = challenge(f'Bearer realm="{registry.url}/token",scope="repository:user/x:pull,deep"')
    TokenServer(registry)
    registry.on("/v2/", Response(200, b"{}")).on(MANIFESTS, asking, times=1)
    client(registry).manifest("latest")
    assert registry.asked("/token")[0].query["scope"] == ["repository:user/x:pull,deep"]


def test_docker_hubs_bare_401_is_not_found_or_private(registry: ScriptedRegistry) -> None:
    TokenServer(registry, uses=0)
    hint = f"check the spelling; if it is private: provision login {registry.host}$"
    with refused(NotFound, r"user/x is not found, or it is private \(authentication required\)", hint):
        client(registry).manifest("latest")
    assert len(registry.asked(MANIFESTS)) == 2


@pytest.mark.parametrize(
    ("response", "error", "why"),
    [
        (Response.error(401, "UNAUTHORIZED", "no"), NotFound, r"not found, or it is private \(no\)"),
        (Response.error(403, "DENIED", "denied"), NotFound, r"not found, or it is private \(denied\)"),
        (Response.error(429, "TOOMANY", "slow"), NetworkError, r"too many requests \(slow\)"),
        (Response(500), NetworkError, "token server of .* answers with 500"),
        (Response(404), NetworkError, "token server of .* answers with 404"),
        (html(), NetworkError, "token server of .* something else than a token"),
        (answer([]), NetworkError, "token server of .* something else than a token"),
        (answer({}), NetworkError, "token server .* gave no token"),
        (answer({"token": {"a": 1}}), NetworkError, "token server .* gave no token"),
        (Response(200, bytes(DOCUMENT_LIMIT + 1)), MalformedImage, "more than 8 MiB"),
        (Response(302, b"", {"Location": "/token"}), NetworkError, "redirects more than 5 times"),
    ],
)
def test_token_servers_that_fail(
    registry: ScriptedRegistry, response: Response, error: type[ProvisionError], why: str
) -> None:
    TokenServer(registry)
    registry.on("/token", response)
    with refused(error, why):
        client(registry).manifest("latest")
    assert registry.asked(MANIFESTS) == []


@pytest.mark.parametrize(
    "realm", ["/token", "file:///etc/passwd", "http://[", "mailto:x", "http://", "\x1b[31m", "x y"]
)
def test_realms_that_are_no_address(registry: ScriptedRegistry, realm: str) -> None:
    registry.on("/v2/.*", challenge(f'Bearer realm="{realm}"'))
    with refused(NetworkError, "names an address that can't be used|can't be reached"):
        client(registry).manifest("latest")


def test_a_registry_that_wants_a_password_says_how_to_log_in(registry: ScriptedRegistry) -> None:
    registry.on("/v2/.*", challenge('Basic realm="Registry Realm"'))
    with refused(NotAllowed, "wants a user name and a password", f"provision login {registry.host}$"):
        client(registry).manifest("latest")


def test_no_password_of_netrc_is_sent(
    registry: ScriptedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    TokenServer(registry)
    client(registry).manifest("latest")
    sent = [request.headers.get("Authorization", "") for request in registry.requests]
    assert not [header for header in sent if header.startswith("Basic")]


def test_a_rate_limit_says_what_is_left_when_it_ends_and_how_to_have_more(registry: ScriptedRegistry) -> None:
    """Docker Hub's answer, as it is without a login."""
    quota = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "0;w=21600", "Retry-After": "2460"}
    registry.on(MANIFESTS, Response.error(429, "TOOMANYREQUESTS", "You have reached your limit", quota))
    why = r"too many requests \(You have reached your limit\); 100 are allowed in 6 hours, 0 are left$"
    hint = rf"^try again in 41 minutes, at \d\d:\d\d, or log in for more: provision login {registry.host}$"
    with refused(NetworkError, why, hint):
        client(registry).manifest("latest")


def test_a_tag_is_resolved_by_headers_alone(registry: ScriptedRegistry) -> None:
    named = client(registry).resolve("latest")
    assert named == described(IMAGE.manifest)
    assert [request.method for request in registry.asked(MANIFESTS)] == ["HEAD"]
    registry.on(MANIFESTS, lambda request: Response(200) if request.method == "HEAD" else None)
    assert client(registry).resolve("latest") == named


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_without_the_token(registry: ScriptedRegistry, status: int) -> None:
    TokenServer(registry)
    with ScriptedRegistry() as storage:
        storage.on("/there", Response(200, LAYER))
        registry.on(BLOBS, Response(status, b"", {"Location": f"{storage.url}/there?sig=1"}))
        assert fetched(registry) == LAYER
        assert [request.query for request in storage.requests] == [{"sig": ["1"]}]
        assert "Authorization" not in storage.requests[0].headers


def test_a_relative_redirect_keeps_the_token(registry: ScriptedRegistry) -> None:
    TokenServer(registry)
    moved = Response(307, b"", {"Location": f"/v2/user/x/blobs/{builders.digest_of(LAYER)}"})
    registry.on(BLOBS, moved, times=1)
    assert fetched(registry) == LAYER
    assert len(registry.asked("/token")) == 1


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("/v2/", "redirects more than 5 times"),
        ("http://[::1", "names an address that can't be used: 'http://\\[::1'"),
        ("file:///etc/passwd", "names an address that can't be used"),
        ("http://user:secret@127.0.0.1:1/", "names an address that can't be used: 'http://…@127.0.0.1:1/'"),
        ("http://127.0.0.1:1/", "127.0.0.1:1 can't be reached: Connection refused"),
        ("https://registry.invalid/", "registry.invalid can't be reached"),
        ("http://\x1b[31m.invalid/", "can't be"),
    ],
)
def test_redirects_that_lead_nowhere(registry: ScriptedRegistry, location: str, why: str) -> None:
    def redirected(request: Request) -> Response:
        return Response(
            302, b"", {"Location": f"/v2/user/x/blobs/{len(registry.requests)}" if location == "/v2/" else location}
        )

    registry.on(BLOBS, redirected)
    with refused(NetworkError, why):
        fetched(registry)


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificate_for("127.0.0.1", tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def tls_registry(certificate: tuple[Path, Path]) -> Iterator[ScriptedRegistry]:
    """The same with a certificate that nobody knows."""
    with ScriptedRegistry(certificate) as served:
        served.push("user/x", IMAGE)
        yield served


def test_an_unknown_certificate_is_refused(tls_registry: ScriptedRegistry) -> None:
    with refused(
        NetworkError, "certificate that can't be verified: self-signed certificate$", "REQUESTS_CA_BUNDLE.*--insecure"
    ):
        client(tls_registry).manifest("latest")
    assert tls_registry.requests == []


def test_an_unknown_certificate_is_accepted_with_insecure(tls_registry: ScriptedRegistry) -> None:
    assert client(tls_registry, insecure=True).manifest("latest").data == IMAGE.manifest


def test_a_certificate_of_ones_own(
    tls_registry: ScriptedRegistry, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    assert client(tls_registry).manifest("latest").data == IMAGE.manifest


def test_a_bundle_of_certificates_that_is_not_there(
    tls_registry: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/bundle.pem", "REQUESTS_CA_BUNDLE")
    with refused(UsageError, "/nowhere/bundle.pem", "REQUESTS_CA_BUNDLE"):
        client(tls_registry).manifest("latest")


def test_a_certificate_for_another_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = certificate_for("127.0.0.2", tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other[0]))
    with ScriptedRegistry(other) as registry, refused(NetworkError, "certificate is not valid for '127"):
        client(registry).manifest("latest")


def test_a_redirect_from_https_to_http_is_refused(tls_registry: ScriptedRegistry) -> None:
    tls_registry.on(BLOBS, Response(307, b"", {"Location": "http://127.0.0.1:1/"}))
    pulled = client(tls_registry, insecure=True)
    with refused(NetworkError, "redirects from https to something else"):
        list(pulled.blob(described(LAYER)))


def test_a_token_from_plain_http_is_refused(tls_registry: ScriptedRegistry) -> None:
    tls_registry.on("/v2/.*", challenge('Bearer realm="http://127.0.0.1:1/token"'))
    with refused(NetworkError, "wants a token from plain http"):
        client(tls_registry, insecure=True).manifest("latest")


@contextmanager
def elsewhere(registry: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The registry by a name that doesn't sound like this machine."""
    port = registry.host.rpartition(":")[2]
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest: real("127.0.0.1" if host == "far.example" else host, *rest)
    )
    yield f"far.example:{port}"


def test_plain_http_elsewhere_only_with_insecure(registry: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    with elsewhere(registry, monkeypatch) as host:
        with refused(NetworkError, "^far.example:[0-9]+ doesn't speak https: wrong version number$", "--insecure"):
            client(host).manifest("latest")
        assert registry.requests == []
        assert client(host, insecure=True).manifest("latest").data == IMAGE.manifest


# Pings


ODD_PINGS = [
    (html(), NetworkError, "is not a registry: it answers with a web page"),
    (Response(404), NetworkError, "is not a registry: it answers with 404 Not Found"),
    (Response(404, b"<html>", {"Content-Type": "text/html"}), NetworkError, "is not a registry: .* a web page"),
    (Response(405), NetworkError, "is not a registry: it answers with 405"),
    (Response(501), NetworkError, "is not a registry: it answers with 501"),
    (Response(204), NetworkError, "is not a registry: it answers with 204"),
    (Response(403), NotAllowed, "refuses access"),
    (Response.error(403, "DENIED", "no ping"), NotAllowed, r"refuses access \(no ping\)"),
    (Response(401), NotAllowed, "wants a user name and a password"),
    (challenge("Negotiate"), NotAllowed, "wants a user name and a password"),
    (challenge('Basic realm="r"'), NotAllowed, "wants a user name and a password"),
]


@pytest.mark.parametrize(("response", "error", "why"), ODD_PINGS)
def test_the_ping_has_no_last_word(
    registry: ScriptedRegistry, response: Response, error: type[ProvisionError], why: str
) -> None:
    """The repository decides; only where it can't be read either, the ping says why."""
    registry.on("/v2/", response)
    reading = client(registry)
    assert reading.manifest("latest").data == IMAGE.manifest
    assert fetched(registry) == LAYER
    assert reading.resolve("latest").digest == Digest.of(IMAGE.manifest)
    with refused(NotFound, "has no tag 'nowhere'"):
        reading.manifest("nowhere")
    with refused(error, why):
        reading.check_login()
    registry.on(MANIFESTS, Response(404 if response.status == 200 else response.status, b"", response.headers))
    for _ in range(2):
        with refused(error, f"^{registry.host} {why}" if "refuses" not in why else why):
            reading.manifest("latest")


def test_a_web_page_everywhere_is_no_registry(registry: ScriptedRegistry) -> None:
    registry.on("/.*", html())
    with refused(NetworkError, "is not a registry: it answers with a web page"):
        client(registry).manifest("latest")


def test_a_token_is_asked_for_below_a_ping_that_wants_a_password(registry: ScriptedRegistry) -> None:
    tokens = TokenServer(registry)
    registry.on("/v2/", challenge('Basic realm="r"'))
    assert client(registry).manifest("latest").data == IMAGE.manifest
    assert tokens.issued == 1


@pytest.mark.parametrize(
    ("response", "error", "why"),
    [
        (Response.error(429, "TOOMANY", "slow down"), NetworkError, r"too many requests \(slow down\)"),
        (Response(500), NetworkError, "answers with 500 Internal Server Error for the ping"),
        (Response(503, b"<html>"), NetworkError, "answers with 503"),
        (Broken(200, sent=0, body=b"x" * 10), None, ""),
    ],
)
def test_pings(registry: ScriptedRegistry, response: Response, error: type[ProvisionError] | None, why: str) -> None:
    registry.on("/v2/", response)
    if error is None:  # the status says it all
        assert client(registry).manifest("latest").data == IMAGE.manifest
        return
    with refused(error, why):
        client(registry).manifest("latest")


# HEAD, and documents that are only there in one way


def only(method: str, response: Response | Callable[[Request], Response]) -> Callable[[Request], Response | None]:
    """Return what answers requests of this method; others are answered by the registry itself."""
    return lambda request: (
        None if request.method != method else response if isinstance(response, Response) else response(request)
    )


DIGEST = builders.digest_of(IMAGE.manifest)
WRONG_HEADS = [
    *(Response(status) for status in (400, 401, 403, 404, 405, 406, 501)),
    Response(403, b"", {"Content-Type": "text/html"}),
    challenge("Negotiate"),
    Response(200),
    Response(200, b"", {"Docker-Content-Digest": DIGEST}),
    Response(200, b"x" * 40, {"Docker-Content-Digest": "sha256:5", "Content-Type": OCI_MANIFEST}),
    Response(200, b"x" * 40, {"Docker-Content-Digest": DIGEST, "Content-Type": "text/html; charset=utf-8"}),
    Response(204),
]


@pytest.mark.parametrize("selector", ["latest", DIGEST])
@pytest.mark.parametrize("head", WRONG_HEADS)
def test_where_head_is_refused_or_wrong_get_decides(registry: ScriptedRegistry, head: Response, selector: str) -> None:
    registry.on(MANIFESTS, only("HEAD", head))
    found = client(registry).resolve(selector)
    assert (found.media_type, str(found.digest), found.size) == (OCI_MANIFEST, DIGEST, len(IMAGE.manifest))


def test_where_head_is_refused_the_error_is_that_of_get(registry: ScriptedRegistry) -> None:
    registry.on(MANIFESTS, only("HEAD", Response(405)))
    with refused(NotFound, r"has no tag 'nowhere' \(no manifest"):
        client(registry).resolve("nowhere")
    registry.on(MANIFESTS, only("HEAD", Response(503)))
    with refused(NetworkError, "answers with 503"):  # to be tried again
        client(registry).resolve("latest")


@pytest.mark.parametrize("answer", [Response(404), Response.error(404, "MANIFEST_UNKNOWN", "unknown")])
def test_a_registry_that_answers_only_tags(registry: ScriptedRegistry, answer: Response) -> None:
    """With `NAME:TAG@DIGEST` the tag will do: the digest is verified."""
    registry.on("/v2/user/x/(manifests|blobs)/sha256:.*", answer)
    both = RegistryClient(Reference.parse(f"{registry.host}/user/x:latest@{DIGEST}"))
    assert both.manifest(DIGEST).data == IMAGE.manifest
    with refused(NotFound, "has no manifest sha256"):
        client(registry).manifest(DIGEST)
    registry.push("user/x", builders.small(run={"User": "other"}))
    with refused(NotFound, "has no manifest sha256"):
        both.manifest(DIGEST)


def test_a_registry_that_has_manifests_among_its_blobs_alone(registry: ScriptedRegistry) -> None:
    """As containerd looks for them. They are verified there as well."""
    registry.on(MANIFESTS, Response(404))
    registry.add_blob("user/x", IMAGE.manifest)
    found = client(registry).manifest(described(IMAGE.manifest))
    assert (found.data, found.media_type) == (IMAGE.manifest, OCI_MANIFEST)
    registry.on("/v2/user/x/blobs/.*", Response(200, IMAGE.manifest + b" "))
    with refused(MalformedImage, "incomplete: the registry has no manifest"):
        client(registry).manifest(described(IMAGE.manifest))


def test_a_registry_that_is_down() -> None:
    with refused(NetworkError, "^127.0.0.1:1 can't be reached: Connection refused$"):
        client("127.0.0.1:1").manifest("latest")


def test_a_host_that_has_no_address() -> None:
    with refused(NetworkError, "registry.invalid can't be reached"):
        client("registry.invalid").manifest("latest")


@contextmanager
def listening(talk: Callable[[socket.socket], object]) -> Iterator[str]:
    """Something at `127.0.0.1:PORT` that talks to clients: plain HTTP is tried there first, then https."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):  # at the end
                while True:
                    connection, _ = server.accept()
                    with connection, suppress(OSError):
                        talk(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join(60)


@pytest.mark.parametrize("says", [b"SSH-2.0-OpenSSH_9.2\r\n", b"", b"\x00\x01\x02", b"HTTP/1.1 999999 \r\n\r\n"])
def test_something_that_is_no_web_server(says: bytes) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(9999)
        connection.sendall(says)

    with listening(talk) as host, refused(NetworkError, f"^{host} can't be reached: (?!.*version)"):
        client(host).manifest("latest")


def test_a_server_with_tls_that_answers_plain_http_too(certificate: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    def talk(connection: socket.socket) -> None:
        if connection.recv(1, socket.MSG_PEEK) == b"\x16":  # a TLS handshake
            context.wrap_socket(connection, server_side=True).close()
        else:
            connection.recv(9999)
            connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")

    with listening(talk) as host, refused(NetworkError, f"^{host} has a certificate that can't be verified"):
        client(host).manifest("latest")


def test_a_server_that_is_silent(registry: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SILENCE_SECONDS", 0.2)
    ended = threading.Event()
    registry.on(BLOBS, Broken(200, LAYER, sent=20, wait=ended))
    with refused(NetworkError, "127.0.0.1:[0-9]+ doesn't answer in time"):
        fetched(registry)
    registry.on(MANIFESTS, lambda request: Response(500 if ended.wait(20) else 501))
    with refused(NetworkError, "127.0.0.1:[0-9]+ doesn't answer in time"):
        client(registry).manifest("latest")
    ended.set()


# Answers


@pytest.mark.parametrize(
    ("response", "error", "why"),
    [
        (
            Response.error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
            NotFound,
            r"no tag 'latest' \(manifest unknown\)",
        ),
        (Response(404, b"<html>"), NotFound, "no tag 'latest'$"),
        (Response.error(404, "X", "\x1b[31mred\n"), NotFound, r"\(\\x1b\[31mred\\n\)"),
        (Response.error(404, "X", "y" * 10**5), NotFound, r"no tag 'latest'( \(y{200}\))?$"),
        (answer({"errors": [{"code": "DENIED"}]}, 403), NotFound, r"not found, or it is private \(DENIED\)"),
        (answer({"errors": {"a": "b"}}, 403), NotFound, "not found, or it is private$"),
        (answer({"errors": [None]}, 401), NotFound, "not found, or it is private$"),
        (answer({"errors": [{"detail": "x"}]}, 401), NotFound, "not found, or it is private$"),
        (Response(429, b"", {"Retry-After": "60"}), NetworkError, "too many requests"),
        (Response(500), NetworkError, "answers with 500 Internal Server Error for the tag 'latest'"),
        (Response(206, b"{}"), NetworkError, "answers with 206"),
        (Response(302), NetworkError, "answers with 302"),
        (html(), MalformedImage, "user/x: tag 'latest': the registry's answer is not JSON"),
        (answer({"schemaVersion": 1}), MalformedImage, "schema 1"),
        (answer({"a": 1}), MalformedImage, "not an image but 'application/json'"),
        (answer([]), MalformedImage, "is not a JSON object"),
        (Response(200), MalformedImage, "is not JSON"),
        (Response(200, bytes(DOCUMENT_LIMIT + 1)), MalformedImage, "has more than 8 MiB"),
        (
            Response(200, IMAGE.manifest, {"Docker-Content-Digest": builders.digest_of(b"other")}),
            MalformedImage,
            "the registry's answer does not match its digest",
        ),
        (
            Response(200, IMAGE.manifest, {"Docker-Content-Digest": "sha1:5"}),
            MalformedImage,
            "'sha1:5' is not a sha256",
        ),
        (Broken(200, IMAGE.manifest, sent=50), NetworkError, "broke off"),
        (Broken(200, IMAGE.manifest, sent=50, announced=False), MalformedImage, "is not JSON"),
    ],
)
def test_tags_answered_wrongly(
    registry: ScriptedRegistry, response: Response, error: type[ProvisionError], why: str
) -> None:
    registry.on(MANIFESTS, response)
    with refused(error, why):
        client(registry).manifest("latest")


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (Response(200, IMAGE.manifest + b" "), r"bytes, [0-9]+ were announced"),
        (Response(200, IMAGE.manifest.replace(b"2", b"3")), "does not match its digest"),
        (Response(404), f"incomplete: the registry has no manifest {builders.digest_of(IMAGE.manifest)}"),
    ],
)
def test_a_manifest_that_is_not_what_its_index_says(registry: ScriptedRegistry, response: Response, why: str) -> None:
    registry.on(MANIFESTS, response)
    with refused(MalformedImage, why):
        client(registry).manifest(described(IMAGE.manifest))


def test_an_unknown_image(registry: ScriptedRegistry) -> None:
    with refused(NotFound, r"/user/z is not found \(no repository user/z\)$"):
        client(registry, "user/z").manifest("latest")


@pytest.mark.parametrize(
    ("response", "error", "why"),
    [
        (Response(404), MalformedImage, "user/x is incomplete: the registry has no blob"),
        (Response(500), NetworkError, "answers with 500 Internal Server Error for the blob"),
        (Broken(200, LAYER, sent=20), NetworkError, f"broke off: 20 B came, {len(LAYER) - 20} B are missing$"),
        (
            Raw(200, pieces=[CHUNKED, b"5\r\nhello\r\nx\r\n"]),
            NetworkError,
            "broke off: the size of the next part is missing",
        ),
        (Raw(200, pieces=[CHUNKED, b"5\r\nhel"]), NetworkError, "broke off: 3 B came, 2 B are missing$"),
    ],
)
def test_blobs_answered_wrongly(
    registry: ScriptedRegistry, response: Response, error: type[ProvisionError], why: str
) -> None:
    registry.on(BLOBS, response)
    with refused(error, why):
        fetched(registry)
