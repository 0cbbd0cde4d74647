"""Images that are made of other ones: their documents."""

from __future__ import annotations

import json
from typing import Any

import pytest

from provisioner.image.derivation import AddedLayer, Derivation, DerivedImage, derive
from provisioner.image.digest import Digest
from provisioner.image.image import Image
from provisioner.image.platform import Platform
from tests.support import builders

LAYER = AddedLayer(Digest.of(b"blob"), 4, Digest.of(b"archive"))
DOCKER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
OCI = "application/vnd.oci.image.layer.v1.tar+gzip"


def base(manifest: dict[str, Any] | None = None, layers: tuple[str, ...] = (OCI,), **config: Any) -> Image:
    """An image whose layers have these media types."""
    made = builders.image(*(builders.layer((f"file{n}", b"x")) for n in range(len(layers))), config=config)
    document = json.loads(made.manifest)
    for layer, media_type in zip(document["layers"], layers, strict=True):
        layer["mediaType"] = media_type
    document |= manifest or {}
    document["config"] |= document.pop("config type", {})
    data = builders.json_bytes({key: value for key, value in document.items() if value is not None})
    return Image.from_documents(data, made.config, platform=Platform("linux", "amd64"))


def derived(
    image: Image, layer: AddedLayer | None = LAYER, *, squash: bool = False, only_oci: bool = False
) -> tuple[DerivedImage, dict[str, Any], dict[str, Any]]:
    """Return the new image, its manifest and its config."""
    made = derive(image, Derivation(layer, squash, (), "", 0, "r.example/x:1"), only_oci=only_oci)
    return made, json.loads(made.manifest), json.loads(made.config)


@pytest.mark.parametrize("media_type", ["application/vnd.oci.image.manifest.v1+json", None])
def test_without_changes_the_documents_are_the_same_bytes(media_type: str | None) -> None:
    image = base({"mediaType": media_type})
    made, _, _ = derived(image, None)
    assert (made.manifest, made.config) == (image.manifest_bytes, image.config_bytes)
    assert made.media_type == "application/vnd.oci.image.manifest.v1+json"


@pytest.mark.parametrize("only_oci", [False, True])
def test_formats_are_never_mixed(only_oci: bool) -> None:
    docker = {
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config type": {"mediaType": "application/vnd.docker.container.image.v1+json"},
    }
    foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    for layer in (LAYER, None):
        made, manifest, _ = derived(base(docker, (DOCKER, OCI, foreign)), layer, only_oci=only_oci)
        types = [manifest["mediaType"], manifest["config"]["mediaType"]]
        types += [item["mediaType"] for item in manifest["layers"]]
        if layer or only_oci:
            assert all(("oci" if only_oci else "docker") in text for text in types), types
        assert made.media_type == manifest["mediaType"]
        assert ("annotations" in manifest) == (only_oci and layer is not None)


def test_what_the_descriptors_of_layers_have_is_kept() -> None:
    image = base()
    document = json.loads(image.manifest_bytes)
    document["layers"][0]["annotations"] = {"a": "b"}
    document["annotations"] = {"c": "d"}
    image = Image.from_documents(builders.json_bytes(document), image.config_bytes)
    _, manifest, _ = derived(image)
    assert manifest["layers"][0] == document["layers"][0]
    assert manifest["annotations"]["c"] == "d"


@pytest.mark.parametrize(
    ("history", "full"),
    [
        (None, 3),
        ("odd", 3),
        ([{"created_by": "one"}], 3),
        ([{"created_by": "one"}, 7, {"created_by": "two"}, {"created_by": "three"}, {"empty_layer": True}], 3),
    ],
)
def test_the_history_has_an_entry_for_each_layer(history: Any, full: int) -> None:
    _, manifest, config = derived(base(None, (OCI, OCI), history=history))
    entries = [entry for entry in config["history"] if not entry.get("empty_layer")]
    assert len(entries) == full == len(manifest["layers"]) == len(config["rootfs"]["diff_ids"])
    assert config["history"][-1]["created_by"] == "provision export"


def test_a_squashed_image_has_one_layer_and_no_base() -> None:
    _, manifest, config = derived(
        base(None, (OCI, OCI), history=[{"created_by": "a"}, {"created_by": "b"}]), squash=True
    )
    assert [item["digest"] for item in manifest["layers"]] == [str(LAYER.digest)]
    assert config["rootfs"]["diff_ids"] == [str(LAYER.diff_id)]
    assert [bool(entry.get("empty_layer")) for entry in config["history"]] == [True, True, False]
    assert "annotations" not in manifest


def test_a_platform_that_only_the_index_states_is_written() -> None:
    made, _, config = derived(base(architecture="", os=""))
    assert (config["os"], config["architecture"]) == ("linux", "amd64")
    assert made.platform == {"os": "linux", "architecture": "amd64"}
