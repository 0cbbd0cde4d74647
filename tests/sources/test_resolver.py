"""From an index to manifests: what an image offers, platform by platform."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.errors import MalformedImage
from provisioner.image.digest import Digest
from provisioner.image.manifest import OCI_INDEX, Manifest
from provisioner.image.platform import Platform
from provisioner.image.reference import Reference
from provisioner.sources.resolver import download_size, find_offers
from provisioner.store.blobs import BlobCache
from provisioner.store.documents import CachingRegistry
from tests.support import builders
from tests.support.scripted_registry import ScriptedRegistry, mirrored

AMD, ARM = builders.small(), builders.small(on="linux/arm64/v8", run={"User": "arm"})


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    """A registry with `user/x:latest` for one platform, and `user/x:both`, an index."""
    with ScriptedRegistry() as served:
        served.push("user/x", AMD)
        served.push("user/x", ARM, tag=None)
        served.add_manifest(
            "user/x", builders.index([("linux/amd64", AMD), ("linux/arm64/v8", ARM)]), OCI_INDEX, "both"
        )
        yield served


@pytest.fixture
def documents(registry: ScriptedRegistry, tmp_path: Path) -> CachingRegistry:
    reference = Reference.parse(f"{registry.host}/user/x")
    return CachingRegistry(reference, mirrored(reference), BlobCache(tmp_path))


def test_offers(documents: CachingRegistry) -> None:
    [single] = find_offers(documents, documents.manifest("latest"))
    assert single.platform == Platform("linux", "amd64")
    both = find_offers(documents, documents.manifest("both"))
    assert [str(offer.platform) for offer in both] == ["linux/amd64", "linux/arm64/v8"]
    manifest = both[1].manifest
    assert manifest is not None
    assert manifest.digest == Digest.of(ARM.manifest)
    assert download_size(documents, manifest) == sum(len(layer.blob) for layer in ARM.layers)
    assert documents.config(Manifest.from_json(documents.manifest(manifest).data)).user == "arm"


def test_a_layer_that_occurs_twice_is_downloaded_once(registry: ScriptedRegistry, documents: CachingRegistry) -> None:
    layer, other = builders.layer(("a", b"a")), builders.layer(("b", b"b"))
    image = builders.image(layer, other, layer)
    registry.push("user/x", image, tag=None)
    registry.add_manifest("user/x", builders.index([("linux/amd64", image)]), OCI_INDEX, "twice")
    [offer] = find_offers(documents, documents.manifest("twice"))
    assert offer.manifest is not None
    assert download_size(documents, offer.manifest) == len(layer.blob) + len(other.blob)


def test_an_index_that_does_not_say_what_for(registry: ScriptedRegistry, documents: CachingRegistry) -> None:
    inner = builders.index([("", ARM)])
    registry.add_manifest("user/x", inner, OCI_INDEX)
    nested = builders.json_bytes(
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [builders.descriptor(inner, OCI_INDEX)]}
    )
    registry.add_manifest("user/x", nested, OCI_INDEX, "nested")
    assert [str(offer.platform) for offer in find_offers(documents, documents.manifest("nested"))] == ["linux/arm64/v8"]


def test_an_index_of_several_that_do_not_say_what_for(registry: ScriptedRegistry, documents: CachingRegistry) -> None:
    sbom = builders.small(manifest={"config": builders.descriptor(b"{}", "application/spdx+json")})
    silent = builders.small(config={"architecture": ""})
    for image in (sbom, silent):
        registry.push("user/x", image, tag=None)
    index = builders.index([("", sbom), ("", ARM), ("", silent)])
    registry.add_manifest("user/x", index, OCI_INDEX, "odd")
    offers = find_offers(documents, documents.manifest("odd"), Platform("linux", "mips"))
    assert [str(offer.platform) for offer in offers] == ["linux/arm64/v8", "linux/mips"]
    registry.add_manifest("user/x", builders.index([("", sbom)]), OCI_INDEX, "odd")
    with pytest.raises(MalformedImage, match="not a container image"):
        find_offers(documents, documents.manifest("odd"))


def test_an_empty_index(registry: ScriptedRegistry, documents: CachingRegistry) -> None:
    registry.add_manifest("user/x", builders.index([]), OCI_INDEX, "empty")
    assert find_offers(documents, documents.manifest("empty")) == ()


def test_indexes_without_end(registry: ScriptedRegistry, documents: CachingRegistry) -> None:
    inner = builders.index([("", AMD)])
    for _ in range(6):
        registry.add_manifest("user/x", inner, OCI_INDEX, "deep")
        inner = builders.json_bytes(
            {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [builders.descriptor(inner, OCI_INDEX)]}
        )
    with pytest.raises(MalformedImage, match="more than 4 nested indexes"):
        find_offers(documents, documents.manifest("deep"))


def test_a_config_that_pretends_to_be_huge(registry: ScriptedRegistry, documents: CachingRegistry) -> None:
    huge = builders.descriptor(AMD.config, builders.OCI_CONFIG)
    image = builders.small(manifest={"config": {**huge, "size": 1 << 40}})
    registry.push("user/x", image, "huge")
    with pytest.raises(MalformedImage, match="too large"):
        find_offers(documents, documents.manifest("huge"))
    assert not registry.asked("/v2/user/x/blobs/.*")
