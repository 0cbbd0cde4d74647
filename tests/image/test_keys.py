"""Documents with keys that tools read differently: which are refused, and which are nobody's business."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.errors import MalformedImage
from provisioner.image.config import ImageConfig
from provisioner.image.keys import CONFIG, INDEX, MANIFEST, make_object, refuse_ambiguous_keys
from provisioner.image.manifest import OCI_INDEX, OCI_MANIFEST, Index, Manifest, media_type_of
from tests.support import builders

SHA = "sha256:" + "5" * 64
PLATFORM = {"architecture": "amd64", "os": "linux"}
DESCRIPTOR = {"mediaType": "m", "digest": SHA, "size": 1, "platform": PLATFORM, "annotations": {}}
DOCUMENTS: dict[str, tuple[Any, Any]] = {
    "index": (
        INDEX,
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [DESCRIPTOR], "subject": DESCRIPTOR},
    ),
    "manifest": (
        MANIFEST,
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {**DESCRIPTOR, "mediaType": "application/vnd.oci.image.config.v1+json"},
            "layers": [DESCRIPTOR],
            "annotations": {},
        },
    ),
    "config": (
        CONFIG,
        {
            **PLATFORM,
            "config": {"Cmd": ["x"], "Entrypoint": [], "Env": [], "Labels": {}, "User": "", "Volumes": {}},
            "rootfs": {"type": "layers", "diff_ids": [SHA]},
            "history": [{"created_by": "x", "empty_layer": True}],
        },
    ),
}
READERS = {"index": Index.from_json, "manifest": Manifest.from_json, "config": ImageConfig.from_json}


def fields_of(document: Any, fields: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all fields of the specification in a document."""
    if isinstance(document, list):
        return [found for number, item in enumerate(document) for found in fields_of(item, fields, (*path, number))]
    if not isinstance(document, dict):
        return []
    found = [(*path, key) for key in document if key in fields]
    return found + [
        deep for key, value in document.items() for deep in fields_of(value, fields.get(key, {}), (*path, key))
    ]


def with_key(document: Any, path: tuple[Any, ...], key: str, value: Any) -> str:
    """The document as JSON, with one more key beside the field at `path`, even if there is such a key already."""
    is_list = isinstance(document, list)
    pairs = [
        (name, with_key(item, path[1:], key, value) if len(path) > 1 and name == path[0] else json.dumps(item))
        for name, item in (enumerate(document) if is_list else document.items())
    ]
    if is_list:
        return f"[{', '.join(text for _, text in pairs)}]"
    pairs += [(key, value)] if len(path) == 1 else []
    return f"{{{', '.join(f'{json.dumps(name)}: {text}' for name, text in pairs)}}}"


LONG_S = "\u017f"
"""A letter that Go takes for an s."""


def other_spellings(key: str) -> set[str]:
    """Spellings that Go's tools take for `key`."""
    return {key.upper(), key.swapcase(), key.title(), key.replace("s", LONG_S).replace("S", LONG_S)} - {key}


EVERY_FIELD = [
    pytest.param(kind, path, id=f"{kind}.{'.'.join(map(str, path))}")
    for kind, (fields, document) in DOCUMENTS.items()
    for path in fields_of(document, fields)
]


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_the_documents_are_good(kind: str) -> None:
    READERS[kind](builders.json_bytes(DOCUMENTS[kind][1]))


@pytest.mark.parametrize(("kind", "path"), EVERY_FIELD)
def test_a_field_twice_is_refused(kind: str, path: tuple[Any, ...]) -> None:
    data = with_key(DOCUMENTS[kind][1], path, path[-1], "null").encode()
    with pytest.raises(MalformedImage, match=rf"'{path[-1]}' more than once: tools would read different images"):
        READERS[kind](data)


@pytest.mark.parametrize(("kind", "path"), EVERY_FIELD)
def test_a_field_in_other_capitals_is_refused(kind: str, path: tuple[Any, ...]) -> None:
    for key in other_spellings(path[-1]):
        data = with_key(DOCUMENTS[kind][1], path, key, "null").encode()
        with pytest.raises(MalformedImage, match=f"'{key}', which other tools read as '{path[-1]}'"):
            READERS[kind](data)


def test_a_field_that_is_spelled_wrong_is_refused_even_alone() -> None:
    document = {**DOCUMENTS["config"][1], "config": {"cmd": ["x"]}}
    with pytest.raises(MalformedImage, match=r"config\.config has 'cmd', which other tools read as 'Cmd'"):
        ImageConfig.from_json(builders.json_bytes(document))


@pytest.mark.parametrize("key", ["layers", "Layers", "config", "manifests", "Manifests", "mediaType", "MediaType"])
def test_what_decides_the_kind_of_a_document_is_refused_when_it_arrives(key: str) -> None:
    for kind in ("index", "manifest"):
        data = with_key(DOCUMENTS[kind][1], ("schemaVersion",), key, "[]").encode()
        with pytest.raises(MalformedImage):
            media_type_of(data, "")


def test_labels_annotations_and_sets_have_any_keys() -> None:
    free = '{"layers": "1", "Layers": "2", "layers": "3", "created": "", "Created": ""}'
    for kind, path in (("index", ("manifests", 0, "digest")), ("manifest", ("layers", 0, "digest"))):
        text = json.dumps(DOCUMENTS[kind][1]).replace('"annotations": {}', f'"annotations": {free}')
        assert text.count("Layers") >= 1, path
        READERS[kind](text.encode())
    text = json.dumps(DOCUMENTS["config"][1])
    config = ImageConfig.from_json(text.replace('"Labels": {}', f'"Labels": {free}').encode())
    assert dict(config.labels) == {"layers": "3", "Layers": "2", "created": "", "Created": ""}
    sets = '{"/data": {}, "/DATA": {}, "/data": {}}'
    assert ImageConfig.from_json(text.replace('"Volumes": {}', f'"Volumes": {sets}').encode()).volumes == (
        "/DATA",
        "/data",
    )


def test_fields_that_the_specification_doesnt_name_are_anybodys() -> None:
    """Docker's configs have `container_config`, and some that tools write have both `x` and `X`."""
    more = '"container_config": {"Cmd": 1, "cmd": 2, "Cmd": 3}, "x": 1, "X": 2, "x": {"layers": 1, "layers": 2}'
    for kind in DOCUMENTS:
        READERS[kind]((json.dumps(DOCUMENTS[kind][1])[:-1] + f", {more}}}").encode())


@given(st.lists(st.tuples(st.text(max_size=3), st.integers()), max_size=6))
def test_an_object_has_the_values_that_json_gives_it(pairs: list[tuple[str, int]]) -> None:
    assert make_object(list(pairs)) == dict(pairs)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["config", "layers", "Layers", "rootfs", "x"]), inner)
        ),
    )
)
def test_no_shape_breaks_the_check(value: object) -> None:
    with suppress(MalformedImage):
        refuse_ambiguous_keys(value, MANIFEST, "manifest")
