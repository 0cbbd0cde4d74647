"""Documents with wrong fields: each error names the field, whatever the JSON is."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.errors import MalformedImage
from provisioner.image.config import ImageConfig
from provisioner.image.manifest import LAYERS_LIMIT, OCI_INDEX, OCI_MANIFEST, Index, Manifest, media_type_of
from tests.support import builders

SHA = "sha256:" + "5" * 64
INDEX = builders.index([("linux/arm/v7", builders.small())])
MANIFEST = builders.small().manifest
CONFIG = builders.small(
    run={"Cmd": ["x"], "Entrypoint": ["y"], "Env": ["A=1"], "WorkingDir": "/", "User": "u", "StopSignal": "9"},
    config={"variant": "v2"},
).config


def parse_index(data: bytes) -> Index:
    """Return the index. Raises the error of its first entry that is malformed, as those do who would choose it."""
    index = Index.from_json(data)
    for entry in index.malformed:
        raise entry.error
    return index


Parser = Callable[[bytes], object]
PARSERS: dict[str, tuple[Parser, bytes]] = {
    "index": (parse_index, INDEX),
    "manifest": (Manifest.from_json, MANIFEST),
    "config": (ImageConfig.from_json, CONFIG),
}
# Fields that are there for others.
UNREAD = {
    "index.manifests[0].mediaType",  # another type is no image, and left out
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
    """Only values of the right type pass; the error names the field, or one around it."""
    parse, document = PARSERS[what]
    may_be_text = shown(what, path) in ("config.config.Cmd", "config.config.Entrypoint")
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
            assert what in message or "not a container image" in message
        else:
            is_text = may_be_text and isinstance(value, str)
            assert value is None or value in ({}, [None]) or type(value) is type(at) or is_text, value
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
    if path[-1] == "mediaType":  # judged by its content
        Manifest.from_json(json.dumps(whole).encode())
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
def test_an_error_is_one_line(where: Path_, value: object, why: str) -> None:
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
        ({"os": "linux", "architecture": "a\nb"}, "index.manifests[0].platform has 'a\\nb', which names no platform"),
        ({"os": "\ud800", "architecture": "b"}, "index.manifests[0].platform.os contains what is not Unicode"),
        ([], "index.manifests[0].platform is a list, not an object"),
    ],
)
def test_platforms_that_are_none_matter_only_where_they_would_be_chosen(platform: object, why: str) -> None:
    [entry] = Index.from_json(with_value(INDEX, ("manifests", 0, "platform"), platform)).malformed
    assert entry.error.message == why
    assert entry.platform is None


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
    "utf-16": '{"os": "linux"}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "list": b"[]",
    "null": b"null",
    "deep": b'{"a":' + b"[" * 200_000,
    "deep and right": b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "long number": b'{"size": ' + b"9" * 5000 + b"}",
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


@pytest.mark.slow
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
