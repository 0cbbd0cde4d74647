"""LXC image servers and their mirrors, on loopback: what is asked of which, and what each failure leads to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.errors import MalformedImage, NetworkError, NotFound
from provisioner.image.server_address import ServerAddress
from provisioner.image.simplestreams import Build
from provisioner.image.source_name import Lxc
from provisioner.registry import lxc_server
from provisioner.registry.lxc_server import LxcImages
from scripts.loopback_registry import Response
from tests.support.authorities import Authority
from tests.support.lxc_server import IMAGES, INDEX, LxcServer, rootfs
from tests.support.scripted_registry import Broken, Time, html, json_response

DEBIAN = Lxc("debian", "bookworm")
ROOTFS = rootfs()


@pytest.fixture
def server() -> Iterator[LxcServer]:
    with LxcServer() as running:
        running.add("debian/bookworm", ROOTFS)
        yield running


@pytest.fixture
def mirror(server: LxcServer) -> Iterator[LxcServer]:
    with server.mirror() as running:
        yield running


class Asked:
    """The client of a server with mirrors, and the lines that it says."""

    def __init__(
        self, origin: str, *mirrors: str, insecure: bool = False, known: lxc_server.KnownLists | None = None
    ) -> None:
        self.lines: list[str] = []
        clients = [
            lxc_server.LxcServer(ServerAddress.parse(text), insecure=insecure, known=known)
            for text in (origin, *mirrors)
        ]
        self.images = LxcImages(clients[0], clients[1:], self.lines.append, Time().timing)

    def build(self) -> Build:
        [build] = self.images.products().builds(DEBIAN).values()
        return build

    def fetch(self, start: int = 0) -> bytes:
        build = self.build()
        return b"".join(self.images.blob(build.path, build.descriptor, start))


def test_a_root_file_system_with_a_colon_in_its_path(server: LxcServer) -> None:
    asked = Asked(server.address)
    assert asked.fetch() == ROOTFS
    assert asked.lines == []
    [request] = server.asked(".*rootfs.*")
    assert request.path == "/images/debian/bookworm/amd64/default/20260912_05%3A24/rootfs.tar.xz"
    assert [each.path for each in server.requests] == [INDEX, IMAGES, request.path]
    assert {each.headers["Accept-Encoding"] for each in server.requests[:2]} == {"gzip"}


def test_the_rest_of_a_file(server: LxcServer) -> None:
    assert Asked(server.address).fetch(100) == ROOTFS[100:]
    server.on(".*rootfs.*", Response(200, ROOTFS))
    assert Asked(server.address).fetch(100) == ROOTFS[100:]


def test_the_list_comes_from_the_server_and_the_file_from_the_mirror(server: LxcServer, mirror: LxcServer) -> None:
    asked = Asked(server.address, mirror.address)
    assert asked.fetch() == ROOTFS
    assert [request.path for request in mirror.requests] == [
        "/lxc-images/images/debian/bookworm/amd64/default/20260912_05%3A24/rootfs.tar.xz"
    ]
    assert [request.path for request in server.requests] == [INDEX, IMAGES]
    assert asked.lines == []


def test_a_mirror_that_lacks_the_newest_build(server: LxcServer, mirror: LxcServer) -> None:
    mirror.files.clear()
    asked = Asked(server.address, mirror.address)
    assert asked.fetch() == ROOTFS
    [line] = asked.lines
    assert "is not asked any more: " in line
    assert "has no images/debian/bookworm/amd64/default/20260912_05:24/rootfs.tar.xz" in line


def test_a_build_that_no_server_has(server: LxcServer, mirror: LxcServer) -> None:
    server.files.clear()
    mirror.files.clear()
    with pytest.raises(lxc_server.Missing, match=f"{server.host} has no images/debian/bookworm"):
        Asked(server.address, mirror.address).fetch()


@pytest.mark.parametrize("path", [INDEX, IMAGES])
@pytest.mark.parametrize(
    "blocked",
    [Response(403), Response(451), Response(503), html(), Broken(0), Broken(200, b"{" * 100, sent=9), Response(404)],
)
def test_where_the_server_is_blocked_the_list_comes_from_a_mirror_and_that_is_said(
    server: LxcServer, mirror: LxcServer, path: str, blocked: Response
) -> None:
    server.on(path, blocked)
    asked = Asked(server.address, mirror.address)
    if (path, blocked.status) == (IMAGES, 404):  # an answer of the server itself: it has an index without its list
        with pytest.raises(NotFound):
            asked.build()
        return
    assert asked.build().digest.hex == server.item(asked.build().path)["sha256"]
    said = f"the list of LXC images comes from the mirror {mirror.host}; it is trusted then: the hashes are its own"
    assert said in asked.lines


def test_a_server_that_cannot_be_reached(mirror: LxcServer) -> None:
    asked = Asked("127.0.0.1:1", mirror.address)
    assert asked.fetch() == ROOTFS
    assert "it is trusted then" in asked.lines[-1]
    with pytest.raises(NetworkError, match=r"127\.0\.0\.1:1 can't be reached"):
        Asked("127.0.0.1:1").build()


def test_an_answer_of_the_server_itself_is_final(server: LxcServer, mirror: LxcServer) -> None:
    server.on(IMAGES, Response(200, b'{"products": []}'))
    with pytest.raises(MalformedImage):
        Asked(server.address, mirror.address).build()
    assert mirror.requests == []


def test_both_documents_come_from_the_same_server(server: LxcServer, mirror: LxcServer) -> None:
    server.on(IMAGES, Response(503))
    Asked(server.address, mirror.address).build()
    assert [request.path for request in mirror.requests] == [f"/lxc-images{INDEX}", f"/lxc-images{IMAGES}"]


def test_a_list_over_plain_http_is_not_trusted(monkeypatch: pytest.MonkeyPatch, server: LxcServer) -> None:
    monkeypatch.setattr(ServerAddress, "is_private", False)
    with pytest.raises(NetworkError, match="comes in plain HTTP") as caught:
        Asked(server.address).build()
    assert "--insecure" in caught.value.hint
    assert server.requests == []
    assert Asked(server.address, insecure=True).build()


def test_https_with_an_authority_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority.create(tmp_path)
    with LxcServer(authority.issue("127.0.0.1")) as server:
        server.add("debian/bookworm", ROOTFS)
        with pytest.raises(NetworkError, match="certificate that can't be verified"):
            Asked(server.address).build()
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
        assert Asked(server.address).fetch() == ROOTFS


@pytest.mark.parametrize("path", [INDEX, IMAGES])
def test_documents_that_are_too_large(server: LxcServer, path: str) -> None:
    large = b'{"products": {"x": "' + b" " * (200 << 20)
    server.on(path, Response(200, large))
    with pytest.raises(MalformedImage, match="has more than 16 MiB"):
        Asked(server.address).build()
    assert server.sent[path] < 64 << 20


def test_a_small_answer_that_inflates_to_a_large_one(server: LxcServer) -> None:
    import gzip

    bomb = gzip.compress(b"{" + b" " * (200 << 20), 1)
    server.on(IMAGES, Response(200, bomb, {"Content-Encoding": "gzip"}))
    with pytest.raises(MalformedImage, match="has more than 16 MiB"):
        Asked(server.address).build()


def test_a_redirect_to_a_server_of_files(server: LxcServer, mirror: LxcServer) -> None:
    server.on(".*rootfs.*", lambda request: Response(302, b"", {"Location": f"{mirror.address}{request.path}"}))
    assert Asked(server.address).fetch() == ROOTFS


def test_a_file_with_another_size_than_listed(server: LxcServer) -> None:
    server.files = {path: data + b"x" for path, data in server.files.items()}
    with pytest.raises(MalformedImage, match=r"bytes, .* were announced"):
        Asked(server.address).fetch()


def test_an_index_that_names_several_lists(server: LxcServer) -> None:
    stream = {"datatype": "image-downloads", "path": "streams/v1/images.json"}
    more = {**stream, "path": "streams/v1/more.json"}
    server.on(INDEX, json_response({"index": {"images": stream, "more": more}}))
    alpine = json.loads(json.dumps(server.products["debian:bookworm:amd64:default"]).replace("debian", "alpine"))
    server.on("/streams/v1/more.json", json_response({"products": {"alpine:bookworm:amd64:default": alpine}}))
    names = [product.name for product in Asked(server.address).images.products().products]
    assert names == ["debian/bookworm", "alpine/bookworm"]
