from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.errors import MalformedImage
from provisioner.image.config import ImageConfig
from provisioner.image.digest import Digest
from provisioner.image.image import Image
from provisioner.image.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    LAYERS_LIMIT,
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

# Docker Hub's own


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


# What is made of good documents


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


def test_a_config_with_everything() -> None:
    run = {
        "Entrypoint": ["/init", "a b"], "Cmd": ["x", ""], "WorkingDir": "/srv", "User": "www:33",
        "Env": ["A=1", "B=", "=x", "NAKED", "C=d=e"], "StopSignal": "SIGQUIT",
    }  # fmt: skip
    config = ImageConfig.from_json(builders.image(on="linux/arm/v6", run=run).config)
    assert config == ImageConfig(
        platform=Platform("linux", "arm", "v6"), diff_ids=(), entrypoint=("/init", "a b"), command=("x", ""),
        env=("A=1", "B=", "C=d=e"), working_dir="/srv", user="www:33", stop_signal="SIGQUIT",
    )  # fmt: skip


@pytest.mark.parametrize("empty", [{}, {"config": None}, {"config": {"Cmd": None, "Env": None, "User": None}}])
def test_a_config_may_say_next_to_nothing(empty: dict[str, Any]) -> None:
    config = ImageConfig.from_json(builders.image(config=empty).config)
    assert (config.command, config.env, config.user) == ((), (), "")


def test_an_image_pairs_layers_with_the_archives_inside() -> None:
    made = builders.small()
    image = Image.from_documents(made.manifest, made.config)
    assert image.digest == Digest.of(made.manifest)
    assert [str(layer.blob.digest) for layer in image.layers] == [builders.digest_of(each.blob) for each in made.layers]
    assert [str(layer.diff_id) for layer in image.layers] == [layer.diff_id for layer in made.layers]


def test_the_index_knows_the_platform_better_than_the_config() -> None:
    made = builders.small(on="linux/arm")
    image = Image.from_documents(made.manifest, made.config, Digest.parse(SHA), Platform("linux", "arm", "v6"))
    assert str(image.config.platform) == "linux/arm/v6"
    assert str(Image.from_documents(made.manifest, made.config).config.platform) == "linux/arm"


def test_manifest_and_config_belong_together() -> None:
    made, other = builders.small(), builders.image()
    with pytest.raises(MalformedImage, match=r"config .* announced"):
        Image.from_documents(made.manifest, other.config)
    same_size = made.config.replace(b"amd64", b"arm64")
    with pytest.raises(MalformedImage, match="config does not match its digest"):
        Image.from_documents(made.manifest, same_size)
    lying = builders.image(*made.layers, config={"rootfs": {"diff_ids": [SHA]}})
    with pytest.raises(MalformedImage, match="2 layers and the config 1"):
        Image.from_documents(lying.manifest, lying.config)


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
    with pytest.raises(MalformedImage, match=r"no container image but 'application/vnd\.cncf\.helm"):
        Manifest.from_json(manifest)


# What is wrong in them

INDEX = builders.index([("linux/arm/v7", builders.small())])
MANIFEST = builders.small().manifest
CONFIG = builders.small(
    run={"Cmd": ["x"], "Entrypoint": ["y"], "Env": ["A=1"], "WorkingDir": "/", "User": "u", "StopSignal": "9"},
    config={"variant": "v2"},
).config

Parser = Callable[[bytes], object]
PARSERS: dict[str, tuple[Parser, bytes]] = {
    "index": (Index.from_json, INDEX),
    "manifest": (Manifest.from_json, MANIFEST),
    "config": (ImageConfig.from_json, CONFIG),
}
# Fields that are there for others.
UNREAD = {
    "config.rootfs.type",
    "index.schemaVersion",
    "index.mediaType",
    "manifest.schemaVersion",
    "manifest.mediaType",
}

Path_ = tuple[str | int, ...]


def fields(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """The paths of all values in a document, the outermost left out."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from fields(inner, (*path, key))


def shown(what: str, path: Path_) -> str:
    return what + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)


def with_value(document: bytes, path: Path_, value: Any) -> bytes:
    """The document with another value at `path`."""
    whole = at = json.loads(document)
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = copy.deepcopy(value)
    return json.dumps(whole).encode()


CASES = [
    pytest.param(what, path, id=shown(what, path))
    for what, (_, document) in PARSERS.items()
    for path in fields(json.loads(document))
    if shown(what, path) not in UNREAD
]
OTHERS: list[Any] = [True, 5, -1, 2.5, 10**30, "text", "\0", "\ud800", [], [5], ["\0"], [None], {}, {"a": 1}, None, []]


@pytest.mark.parametrize(("what", "path"), CASES)
def test_wrong_types_in_any_field_are_named(what: str, path: Path_) -> None:
    """Only values of the right type pass; what is wrong is told with the name of the field, or of one around it."""
    parse, document = PARSERS[what]
    at: Any = json.loads(document)
    for key in path:
        at = at[key]
    refused = 0
    for value in OTHERS:
        try:
            parse(with_value(document, path, value))
        except MalformedImage as error:
            refused, message = refused + 1, error.message
            assert message.isprintable()
            assert len(message) < 400
            assert what in message or "no container image" in message
        else:
            assert value is None or value == {} or type(value) is type(at), value
    assert refused >= len(OTHERS) - 6


@pytest.mark.parametrize(
    "path", [path for path in fields(json.loads(MANIFEST)) if shown("manifest", path) not in UNREAD]
)
def test_a_field_of_a_manifest_that_is_missing_is_named(path: Path_) -> None:
    whole = at = json.loads(MANIFEST)
    for key in path[:-1]:
        at = at[key]
    del at[path[-1]]
    if isinstance(path[-1], int):
        return
    with pytest.raises(MalformedImage) as caught:
        Manifest.from_json(json.dumps(whole).encode())
    assert caught.value.message == f"{shown('manifest', path)} is missing"


@pytest.mark.parametrize(
    ("where", "value", "why"),
    [
        (("config", "size"), "12", "manifest.config.size is a text, not a whole number"),
        (("config", "size"), True, "manifest.config.size is a boolean, not a whole number"),
        (("config", "size"), 1.0, "manifest.config.size is a number, not a whole number"),
        (("config", "size"), -1, "manifest.config.size is not a number of bytes"),
        (("config", "size"), 1 << 63, "manifest.config.size is not a number of bytes"),
        (("layers", 1, "digest"), "sha1:aa", "manifest.layers[1].digest: 'sha1:aa' is not a sha256 or sha512 digest"),
        (("layers", 0, "digest"), {}, "manifest.layers[0].digest is an object, not a text"),
        (("layers", 0), [], "manifest.layers[0] is not a JSON object"),
        (("layers",), {}, "manifest.layers is an object, not a list"),
        (("config",), None, "manifest.config is missing"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(where: Path_, value: object, why: str) -> None:
    with pytest.raises(MalformedImage) as caught:
        Manifest.from_json(with_value(MANIFEST, where, value))
    assert caught.value.message == why


@pytest.mark.parametrize("field", ["Entrypoint", "Cmd", "Env", "WorkingDir", "User", "StopSignal"])
def test_no_text_of_a_config_holds_a_nul(field: str) -> None:
    value = "A=b\0c" if field in ("WorkingDir", "User", "StopSignal") else ["x", "A=b\0c"]
    with pytest.raises(MalformedImage) as caught:
        ImageConfig.from_json(with_value(CONFIG, ("config", field), value))
    assert caught.value.message == f"config.config.{field} contains a NUL"


@pytest.mark.parametrize(
    ("platform", "why"),
    [
        ({"os": "linux"}, "index.manifests[0].platform.architecture is missing"),
        ({"os": "", "architecture": "arm"}, "index.manifests[0].platform.os is missing"),
        ({"os": "linux", "architecture": "a\nb"}, "index.manifests[0].platform has 'a\\nb', which names no platform"),
    ],
)
def test_platforms_that_are_none(platform: dict[str, str], why: str) -> None:
    with pytest.raises(MalformedImage) as caught:
        Index.from_json(with_value(INDEX, ("manifests", 0, "platform"), platform))
    assert caught.value.message == why


def test_too_many_layers() -> None:
    entry = builders.descriptor(b"", builders.OCI_LAYER)
    at_most = with_value(MANIFEST, ("layers",), [entry] * LAYERS_LIMIT)
    assert len(Manifest.from_json(at_most).layers) == LAYERS_LIMIT
    with pytest.raises(MalformedImage, match="1001 layers"):
        Manifest.from_json(with_value(MANIFEST, ("layers",), [entry] * (LAYERS_LIMIT + 1)))


NOT_DOCUMENTS = {
    "empty": b"",
    "html": b"<!doctype html>",
    "cut": MANIFEST[:-9],
    "latin-1": b'{"os": "\xe9"}',
    "utf-16": '{"os": "linux"}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "list": b"[]",
    "null": b"null",
    "deep": b'{"a":' + b"[" * 200_000,
    "deep and right": b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "long number": b'{"size": ' + b"9" * 5000 + b"}",
    "lone surrogate": b'{"os": "\\ud800"}',
}


@pytest.mark.parametrize("what", PARSERS)
@pytest.mark.parametrize("data", NOT_DOCUMENTS.values(), ids=NOT_DOCUMENTS.keys())
def test_what_is_no_document(what: str, data: bytes) -> None:
    parse, _ = PARSERS[what]
    # Python 3.14 reads what is deep to its end.
    said = r"( is not (JSON|a JSON object)|\.\w+ is missing)" if data == NOT_DOCUMENTS["deep and right"] else ""
    with pytest.raises(MalformedImage, match=f"^{what}{said or ' is not (JSON|a JSON object)'}") as caught:
        parse(data)
    assert caught.value.message.isprintable()


_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([SHA, OCI_MANIFEST, OCI_INDEX, builders.OCI_CONFIG, "linux", "arm64"])
)
_KEYS = st.text(max_size=5) | st.sampled_from(
    ["mediaType", "digest", "size", "platform", "os", "architecture", "variant", "manifests", "layers", "config",
     "rootfs", "diff_ids", "Cmd", "Entrypoint", "Env", "User", "WorkingDir", "schemaVersion", "artifactType"]
)  # fmt: skip
JSON = st.recursive(_LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=6))
DOCUMENTS = st.dictionaries(_KEYS, JSON, max_size=8).map(lambda value: json.dumps(value).encode())


@given(JSON.map(lambda value: json.dumps(value).encode()) | DOCUMENTS | st.binary())
def test_arbitrary_json_raises_nothing_else(data: bytes) -> None:
    for parse in (Index.from_json, Manifest.from_json, ImageConfig.from_json, lambda d: media_type_of(d, OCI_INDEX)):
        try:
            parse(data)
        except MalformedImage as error:
            message = error.message
            assert message.isprintable()


@given(st.sampled_from(CASES), JSON)
def test_arbitrary_json_in_any_field_raises_nothing_else(case: Any, value: Any) -> None:
    what, path = case.values
    parse, document = PARSERS[what]
    try:
        parse(with_value(document, path, value))
    except MalformedImage as error:
        message = error.message
        assert message.isprintable()
