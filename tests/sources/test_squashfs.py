"""The program that reads a squashfs ends, whatever it does meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from provisioner.filesystem.descriptors import closing_descriptor
from provisioner.sources.squashfs import SquashfsBlob
from tests.support.tools import need, run


def test_close_of_a_program_that_has_just_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread of sh waits for it, between our question and the signal too."""
    need("mksquashfs", "unsquashfs")
    (tmp_path / "tree/etc").mkdir(parents=True)
    run("mksquashfs", tmp_path / "tree", tmp_path / "squashfs", "-quiet", "-no-progress")
    with closing_descriptor(os.open(tmp_path / "squashfs", os.O_RDONLY)) as file:
        blob = SquashfsBlob(file, "squashfs")
        assert b"".join(blob.chunks())
        process = blob._process
        process.wait()
        monkeypatch.setattr(process.process, "is_alive", lambda: (True, None))
        blob.close()
