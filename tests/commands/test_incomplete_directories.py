"""Directories that lack what provision makes: what the answers advise destroys nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from provisioner.cli import main
from tests.support.provisioned import provisioned

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("backup", "DIR", "NEW"),
    ("export", "DIR", "NEW"),
    ("export", "--format=oci-archive", "DIR", "NEW"),
    ("push", "DIR", "127.0.0.1:1/x/y"),
    ("diff", "DIR"),
    ("repair", "--check", "DIR"),
    ("update", "--dry-run", "--offline", "DIR"),
    ("owners", "DIR"),
    ("config", "DIR"),
    ("inspect", "DIR"),
    ("copy", "DIR", "NEW"),
    ("move", "DIR", "NEW"),
)


@pytest.fixture(scope="module")
def whole(lasting_place: Path) -> Path:
    return provisioned(lasting_place / "whole")


@pytest.mark.parametrize("name", ["ownership.mtree", "record.json", "manifest.json", "config.json", "../start.sh"])
@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_no_answer_advises_what_destroys_changes(
    whole: Path, lasting_place: Path, name: str, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--force` replaces the directory: it is never the answer to a question about its content."""
    place = lasting_place / f"{harm} {name.strip('./')}"
    place.mkdir()
    directory = place / "dir"
    shutil.copytree(whole, directory, symlinks=True, ignore=lambda _, names: {"fifo", "null"}.intersection(names))
    file = directory / ".provision" / name
    if harm == "missing":
        file.unlink()
    else:
        file.write_bytes(b"#!damaged\nx\n")
    failures = 0
    for words in COMMANDS:
        names = {"DIR": str(directory), "NEW": str(place / "new")}
        failures += bool(main([names.get(word, word) for word in words]))
        output, error = capsys.readouterr()
        assert "Traceback" not in error
        assert "--force" not in output + error, words
        if (place / "new").is_dir():
            if not directory.exists():
                (place / "new").rename(directory)
            else:
                shutil.rmtree(place / "new")
    assert failures


def test_a_directory_that_has_lost_its_record_can_be_removed(place: Path) -> None:
    directory = provisioned(place / "dir")
    (directory / ".provision/record.json").unlink()
    assert main(["remove", "--yes", str(directory)]) == 0
    assert not directory.exists()
