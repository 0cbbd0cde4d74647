"""What layers hide is removed while other work is done."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from provisioner.filesystem.descriptors import DIRECTORY, closing_descriptor
from provisioner.layers.trash import emptying_in_background
from provisioner.threads import BackgroundThread
from tests.support.trees import make_deep


@pytest.fixture
def hidden(tmp_path: Path) -> Path:
    (tmp_path / "removed/directory").mkdir(parents=True)
    (tmp_path / "removed/directory/file").touch()
    (tmp_path / "removed/file").touch()
    (tmp_path / "removed/deep").mkdir()
    make_deep(tmp_path / "removed/deep")
    return tmp_path / "removed"


def test_it_is_gone_at_the_end(hidden: Path) -> None:
    with closing_descriptor(os.open(hidden.parent, DIRECTORY)) as folder, emptying_in_background(folder, hidden.name):
        pass
    assert list(hidden.iterdir()) == []


def test_it_is_gone_before_an_error_is_raised(hidden: Path) -> None:
    """Nothing else may remove it at the same time."""
    with (
        closing_descriptor(os.open(hidden.parent, DIRECTORY)) as folder,
        pytest.raises(KeyboardInterrupt),
        emptying_in_background(folder, hidden.name),
    ):
        raise KeyboardInterrupt
    assert list(hidden.iterdir()) == []


@pytest.mark.parametrize("error", [MemoryError, RuntimeError])
def test_without_a_thread_it_is_removed_later(
    hidden: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def refuse(self: BackgroundThread) -> None:
        raise error

    monkeypatch.setattr(BackgroundThread, "start", refuse)
    with closing_descriptor(os.open(hidden.parent, DIRECTORY)) as folder, emptying_in_background(folder, hidden.name):
        pass
    assert list(hidden.iterdir()) == []
