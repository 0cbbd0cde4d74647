"""Documents by way of the cache: tags are asked for each time, content is downloaded once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.errors import MalformedImage, NotFound
from provisioner.image.digest import Digest
from provisioner.image.manifest import OCI_INDEX, OCI_MANIFEST, Manifest
from provisioner.image.platform import Platform
from provisioner.image.reference import Reference
from provisioner.store.blobs import BlobCache
from provisioner.store.cached_documents import CachedDocuments
from scripts.loopback_registry import Response
from tests.support import builders
from tests.support.scripted_registry import Broken, ScriptedHandler, ScriptedRegistry, mirrored

MANIFESTS = "/v2/user/x/manifests/.*"
AMD, ARM = builders.small(), builders.small(on="linux/arm64/v8", run={"User": "arm"})


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
    """A registry with `user/x:latest` for one platform, and `user/x:both`, an index."""
    with CountingRegistry() as served:
        served.push("user/x", AMD)
        served.push("user/x", ARM, tag=None)
        served.add_manifest(
            "user/x", builders.index([("linux/amd64", AMD), ("linux/arm64/v8", ARM)]), OCI_INDEX, "both"
        )
        yield served


@pytest.fixture
def documents(registry: ScriptedRegistry, tmp_path: Path) -> CachedDocuments:
    reference = Reference.parse(f"{registry.host}/user/x")
    return CachedDocuments(reference, mirrored(reference), BlobCache(tmp_path))


def asked(registry: ScriptedRegistry) -> list[str]:
    """The methods by which manifests were asked for."""
    return [request.method for request in registry.asked(MANIFESTS)]


def test_a_tag_is_asked_for_each_time_and_downloaded_once(
    registry: ScriptedRegistry, documents: CachedDocuments
) -> None:
    for _ in range(3):
        document = documents.manifest("latest")
        assert (document.data, document.media_type) == (AMD.manifest, OCI_MANIFEST)
        assert document.digest == Digest.of(AMD.manifest)
    assert asked(registry) == ["HEAD", "GET", "HEAD", "HEAD"]


def test_connections_are_kept_open(registry: CountingRegistry, documents: CachedDocuments) -> None:
    for _ in range(5):
        documents.manifest("both")
    assert registry.connections <= 2  # the ping may have its own


def test_a_tag_that_moved_is_followed(registry: ScriptedRegistry, documents: CachedDocuments) -> None:
    documents.manifest("latest")
    registry.push("user/x", ARM)
    assert documents.manifest("latest").data == ARM.manifest


NAMED = {"Docker-Content-Digest": builders.digest_of(AMD.manifest)}


@pytest.mark.parametrize(
    "head",
    [
        Response(200),
        Response(200, AMD.manifest),
        Response(200, AMD.manifest, {"Docker-Content-Digest": "nonsense"}),
        Broken(200, b"", NAMED, announced=False),
        Broken(200, bytes(10_000_000), NAMED),
    ],
    ids=["nothing", "no digest", "nonsense", "no length", "too large"],
)
def test_a_head_that_does_not_tell_enough(
    registry: ScriptedRegistry, documents: CachedDocuments, head: Response
) -> None:
    registry.on(MANIFESTS, lambda request: head if request.method == "HEAD" else None)
    assert documents.manifest("latest").data == AMD.manifest


def test_the_digest_may_be_the_entity_tag(registry: ScriptedRegistry, documents: CachedDocuments) -> None:
    digest = builders.digest_of(AMD.manifest)
    registry.on(
        MANIFESTS, lambda request: Response(200, AMD.manifest, {"Content-Type": OCI_MANIFEST, "ETag": f'"{digest}"'})
    )
    documents.manifest("latest")
    documents.manifest("latest")
    assert asked(registry) == ["HEAD", "GET", "HEAD"]


def test_a_registry_cannot_answer_a_digest_with_another(registry: ScriptedRegistry, documents: CachedDocuments) -> None:
    data = ARM.manifest
    other = Response(200, data, {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": builders.digest_of(data)})
    registry.on(MANIFESTS, other)
    with pytest.raises(MalformedImage):
        documents.manifest(builders.digest_of(AMD.manifest))


def test_what_was_announced_is_what_has_to_come(registry: ScriptedRegistry, documents: CachedDocuments) -> None:
    registry.on(
        MANIFESTS, lambda request: Response(200, AMD.manifest[:-1] + b" ", {}) if request.method == "GET" else None
    )
    with pytest.raises(MalformedImage, match="digest"):
        documents.manifest("latest")


def test_a_tag_that_is_not_there(documents: CachedDocuments) -> None:
    with pytest.raises(NotFound, match="no tag 'nowhere'"):
        documents.manifest("nowhere")


def test_offers(documents: CachedDocuments) -> None:
    [single] = documents.offers(documents.manifest("latest"))
    assert single.platform == Platform("linux", "amd64")
    both = documents.offers(documents.manifest("both"))
    assert [str(offer.platform) for offer in both] == ["linux/amd64", "linux/arm64/v8"]
    manifest = both[1].manifest
    assert manifest is not None
    assert manifest.digest == Digest.of(ARM.manifest)
    assert documents.size(manifest) == sum(len(layer.blob) for layer in ARM.layers)
    assert documents.config(Manifest.from_json(documents.manifest(manifest).data)).user == "arm"


def test_an_index_that_does_not_say_what_for(registry: ScriptedRegistry, documents: CachedDocuments) -> None:
    inner = builders.index([("", ARM)])
    registry.add_manifest("user/x", inner, OCI_INDEX)
    nested = builders.json_bytes(
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [builders.descriptor(inner, OCI_INDEX)]}
    )
    registry.add_manifest("user/x", nested, OCI_INDEX, "nested")
    assert [str(offer.platform) for offer in documents.offers(documents.manifest("nested"))] == ["linux/arm64/v8"]


def test_an_empty_index(registry: ScriptedRegistry, documents: CachedDocuments) -> None:
    registry.add_manifest("user/x", builders.index([]), OCI_INDEX, "empty")
    assert documents.offers(documents.manifest("empty")) == ()


def test_indexes_without_end(registry: ScriptedRegistry, documents: CachedDocuments) -> None:
    inner = builders.index([("", AMD)])
    for _ in range(6):
        registry.add_manifest("user/x", inner, OCI_INDEX, "deep")
        inner = builders.json_bytes(
            {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [builders.descriptor(inner, OCI_INDEX)]}
        )
    with pytest.raises(MalformedImage, match="lead to one another"):
        documents.offers(documents.manifest("deep"))


def test_a_config_that_pretends_to_be_huge(registry: ScriptedRegistry, documents: CachedDocuments) -> None:
    huge = builders.descriptor(AMD.config, builders.OCI_CONFIG)
    image = builders.small(manifest={"config": {**huge, "size": 1 << 40}})
    registry.push("user/x", image, "huge")
    with pytest.raises(MalformedImage, match="too large"):
        documents.offers(documents.manifest("huge"))
    assert not registry.asked("/v2/user/x/blobs/.*")
