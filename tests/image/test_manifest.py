"""Indexes and manifests: what is read of them, and which document is which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from provisioner.errors import MalformedImage
from provisioner.image.config import ImageConfig
from provisioner.image.image import Image
from provisioner.image.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Index,
    Manifest,
    media_type_of,
)
from provisioner.image.platform import Platform
from tests.support import builders

DATA = Path(__file__).parent.parent / "data"
"""What Docker Hub served for ubuntu in October 2024, formatted anew."""

SHA = "sha256:" + "5" * 64


def test_docker_hubs_index() -> None:
    index = Index.from_json((DATA / "hub-ubuntu-index.json").read_bytes())
    offered = {str(entry.platform): str(entry.digest)[7:15] for entry in index.manifests}
    assert offered == {
        "linux/amd64": "74f92a6b",
        "linux/arm/v7": "4192b2c3",
        "linux/arm64/v8": "1d392dca",
        "linux/ppc64le": "29485819",
        "linux/riscv64": "08d0f41b",
        "linux/s390x": "48459f9f",
    }
    assert {entry.size for entry in index.manifests} == {424}


def test_docker_hubs_manifest_and_config() -> None:
    manifest = Manifest.from_json((DATA / "hub-ubuntu-manifest.json").read_bytes())
    assert manifest.config.digest.short == "c22ec0081bf1"
    assert [(layer.digest.short, layer.size) for layer in manifest.layers] == [("25a614108e8d", 28885430)]
    config = ImageConfig.from_json((DATA / "hub-ubuntu-config.json").read_bytes())
    assert str(config.platform) == "linux/arm64/v8"
    assert config.command == ("/bin/bash",)
    assert config.entrypoint == ()
    assert config.env == ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)
    assert len(config.diff_ids) == 1


def test_attestations_and_artifacts_are_no_images() -> None:
    entry = {"mediaType": OCI_MANIFEST, "digest": SHA, "size": 1}
    manifests = [
        {**entry, "platform": {"os": "unknown", "architecture": "unknown"}},
        {**entry, "mediaType": "application/vnd.example.thing", "platform": {"os": "linux", "architecture": "arm64"}},
        {**entry, "platform": {"os": "linux", "architecture": "arm64"}},
        {**entry, "mediaType": DOCKER_LIST},
    ]
    index = Index.from_json(builders.json_bytes({"manifests": manifests}))
    assert [(entry.media_type, entry.platform) for entry in index.manifests] == [
        (OCI_MANIFEST, Platform("linux", "arm64")),
        (DOCKER_LIST, None),
    ]


def test_entries_that_say_nothing_useful_are_no_reason_to_refuse_an_index() -> None:
    """Nobody chooses them (see tests/sources/test_resolver.py for those who would)."""
    good = builders.descriptor(b"{}", OCI_MANIFEST, platform={"os": "Linux", "architecture": "AMD64"})
    odd: list[Any] = [
        {**good, "platform": {"architecture": "", "os": "linux"}},  # as of SBOMs
        {**good, "platform": {}},
        {**good, "platform": None},
        {**good, "mediaType": "", "platform": {"architecture": "armhf"}},
        {**good, "annotations": []},
    ]
    malformed: list[Any] = [
        {}, None, [], "x", {**good, "digest": "sha256:1"}, {**good, "size": -1}, {**good, "platform": {"os": 5}},
        {"mediaType": OCI_MANIFEST, "platform": {"os": "linux", "architecture": "s390x"}},
    ]  # fmt: skip
    left_out: list[Any] = [
        {**good, "annotations": {"vnd.docker.reference.type": "attestation-manifest"}},
        {**good, "platform": {"os": "unknown", "architecture": "amd64"}},
        {**good, "mediaType": "application/spdx+json"},
    ]
    index = Index.from_json(builders.json_bytes({"manifests": [*malformed, *left_out, *odd, good]}))
    assert [str(entry.platform) for entry in index.manifests] == [
        "None", "None", "None", "linux/arm/v7", "linux/amd64", "linux/amd64",
    ]  # fmt: skip
    assert len(index.malformed) == len(malformed)
    assert str(index.malformed[-1].platform) == "linux/s390x"


def test_null_in_place_of_an_empty_list() -> None:
    config = builders.descriptor(b"{}", builders.OCI_CONFIG)
    assert Manifest.from_json(builders.json_bytes({"config": config, "layers": None})).layers == ()
    assert Index.from_json(b'{"manifests": null}').manifests == ()


# Which document it is


@pytest.mark.parametrize(
    ("document", "content_type", "expected"),
    [
        ({"mediaType": OCI_INDEX, "manifests": []}, "text/plain", OCI_INDEX),
        ({"mediaType": DOCKER_MANIFEST, "layers": []}, OCI_INDEX, DOCKER_MANIFEST),
        ({"layers": [], "config": {}}, f"{OCI_MANIFEST}; charset=utf-8", OCI_MANIFEST),
        ({"manifests": []}, DOCKER_LIST, DOCKER_LIST),
        ({"manifests": []}, "application/json", OCI_INDEX),
        ({"config": {}, "layers": []}, "", OCI_MANIFEST),
        ({"schemaVersion": 2, "mediaType": OCI_MANIFEST}, "", OCI_MANIFEST),
        ({"layers": None, "config": {}}, "", OCI_MANIFEST),
        ({"layers": [], "config": {}}, DOCKER_LIST, OCI_MANIFEST),  # the registry is wrong
        ({"manifests": []}, DOCKER_MANIFEST, OCI_INDEX),
        ({"layers": [], "config": {}}, "Application/VND.docker.distribution.manifest.v2+JSON", DOCKER_MANIFEST),
        ({"mediaType": "text/html", "layers": [], "config": {}}, "text/html", OCI_MANIFEST),
        ({"mediaType": "application/json", "manifests": []}, "", OCI_INDEX),
    ],
)
def test_media_types(document: dict[str, Any], content_type: str, expected: str) -> None:
    assert media_type_of(builders.json_bytes(document), content_type) == expected


@pytest.mark.parametrize(
    ("document", "content_type", "why"),
    [
        ({"schemaVersion": 1, "name": "x"}, "application/json", "schema 1"),
        ({"schemaVersion": 1}, OCI_MANIFEST, "schema 1"),
        ({"mediaType": "application/vnd.docker.distribution.manifest.v1+json"}, "", "schema 1"),
        ({"manifests": [], "layers": []}, OCI_INDEX, "neither an index nor a manifest"),
        ({"mediaType": OCI_MANIFEST, "manifests": [], "config": {}}, "", "neither an index nor a manifest"),
        ({"schemaVersion": 3, "manifests": []}, OCI_INDEX, "neither an index nor a manifest"),
        ({"schemaVersion": "2", "manifests": []}, OCI_INDEX, "schemaVersion is a text, not a whole number"),
        ({"mediaType": 5, "layers": []}, OCI_MANIFEST, "mediaType is a whole number, not a text"),
        ({"mediaType": "application/\x1b[31m"}, OCI_MANIFEST, r"'application/\\x1b"),
        ({"mediaType": "application/vnd.example"}, OCI_MANIFEST, "not an image but 'application/vnd.example'"),
        ({"errors": []}, "application/json", "not an image but 'application/json'"),
        ({}, "", "not an image but 'something else'"),
    ],
)
def test_what_is_neither_index_nor_manifest(document: dict[str, Any], content_type: str, why: str) -> None:
    with pytest.raises(MalformedImage, match=why) as caught:
        media_type_of(builders.json_bytes(document), content_type)
    assert caught.value.message.isprintable()


def test_an_artifact_is_named() -> None:
    chart = "application/vnd.cncf.helm.config.v1+json"
    manifest = builders.image(manifest={"config": builders.descriptor(b"{}", chart)}).manifest
    with pytest.raises(MalformedImage, match=r"not a container image but 'application/vnd\.cncf\.helm"):
        Manifest.from_json(manifest)


VAGUE = [None, "", "text/html", "text/plain", "application/json", "application/json; charset=utf-8"]
VAGUE += ["application/octet-stream", "binary/octet-stream"]


@pytest.mark.parametrize("media_type", VAGUE)
def test_configs_of_old_registries_are_judged_by_their_content(media_type: str | None) -> None:
    image = builders.small()
    fields = {"mediaType": media_type} if media_type is not None else {}
    document = builders.descriptor(image.config, "")
    del document["mediaType"]
    made = builders.small(manifest={"config": document | fields})
    assert Image.from_documents(made.manifest, made.config).config.diff_ids


@pytest.mark.parametrize(
    ("content", "media_type", "why"),
    [
        (
            b"<html>",
            "text/html",
            "this is not a container image: its config, of the type 'text/html', is not an image's",
        ),
        (b"{}", "", "this is not a container image: its config is not an image's .config.rootfs is missing"),
        (b'{"title": "a chart"}', "application/json", "not a container image"),
    ],
)
def test_what_turns_out_to_be_no_config_is_named(content: bytes, media_type: str, why: str) -> None:
    made = builders.small(manifest={"config": builders.descriptor(content, media_type)})
    with pytest.raises(MalformedImage, match=why):
        Image.from_documents(made.manifest, content)
