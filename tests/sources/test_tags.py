"""The platforms and sizes of tags, from the manifests of a registry."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.errors import NetworkError
from provisioner.image.manifest import OCI_INDEX
from provisioner.image.platform import Platform
from provisioner.image.reference import Reference
from provisioner.sources.tags import with_offers, with_sizes
from provisioner.store.blobs import BlobCache
from provisioner.store.documents import CachingRegistry
from scripts.loopback_registry import Response
from tests.support import builders
from tests.support.scripted_registry import ScriptedRegistry, mirrored

MANIFESTS = "/v2/user/x/manifests/.*"
AMD, ARM = builders.small(), builders.small(on="linux/arm64/v8")
BOTH = builders.index([("linux/amd64", AMD), ("linux/arm64/v8", ARM), ("unknown/unknown", ARM)])
ARM_SIZE = sum(len(layer.blob) for layer in ARM.layers)


@pytest.fixture
def registry(registry: ScriptedRegistry) -> ScriptedRegistry:
    """A registry with the manifests and blobs of `user/x`, and no tags yet."""
    for image in (AMD, ARM):
        registry.push("user/x", image, tag=None)
    return registry


def listing(registry: ScriptedRegistry, cache: Path) -> CachingRegistry:
    reference = Reference.parse(f"{registry.host}/user/x")
    return CachingRegistry(reference, mirrored(reference), BlobCache(cache))


def test_platforms_and_sizes(registry: ScriptedRegistry, tmp_path: Path) -> None:
    registry.add_manifest("user/x", BOTH, OCI_INDEX, "both")
    registry.add_manifest("user/x", AMD.manifest, tag="amd")
    registry.add_manifest("user/x", b'{"schemaVersion": 1}', tag="ancient")
    chart = builders.small(manifest={"config": builders.descriptor(b"{}", "application/vnd.cncf.helm.config.v1+json")})
    registry.push("user/x", chart, "chart")
    documents, arm = listing(registry, tmp_path), Platform("linux", "arm64", "v8")
    found = list(with_offers(documents, ["both", "amd", "gone", "ancient", "chart"], 3))
    assert [(tag.name, [str(offer.platform) for offer in tag.offers]) for tag in found] == [
        ("both", ["linux/amd64", "linux/arm64/v8"]),
        ("amd", ["linux/amd64"]),
        *((name, []) for name in ("gone", "ancient", "chart")),
    ]
    sizes = [best.size if (best := tag.offer(arm)) else None for tag in with_sizes(documents, found, arm, 3)]
    assert sizes == [ARM_SIZE, None, None, None, None]


def test_the_newest_variant_that_runs_there_is_offered(registry: ScriptedRegistry, tmp_path: Path) -> None:
    variants = builders.index([(f"linux/arm/{variant}", ARM) for variant in ("v5", "v7", "v6")])
    registry.add_manifest("user/x", variants, OCI_INDEX, "arm")
    [tag] = with_offers(listing(registry, tmp_path), ["arm"], 1)
    best = {level: tag.offer(Platform("linux", "arm", level)) for level in ("v5", "v6", "v8")}
    assert [offer and offer.platform.variant for offer in best.values()] == ["v5", "v6", "v7"]
    assert tag.offer(Platform("linux", "arm64", "v8")) is None


def test_a_registry_that_fails_meanwhile(registry: ScriptedRegistry, tmp_path: Path) -> None:
    registry.add_manifest("user/x", AMD.manifest, tag="a")
    registry.on(MANIFESTS, Response.error(503, "UNAVAILABLE", "later"))
    with pytest.raises(NetworkError, match="503"):
        list(with_offers(listing(registry, tmp_path), ["a"], 2))
