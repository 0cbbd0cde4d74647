"""The file that says how many ids a container has."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.container.ids import MANY_IDS, Ids, read_ids_of


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        (b"", Ids(False, None)),
        (MANY_IDS, Ids(True, None)),
        (b"many\n100000\n", Ids(True, 100000)),
        (b"many\n100000", Ids(True, 100000)),
        (b"many\nx\n", Ids(True, None)),
        (b"many\n12x\n", Ids(True, None)),
        (b"many\n" + b"1" * 5000 + b"\n", Ids(True, None)),
        (b"one\n100000\n", Ids(False, None)),
        (b"many", Ids(True, None)),
    ],
)
def test_what_the_file_says(tmp_path: Path, text: bytes, ids: Ids) -> None:
    assert Ids.parse(text) == ids
    assert read_ids_of(tmp_path) == Ids(False, None)
    (tmp_path / ".provision").mkdir()
    assert read_ids_of(tmp_path) == Ids(False, None)
    (tmp_path / ".provision/ids").write_bytes(text)
    assert read_ids_of(tmp_path) == ids
