"""Lists of LXC image servers in the cache: asked for by ETag, and never taken from whoever may change what comes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.image.server_address import ServerAddress
from provisioner.registry import lxc_server
from provisioner.store.blobs import BlobCache
from provisioner.store.known_lists import KnownLists
from provisioner.store.prune import list_files, prune
from scripts.loopback_registry import Response
from tests.support.lxc_server import IMAGES, INDEX, LxcServer, rootfs


@pytest.fixture
def server() -> Iterator[LxcServer]:
    with LxcServer() as running:
        running.add("debian/bookworm", rootfs())
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> BlobCache:
    return BlobCache(tmp_path / "cache")


def names(server: LxcServer, cache: BlobCache, *, insecure: bool = False) -> list[str]:
    client = lxc_server.LxcServer(ServerAddress.parse(server.address), insecure=insecure, known=KnownLists(cache))
    return [product.name for product in client.products().products]


def test_a_list_is_downloaded_once(server: LxcServer, cache: BlobCache) -> None:
    assert names(server, cache) == ["debian/bookworm"]
    sent = dict(server.sent)
    assert names(server, cache) == ["debian/bookworm"]
    assert dict(server.sent) == sent
    assert [request.headers["If-None-Match"] is not None for request in server.requests] == [False, False, True, True]


def test_a_list_that_has_changed_is_downloaded_again(server: LxcServer, cache: BlobCache) -> None:
    names(server, cache)
    server.add("debian/trixie", rootfs())
    assert names(server, cache) == ["debian/bookworm", "debian/trixie"]


def test_a_damaged_list_is_downloaded_again(server: LxcServer, cache: BlobCache) -> None:
    names(server, cache)
    for path in (cache.files.path / "sha256").iterdir():
        path.write_bytes(path.read_bytes().replace(b"bookworm", b"evilworm"))
    assert names(server, cache) == ["debian/bookworm"]
    for path in (cache.files.path / "tags").iterdir():
        path.write_text("[]")
    assert names(server, cache) == ["debian/bookworm"]


def test_nothing_is_kept_of_a_run_that_may_have_been_lied_to(server: LxcServer, cache: BlobCache) -> None:
    """With --insecure, somebody on the way could send his own list with the ETag of the real one."""
    assert names(server, cache, insecure=True) == ["debian/bookworm"]
    assert not list_files(cache.files.path)
    names(server, cache)
    server.requests.clear()
    names(server, cache, insecure=True)
    assert [request.headers["If-None-Match"] for request in server.requests] == [None, None]


def test_the_lists_of_two_servers_are_kept_apart(server: LxcServer, cache: BlobCache) -> None:
    with LxcServer() as other:
        other.add("alpine/edge", rootfs())
        other.on(
            INDEX, Response(200, b'{"index": {"x": {"datatype": "image-downloads", "path": "streams/v1/images.json"}}}')
        )
        assert names(server, cache) == ["debian/bookworm"]
        assert names(other, cache) == ["alpine/edge"]
        assert other.asked(IMAGES)[0].headers["If-None-Match"] is None


@pytest.mark.parametrize("etag", ["", "bare", '"a\x01"', '"' + "x" * 300 + '"'])
def test_an_etag_that_cannot_be_sent_back_is_not_kept(server: LxcServer, cache: BlobCache, etag: str) -> None:
    server.on(INDEX, Response(200, server.respond("GET", INDEX, {}).body, {"ETag": etag}))  # type: ignore[arg-type]
    names(server, cache)
    names(server, cache)
    assert [request.headers["If-None-Match"] for request in server.asked(INDEX)] == [None, None]


def test_a_304_that_was_not_asked_for(server: LxcServer, cache: BlobCache) -> None:
    from provisioner.errors import NetworkError

    server.on(INDEX, Response(304))
    with pytest.raises(NetworkError, match="answers with 304"):
        names(server, cache)


def test_a_cache_that_cannot_be_written(server: LxcServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert names(server, BlobCache(tmp_path / "file")) == ["debian/bookworm"]


def test_they_can_be_listed_and_pruned(server: LxcServer, cache: BlobCache) -> None:
    names(server, cache)
    shown = [entry.name for entry in list_files(cache.files.path) if entry.kind == "tag"]
    assert any(name.startswith(f"{server.address}{IMAGES} -> sha256:") for name in shown)
    prune(cache.files.path, 0)
    assert names(server, cache) == ["debian/bookworm"]
