"""From a reference to an image and its layers, against a real HTTP server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provisioner.errors import MalformedImage, NotFound, ProvisionError
from provisioner.image.digest import Digest
from provisioner.image.image import Image
from provisioner.image.manifest import DOCUMENT_LIMIT
from provisioner.image.platform import Platform
from provisioner.image.reference import Reference
from provisioner.sources import LayerBlob
from provisioner.sources.registry import RegistrySource
from provisioner.sources.resolver import MAX_TRIES
from provisioner.store.blobs import BlobCache
from provisioner.terminal.transfer import Transfer
from scripts.loopback_registry import Response
from tests.support import builders
from tests.support.scripted_registry import ScriptedRegistry, TokenServer, mirrored
from tests.support.waiting import wait_until

ARM = {variant: builders.small(on="linux/arm", run={"Cmd": [variant]}) for variant in ("v5", "v6", "v7")}
AMD64 = builders.small(on="linux/amd64")


@pytest.fixture
def cache(tmp_path: Path) -> BlobCache:
    return BlobCache(tmp_path / "cache")


def source(registry: ScriptedRegistry, cache: BlobCache, name: str = "x") -> RegistrySource:
    reference = Reference.parse(f"{registry.host}/{name}")
    return RegistrySource(reference, mirrored(reference), cache, 4)


def resolved(registry: ScriptedRegistry, cache: BlobCache, wanted: str = "linux/amd64", name: str = "x") -> Image:
    return source(registry, cache, name).image(platform(wanted)).image


def push_index(registry: ScriptedRegistry, *images: tuple[str, builders.Image], **fields: object) -> str:
    """An index at `x:latest`; its digest."""
    for _, image in images:
        registry.push("x", image, tag=None)
    return registry.add_manifest("x", builders.index(images, **fields), builders.OCI_INDEX, "latest")


def platform(text: str) -> Platform:
    return Platform(*text.split("/"))


def test_an_image_without_an_index(registry: ScriptedRegistry, cache: BlobCache) -> None:
    registry.push("x", AMD64)
    found = source(registry, cache).image(platform("linux/amd64"))
    image = found.image
    assert image.digest == Digest.of(AMD64.manifest)
    assert (image.index_digest, found.index) == (None, None)
    assert (image.manifest_bytes, image.config_bytes) == (AMD64.manifest, AMD64.config)


def test_an_image_of_another_platform_says_what_it_is(registry: ScriptedRegistry, cache: BlobCache) -> None:
    registry.push("x", AMD64)
    with pytest.raises(NotFound) as caught:
        resolved(registry, cache, "linux/arm64")
    name = f"{registry.host}/x:latest"
    assert caught.value.message == f"{name}: the image has nothing for linux/arm64; it has linux/amd64"


@pytest.mark.parametrize(("wanted", "chosen"), [("v8", "v7"), ("v7", "v7"), ("v6", "v6"), ("v5", "v5")])
def test_the_best_variant_of_an_index(registry: ScriptedRegistry, cache: BlobCache, wanted: str, chosen: str) -> None:
    """The configs don't say their variant, as with many images: the index has the word."""
    index = push_index(registry, *((f"linux/arm/{variant}", image) for variant, image in ARM.items()))
    image = resolved(registry, cache, f"linux/arm/{wanted}")
    assert image.config.command == (chosen,)
    assert str(image.config.platform) == f"linux/arm/{chosen}"
    assert str(image.index_digest) == index
    assert len(registry.asked("/v2/x/manifests/.*")) == 2


def test_no_platform_fits(registry: ScriptedRegistry, cache: BlobCache) -> None:
    push_index(registry, ("unknown/unknown", AMD64), ("linux/arm/v7", ARM["v7"]), ("linux/amd64", AMD64))
    with pytest.raises(NotFound, match=r"nothing for linux/s390x; it has linux/arm/v7, linux/amd64$") as caught:
        resolved(registry, cache, "linux/s390x")
    assert "--platform" in caught.value.hint


def test_an_empty_index(registry: ScriptedRegistry, cache: BlobCache) -> None:
    push_index(registry)
    with pytest.raises(NotFound, match="it has no platform at all"):
        resolved(registry, cache)


def test_entries_that_dont_say_their_platform(registry: ScriptedRegistry, cache: BlobCache) -> None:
    push_index(registry, ("", AMD64))
    assert resolved(registry, cache).digest == Digest.of(AMD64.manifest)
    with pytest.raises(NotFound, match="it has linux/amd64"):
        resolved(registry, cache, "linux/arm64")
    push_index(registry, ("", ARM["v7"]), ("linux/amd64", AMD64))
    assert resolved(registry, cache).digest == Digest.of(AMD64.manifest)


SBOM = builders.small(manifest={"config": builders.descriptor(b"{}", "application/spdx+json")})


@pytest.mark.parametrize(
    "odd",
    [
        {"platform": {"architecture": "", "os": "linux"}},  # as of SBOMs
        {"platform": {}},
        {"platform": {"os": "linux", "architecture": "s390x"}, "digest": "sha256:1"},
        {"platform": {"os": "linux", "architecture": "\x1b[31m"}},
        {"size": None},
        {"mediaType": 5},
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_entries_that_are_not_chosen_are_not_validated(
    registry: ScriptedRegistry, cache: BlobCache, odd: dict[str, Any], first: bool
) -> None:
    registry.push("x", AMD64, tag=None)
    good = builders.descriptor(
        AMD64.manifest, builders.OCI_MANIFEST, platform={"os": "Linux", "architecture": "x86_64"}
    )
    entries = [builders.descriptor(SBOM.manifest, builders.OCI_MANIFEST) | odd, {}, good]
    registry.add_manifest(
        "x", builders.index((), manifests=entries[:: 1 if first else -1]), builders.OCI_INDEX, "latest"
    )
    image = resolved(registry, cache)
    assert (image.digest, str(image.config.platform)) == (Digest.of(AMD64.manifest), "linux/amd64")
    assert len(registry.asked("/v2/x/manifests/.*")) == 2


def test_the_chosen_entry_is_validated(registry: ScriptedRegistry, cache: BlobCache) -> None:
    bad = {
        "mediaType": builders.OCI_MANIFEST,
        "size": 5,
        "digest": "md5:1",
        "platform": builders.platform("linux/arm/v7"),
    }
    index = builders.index([("linux/arm/v5", ARM["v5"])])
    entries = [*json.loads(index)["manifests"], bad]
    push_index(registry, ("linux/arm/v5", ARM["v5"]), manifests=entries)
    assert resolved(registry, cache, "linux/arm/v6").config.command == ("v5",)
    with pytest.raises(MalformedImage, match=r"index.manifests\[1\].digest: 'md5:1' is not"):
        resolved(registry, cache, "linux/arm/v7")
    push_index(registry, manifests=[{}])
    with pytest.raises(MalformedImage, match=r"index.manifests\[0\].digest is missing"):
        resolved(registry, cache)


def test_entries_without_a_platform_are_for_what_their_configs_say(
    registry: ScriptedRegistry, cache: BlobCache
) -> None:
    """As containerd reads them: after those that state a fitting one."""
    images = ("", SBOM), ("", ARM["v7"]), ("linux/s390x", AMD64), ("", AMD64)
    push_index(registry, *images)
    assert resolved(registry, cache).digest == Digest.of(AMD64.manifest)
    assert resolved(registry, cache, "linux/arm/v7").config.command == ("v7",)
    with pytest.raises(NotFound, match=r"nothing for linux/ppc64; it has linux/s390x$"):
        resolved(registry, cache, "linux/ppc64")
    push_index(registry, ("", SBOM))
    with pytest.raises(MalformedImage, match="not a container image but 'application/spdx"):
        resolved(registry, cache)


def test_the_search_among_entries_without_a_platform_has_an_end(registry: ScriptedRegistry, cache: BlobCache) -> None:
    others = [builders.small(on="linux/arm64", run={"Cmd": [str(number)]}) for number in range(30)]
    push_index(registry, *(("", image) for image in (*others, AMD64)))
    with pytest.raises(NotFound, match="nothing for linux/amd64"):
        resolved(registry, cache)
    assert len(registry.asked("/v2/x/manifests/sha256.*")) == MAX_TRIES


def test_an_image_that_does_not_say_what_it_is_for(registry: ScriptedRegistry, cache: BlobCache) -> None:
    """The index has the word, or else the platform that is wanted; either is said."""
    silent = builders.small(config={"os": None, "architecture": None})
    registry.push("x", silent)
    name = f"{registry.host}/x:latest doesn't say which machines it is for"
    for wanted in ("linux/arm64/v8", "linux/mips"):
        found = source(registry, cache).image(platform(wanted))
        assert str(found.image.config.platform) == wanted
        assert found.assumptions == (f"{name}: {wanted} is assumed",)
    push_index(registry, ("linux/arm/v5", silent))
    found = source(registry, cache).image(platform("linux/arm/v7"))
    assert str(found.image.config.platform) == "linux/arm/v5"
    assert found.assumptions == (f"{name}: linux/arm/v5 is assumed",)
    registry.push("x", AMD64)
    assert source(registry, cache).image(platform("linux/amd64")).assumptions == ()


def nested(registry: ScriptedRegistry, depth: int) -> str:
    """An index of an index… of the image; the digest of the outermost."""
    registry.push("x", AMD64, tag=None)
    inner, media_type = AMD64.manifest, builders.OCI_MANIFEST
    for _ in range(depth):
        registry.add_manifest("x", inner, media_type)
        inner = builders.index((), manifests=[builders.descriptor(inner, media_type)])
        media_type = builders.OCI_INDEX
    return registry.add_manifest("x", inner, media_type, "latest")


def test_an_index_in_an_index(registry: ScriptedRegistry, cache: BlobCache) -> None:
    outer = nested(registry, 3)
    found = source(registry, cache).image(platform("linux/amd64"))
    assert found.image.digest == Digest.of(AMD64.manifest)
    assert str(found.image.index_digest) == outer
    assert found.index is not None
    assert [entry.media_type for entry in found.index.manifests] == [builders.OCI_INDEX]


def test_indexes_without_end(registry: ScriptedRegistry, cache: BlobCache) -> None:
    nested(registry, 4)
    with pytest.raises(MalformedImage, match="more than 4 nested indexes"):
        resolved(registry, cache)


def test_by_digest(registry: ScriptedRegistry, cache: BlobCache) -> None:
    digest = registry.push("x", AMD64, tag=None)
    assert str(resolved(registry, cache, "linux/amd64", f"x@{digest}").digest) == digest
    other = push_index(registry, ("linux/arm/v7", ARM["v7"]))
    image = resolved(registry, cache, "linux/arm/v7", f"x:any@{other}")
    assert (image.digest, str(image.index_digest)) == (Digest.of(ARM["v7"].manifest), other)


def test_a_registry_cant_slip_another_image_under_a_digest(registry: ScriptedRegistry, cache: BlobCache) -> None:
    registry.push("x", AMD64)
    wanted = builders.digest_of(ARM["v7"].manifest)
    registry.on("/v2/x/manifests/.*", Response(200, AMD64.manifest, {"Docker-Content-Digest": wanted}))
    with pytest.raises(MalformedImage, match=f"does not match its digest {wanted}"):
        resolved(registry, cache, "linux/amd64", f"x@{wanted}")


def test_docker_media_types(registry: ScriptedRegistry, cache: BlobCache) -> None:
    layer = builders.layer(("f", b"x"))
    config = builders.image(layer).config
    described = builders.descriptor(layer.blob, "application/vnd.docker.image.rootfs.diff.tar.gzip")
    image = builders.image(
        layer,
        manifest={
            "mediaType": builders.DOCKER_MANIFEST,
            "config": builders.descriptor(config, "application/vnd.docker.container.image.v1+json"),
            "layers": [described],
        },
    )
    for blob in image.blobs:
        registry.add_blob("x", blob)
    registry.add_manifest("x", image.manifest, builders.DOCKER_MANIFEST)
    entry = builders.descriptor(image.manifest, builders.DOCKER_MANIFEST, platform=builders.platform("linux/amd64"))
    document = builders.json_bytes({"schemaVersion": 2, "mediaType": builders.DOCKER_LIST, "manifests": [entry]})
    registry.add_manifest("x", document, builders.DOCKER_LIST, "latest")
    assert resolved(registry, cache).digest == Digest.of(image.manifest)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (b"[]", "config is not a JSON object"),
        (b"{}", "config.rootfs is missing"),
        (b'{"rootfs": {"diff_ids": [5]}}', "config.os is missing|diff_ids holds a whole number"),
    ],
)
def test_configs_that_are_none(registry: ScriptedRegistry, cache: BlobCache, config: bytes, why: str) -> None:
    image = builders.image(manifest={"config": builders.descriptor(config, builders.OCI_CONFIG)})
    registry.add_blob("x", config)
    registry.add_manifest("x", image.manifest, tag="latest")
    with pytest.raises(MalformedImage, match=f"^{registry.host}/x:latest: .*({why})"):
        resolved(registry, cache)


def test_a_config_of_any_size_is_not_asked_for(registry: ScriptedRegistry, cache: BlobCache) -> None:
    huge = {**builders.descriptor(b"", builders.OCI_CONFIG), "size": DOCUMENT_LIMIT + 1}
    registry.push("x", builders.image(manifest={"config": huge}))
    with pytest.raises(MalformedImage, match="the config has 8388609 bytes"):
        resolved(registry, cache)
    assert registry.asked("/v2/x/blobs/.*") == []


# Layers


def pulled(source: RegistrySource) -> list[bytes]:
    image = source.image(platform("linux/amd64")).image
    with source.layers(image, Transfer(0)) as layers:
        return [b"".join(blob.chunks()) for _, blob in layers]


def test_layers_come_in_order_and_once(registry: ScriptedRegistry, cache: BlobCache) -> None:
    TokenServer(registry)
    layers = [builders.layer((f"f{number}", b"x" * number * 10_000)) for number in range(9)]
    registry.push("x", builders.image(*layers, layers[2]))
    expected = [layer.blob for layer in (*layers, layers[2])]
    assert pulled(source(registry, cache)) == expected
    assert len(registry.asked("/v2/x/blobs/.*")) == 10  # with the config
    assert len(registry.asked("/token")) == 1
    assert pulled(source(registry, cache)) == expected
    assert len(registry.asked("/v2/x/blobs/.*")) == 10


def test_no_layers_at_all(registry: ScriptedRegistry, cache: BlobCache) -> None:
    registry.push("x", builders.image())
    assert pulled(source(registry, cache)) == []


@pytest.mark.parametrize("first", ["right", "wrong"])
def test_one_blob_of_two_sizes_is_a_lie(registry: ScriptedRegistry, cache: BlobCache, first: str) -> None:
    layer = builders.layer(("f", b"x"))
    right = builders.descriptor(layer.blob, layer.media_type)
    both = [right, {**right, "size": 5}]
    registry.push("x", builders.image(layer, layer, manifest={"layers": both if first == "right" else both[::-1]}))
    with pytest.raises(MalformedImage, match="announced"):
        pulled(source(registry, cache))


def test_layers_are_not_downloaded_for_what_is_up_to_date(registry: ScriptedRegistry, cache: BlobCache) -> None:
    registry.push("x", AMD64)
    resolved(registry, cache)
    assert len(registry.asked("/v2/x/blobs/.*")) == 1  # the config


def test_leaving_early_leaves_nothing_half(registry: ScriptedRegistry, cache: BlobCache, tmp_path: Path) -> None:
    registry.push("x", AMD64)
    registry.on(f"/v2/x/blobs/{builders.digest_of(AMD64.layers[1].blob)}", Response(500))
    pulling = source(registry, cache)
    image = pulling.image(platform("linux/amd64")).image
    with pytest.raises(ProvisionError, match="answers with 500"), pulling.layers(image, Transfer(0)) as layers:
        read_all(layers)
    wait_until(lambda: not any(thread.name.startswith("download-") for thread in threading.enumerate()))
    for kept in (tmp_path / "cache" / "partial").iterdir():
        assert AMD64.layers[0].blob.startswith(kept.read_bytes())


def read_all(layers: Iterator[tuple[object, LayerBlob]]) -> None:
    for _, blob in layers:
        list(blob.chunks())
