"""Documents by way of the cache: tags are asked for each time, what they name is fetched once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.errors import MalformedImage, NetworkError, NotFound
from provisioner.image.digest import Digest
from provisioner.image.manifest import OCI_MANIFEST, Descriptor
from provisioner.image.reference import Reference
from provisioner.store.blobs import BlobCache
from provisioner.store.cache_directory import CacheDirectory
from provisioner.store.documents import CachingRegistry
from provisioner.store.known_tags import KnownTags
from scripts.loopback_registry import Response
from tests.support import builders
from tests.support.scripted_registry import Broken, ScriptedHandler, ScriptedRegistry, mirrored

MANIFESTS = "/v2/user/x/manifests/.*"
IMAGE, OTHER = builders.small(), builders.small(run={"User": "other"})
DIGEST = Digest.of(IMAGE.manifest)
NAMED = Descriptor(OCI_MANIFEST, DIGEST, len(IMAGE.manifest))


class CountingRegistry(ScriptedRegistry):
    """A registry that knows how many connections there were."""

    class Handler(ScriptedHandler):
        def setup(self) -> None:
            super().setup()
            assert isinstance(self.registry, CountingRegistry)
            self.registry.connections += 1

    handler = Handler
    connections = 0


@pytest.fixture
def registry() -> Iterator[CountingRegistry]:
    with CountingRegistry() as served:
        served.push("user/x", IMAGE)
        yield served


def caching(registry: ScriptedRegistry, cache: Path, *, with_tags: bool = True) -> CachingRegistry:
    reference = Reference.parse(f"{registry.host}/user/x")
    return CachingRegistry(
        reference, mirrored(reference), BlobCache(cache), KnownTags(CacheDirectory(cache)) if with_tags else None
    )


@pytest.fixture
def cached(registry: ScriptedRegistry, tmp_path: Path) -> CachingRegistry:
    """A registry with a cache that knows tags."""
    return caching(registry, tmp_path / "cache")


@pytest.fixture
def plain(registry: ScriptedRegistry, tmp_path: Path) -> CachingRegistry:
    """A registry with a cache alone: a HEAD comes before each GET of a tag."""
    return caching(registry, tmp_path / "cache", with_tags=False)


def methods(registry: ScriptedRegistry) -> list[str]:
    """The methods by which manifests were asked for."""
    return [request.method for request in registry.asked(MANIFESTS)]


def test_a_tag_is_asked_for_each_time_and_its_document_once(
    registry: ScriptedRegistry, cached: CachingRegistry
) -> None:
    assert [cached.manifest("latest").data for _ in range(3)] == [IMAGE.manifest] * 3
    assert methods(registry) == ["GET", "HEAD", "HEAD"]
    registry.push("user/x", OTHER)
    assert cached.manifest("latest").data == OTHER.manifest
    assert methods(registry)[3:] == ["HEAD", "GET"]
    assert cached.manifest("latest").data == OTHER.manifest
    assert methods(registry)[5:] == ["HEAD"]


def test_a_registry_that_refuses_head(registry: ScriptedRegistry, cached: CachingRegistry) -> None:
    cached.manifest("latest")
    registry.push("user/x", OTHER)
    registry.on(MANIFESTS, lambda request: Response(403) if request.method == "HEAD" else None)
    assert cached.manifest("latest").data == OTHER.manifest


def test_a_cached_tag_is_not_taken_for_fresh_when_the_registry_is_down(
    registry: ScriptedRegistry, cached: CachingRegistry
) -> None:
    cached.manifest("latest")
    registry.on(MANIFESTS, Response(500))
    with pytest.raises(NetworkError, match="answers with 500"):
        cached.manifest("latest")


def test_a_digest_is_asked_for_once(registry: ScriptedRegistry, cached: CachingRegistry) -> None:
    for selector in (NAMED, str(DIGEST), NAMED):
        document = cached.manifest(selector)
        assert (document.data, document.media_type, document.digest) == (IMAGE.manifest, OCI_MANIFEST, DIGEST)
    assert len(registry.asked(MANIFESTS)) == 1


def test_what_a_tag_named_serves_its_digest(registry: ScriptedRegistry, cached: CachingRegistry) -> None:
    cached.manifest("latest")
    cached.manifest(NAMED)
    assert len(registry.asked(MANIFESTS)) == 1


def test_a_damaged_document_is_fetched_again(
    registry: ScriptedRegistry, cached: CachingRegistry, tmp_path: Path
) -> None:
    cached.manifest(NAMED)
    path = tmp_path / "cache/sha256" / DIGEST.hex
    path.write_bytes(IMAGE.manifest[:-1] + b" ")
    assert cached.manifest(NAMED).data == IMAGE.manifest
    assert path.read_bytes() == IMAGE.manifest
    assert len(registry.asked(MANIFESTS)) == 2


def test_what_a_killed_run_left_of_a_document_is_no_obstacle(cached: CachingRegistry, tmp_path: Path) -> None:
    partial = tmp_path / "cache/partial" / DIGEST.hex
    partial.parent.mkdir(parents=True)
    for left in (IMAGE.manifest[:9], b"something else"):
        partial.write_bytes(left)
        assert cached.manifest("latest").data == IMAGE.manifest
        assert not partial.exists()
        assert (tmp_path / "cache/sha256" / DIGEST.hex).read_bytes() == IMAGE.manifest
        (tmp_path / "cache/sha256" / DIGEST.hex).unlink()


def test_a_size_that_is_a_lie(cached: CachingRegistry) -> None:
    cached.manifest(NAMED)
    with pytest.raises(MalformedImage, match="5 were announced"):
        cached.manifest(Descriptor(OCI_MANIFEST, DIGEST, 5))


def test_nothing_is_kept_of_what_is_refused(
    registry: ScriptedRegistry, cached: CachingRegistry, tmp_path: Path
) -> None:
    registry.on(MANIFESTS, Response(200, OTHER.manifest, {"Content-Type": OCI_MANIFEST}))
    with pytest.raises(MalformedImage):
        cached.manifest(NAMED)
    registry.on(MANIFESTS, Response.error(404, "MANIFEST_UNKNOWN", "no"))
    with pytest.raises(NotFound):
        cached.manifest("latest")
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cant_be_written_is_no_reason_to_fail(registry: ScriptedRegistry, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert caching(registry, tmp_path / "cache").manifest("latest").data == IMAGE.manifest


# Without known tags


def test_without_known_tags_a_head_comes_first(registry: ScriptedRegistry, plain: CachingRegistry) -> None:
    for _ in range(3):
        document = plain.manifest("latest")
        assert (document.data, document.media_type) == (IMAGE.manifest, OCI_MANIFEST)
        assert document.digest == Digest.of(IMAGE.manifest)
    assert methods(registry) == ["HEAD", "GET", "HEAD", "HEAD"]


def test_connections_are_kept_open(registry: CountingRegistry, plain: CachingRegistry) -> None:
    for _ in range(5):
        plain.manifest("latest")
    assert registry.connections <= 2  # the ping may have its own


def test_a_tag_that_moved_is_followed(registry: ScriptedRegistry, plain: CachingRegistry) -> None:
    plain.manifest("latest")
    registry.push("user/x", OTHER)
    assert plain.manifest("latest").data == OTHER.manifest


HEADERS = {"Docker-Content-Digest": builders.digest_of(IMAGE.manifest)}


@pytest.mark.parametrize(
    "head",
    [
        Response(200),
        Response(200, IMAGE.manifest),
        Response(200, IMAGE.manifest, {"Docker-Content-Digest": "nonsense"}),
        Broken(200, b"", HEADERS, announced=False),
        Broken(200, bytes(10_000_000), HEADERS),
    ],
    ids=["nothing", "no digest", "nonsense", "no length", "too large"],
)
def test_a_head_that_does_not_tell_enough(registry: ScriptedRegistry, plain: CachingRegistry, head: Response) -> None:
    registry.on(MANIFESTS, lambda request: head if request.method == "HEAD" else None)
    assert plain.manifest("latest").data == IMAGE.manifest


def test_the_digest_may_be_the_entity_tag(registry: ScriptedRegistry, plain: CachingRegistry) -> None:
    digest = builders.digest_of(IMAGE.manifest)
    registry.on(
        MANIFESTS, lambda request: Response(200, IMAGE.manifest, {"Content-Type": OCI_MANIFEST, "ETag": f'"{digest}"'})
    )
    plain.manifest("latest")
    plain.manifest("latest")
    assert methods(registry) == ["HEAD", "GET", "HEAD"]


def test_a_registry_cannot_answer_a_digest_with_another(registry: ScriptedRegistry, plain: CachingRegistry) -> None:
    data = OTHER.manifest
    other = Response(200, data, {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": builders.digest_of(data)})
    registry.on(MANIFESTS, other)
    with pytest.raises(MalformedImage):
        plain.manifest(builders.digest_of(IMAGE.manifest))


def test_what_was_announced_is_what_has_to_come(registry: ScriptedRegistry, plain: CachingRegistry) -> None:
    registry.on(
        MANIFESTS, lambda request: Response(200, IMAGE.manifest[:-1] + b" ", {}) if request.method == "GET" else None
    )
    with pytest.raises(MalformedImage, match="digest"):
        plain.manifest("latest")


@pytest.mark.parametrize("status", [200, 404])
def test_a_head_that_names_what_is_not_there(registry: ScriptedRegistry, plain: CachingRegistry, status: int) -> None:
    """The headers are wrong, or the registry knows tags only: GET of the tag decides."""
    wrong = {"Docker-Content-Digest": builders.digest_of(b"gone"), "Content-Type": OCI_MANIFEST}
    head = Response(status, IMAGE.manifest, wrong)
    registry.on(MANIFESTS, lambda request: head if request.method == "HEAD" else None)
    registry.on("/v2/.*/manifests/sha256:.*", Response(404))
    assert plain.manifest("latest").data == IMAGE.manifest


def test_a_size_in_the_headers_is_no_more_than_a_hint(registry: ScriptedRegistry, plain: CachingRegistry) -> None:
    """The digest is what is verified."""
    short = Response(200, b"x" * 7, {"Docker-Content-Digest": builders.digest_of(IMAGE.manifest)})
    registry.on(MANIFESTS, lambda request: short if request.method == "HEAD" else None)
    assert plain.manifest("latest").data == IMAGE.manifest


def test_a_tag_that_is_not_there(plain: CachingRegistry) -> None:
    with pytest.raises(NotFound, match="no tag 'nowhere'"):
        plain.manifest("nowhere")
