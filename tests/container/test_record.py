"""The record of a directory: what is written is read again, and what is damaged is refused."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from provisioner import __version__
from provisioner.container.record import LayerRecord, Record
from provisioner.container_files import FOLDER
from provisioner.errors import MachineError
from provisioner.filesystem.descriptors import directory_descriptor
from provisioner.image.image import Image
from tests.support import builders

RECORD = Record(
    reference="localhost:5000/n\u00e4me:1",
    platform="linux/arm64/v8",
    manifest_digest="sha256:" + "1" * 64,
    index_digest="",
    config_digest="sha256:" + "2" * 64,
    layers=(LayerRecord("sha256:" + "3" * 64, "sha256:" + "4" * 64, 5, "application/x.tar"),),
    profile="debian",
)


@pytest.fixture
def image() -> Image:
    documents = builders.small()
    return Image.from_documents(documents.manifest, documents.config)


def place(directory: Path, text: str | bytes) -> None:
    (directory / FOLDER).mkdir()
    (directory / FOLDER / "record.json").write_bytes(text if isinstance(text, bytes) else text.encode())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    place(tmp_path, RECORD.to_json())
    assert Record.read(tmp_path) == RECORD


def test_the_record_is_readable_json_with_a_format() -> None:
    value = json.loads(RECORD.to_json())
    assert value == json.loads(json.dumps(asdict(RECORD)))
    assert value["layers"] == [asdict(RECORD.layers[0])]
    assert (value["format"], value["version"]) == (1, __version__)
    assert RECORD.to_json().endswith("}\n")
    assert RECORD.to_json().isascii()  # a terminal may get it


@pytest.mark.parametrize("what", ["nothing", "empty folder", "file in place of the folder", "no directory"])
def test_where_there_is_no_record_there_is_none(tmp_path: Path, what: str) -> None:
    directory = tmp_path / "x"
    if what != "no directory":
        directory.mkdir()
    if what == "empty folder":
        (directory / FOLDER).mkdir()
    elif what == "file in place of the folder":
        (directory / FOLDER).touch()
    assert Record.read(directory) is None


def changed(**values: Any) -> str:
    return json.dumps({**json.loads(RECORD.to_json()), **values})


def layer(**values: Any) -> list[dict[str, Any]]:
    return [{**asdict(RECORD.layers[0]), **values}]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "5",
        '"text"',
        "null",
        "{}",
        b"\xff",
        "[" * 100_000,
        changed(format=2),
        changed(format="1"),
        changed(format=True),
        changed(new=1),
        changed(reference=5),
        changed(reference=None),
        changed(manifest_digest=[]),
        changed(layers=5),
        changed(layers=None),
        changed(layers=["x"]),
        changed(layers=[{}]),
        changed(layers=layer(size="5")),
        changed(layers=layer(size=True)),
        changed(layers=layer(digest=None)),
        changed(layers=layer(new=1)),
    ],
)
def test_a_damaged_or_newer_record_is_refused(tmp_path: Path, text: str | bytes) -> None:
    directory = tmp_path / "odd\nname"
    directory.mkdir()
    place(directory, text)
    with pytest.raises(MachineError, match="is damaged, or from another version") as raised:
        Record.read(directory)
    assert "provision again" in raised.value.hint
    assert (raised.value.message + raised.value.hint).isprintable()


def test_a_record_that_would_take_all_memory_is_refused(tmp_path: Path) -> None:
    """A directory may have come from elsewhere: 60 MB of empty lists took 1.5 GB."""
    place(tmp_path, " " * (8 << 20) + RECORD.to_json())
    with pytest.raises(MachineError, match="is damaged"):
        Record.read(tmp_path)


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / FOLDER / "record.json").mkdir(parents=True)
    with pytest.raises(MachineError, match=r"^read .*record\.json: Is a directory$"):
        Record.read(tmp_path)


def test_the_documents_are_written_byte_for_byte(tmp_path: Path, image: Image) -> None:
    record = Record.of("user/image", image, "debian")
    (tmp_path / FOLDER).mkdir()
    with directory_descriptor(tmp_path / FOLDER) as folder:
        record.write(folder, image)
    assert Record.read(tmp_path) == record
    assert (tmp_path / FOLDER / "manifest.json").read_bytes() == image.manifest_bytes
    assert (tmp_path / FOLDER / "config.json").read_bytes() == image.config_bytes
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == [
        "config.json",
        "manifest.json",
        "record.json",
    ]


def test_a_record_says_what_the_image_is(image: Image) -> None:
    record = Record.of("user/image", image, "debian")
    assert record.manifest_digest == str(image.digest)
    assert record.index_digest == ""
    assert record.config_digest == str(image.manifest.config.digest)
    assert [(layer.digest, layer.diff_id) for layer in record.layers] == [
        (str(layer.blob.digest), str(layer.diff_id)) for layer in image.layers
    ]
    indexed = Record.of("user/image", replace(image, index_digest=image.digest), "debian")
    assert indexed.index_digest == str(image.digest)
