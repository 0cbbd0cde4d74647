"""Opening a container by its path, and what is said where there is none."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from provisioner.container.existing import existing_record
from provisioner.container.opened import LIST_HINT, opened_container
from provisioner.container_files import FOLDER, OWNERSHIP_RECORD, RECORD
from provisioner.errors import PROVISION_ELSEWHERE, MachineError, ProvisionError, TargetExists
from provisioner.filesystem.descriptors import DIRECTORY
from tests.support.leftovers import open_descriptors
from tests.support.tools import need, need_root, run


@pytest.fixture
def container(tmp_path: Path) -> Path:
    """A directory that has a record, whatever is in it."""
    directory = tmp_path / "container"
    (directory / FOLDER).mkdir(parents=True)
    (directory / FOLDER / RECORD).write_text("{}")
    return directory


def refused(directory: Path, needs: tuple[str, ...] = (RECORD,)) -> tuple[int, str, str]:
    """Return the exit status, the message and the hint where a directory is not opened."""
    with pytest.raises(ProvisionError) as raised, opened_container(directory, shown="DIR", needs=needs):
        pass
    return raised.value.status, raised.value.message, raised.value.hint


def test_both_descriptors(container: Path) -> None:
    with opened_container(container) as opened:
        assert os.listdir(opened.top) == [FOLDER]
        assert os.listdir(opened.folder) == [RECORD]
        assert (opened.path, opened.shown) == (container, str(container))
        with pytest.raises(MachineError, match="is damaged, or from another version"):
            opened.read_record()
        with pytest.raises(MachineError, match="has no record of owners"):
            opened.check_ownership_record()


def test_nothing_and_what_provision_has_not_made(container: Path) -> None:
    above, inside = container.parent, container / "rootfs/etc"
    inside.mkdir(parents=True)
    assert refused(above / "none") == (3, "there is no directory DIR", LIST_HINT)
    assert refused(above / "none/none") == (3, "there is no directory DIR", LIST_HINT)
    assert refused(above) == (8, "DIR was not made by provision", LIST_HINT)
    assert refused(inside) == (8, "DIR was not made by provision", f"name the directory: {container}")
    file, link = above / "file", above / "link"
    file.touch()
    link.symlink_to(container)
    assert refused(file) == (8, "DIR is not a directory", LIST_HINT)
    assert refused(link) == (8, f"DIR is a symlink to {container}", "name the directory itself")


def test_a_directory_that_may_only_be_searched_leaves_nothing_open(
    container: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def open_or_refuse(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == container.name and flags == DIRECTORY:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, flags, mode, dir_fd=dir_fd)

    before = open_descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_or_refuse)
        assert refused(container)[:2] == (7, f"look at {container}: Permission denied")
    assert open_descriptors() == before


@pytest.mark.parametrize("below", ["", FOLDER])
def test_a_container_below_a_mount(container: Path, below: str) -> None:
    """What is mounted on it is named, with the command that shows the container again."""
    need_root()
    need("mount", "umount")
    other, point = container.with_name("the other"), container / below
    other.mkdir()
    (other / "file").touch()
    for words, shown in ((["--bind", other], str(other)), (["-t", "tmpfs", "-o", "mode=700", "a name"], "a name")):
        run("mount", *words, point)
        try:
            (point / "file").touch()
            status, _, hint = refused(container)
            with pytest.raises(ProvisionError) as raised:
                existing_record(container)
        finally:
            run("umount", point)
        assert status == 8
        hides = f"is mounted on {point}: if that hides a container, unmount it first: umount {point}"
        for text in (hint, raised.value.hint):
            assert re.search(rf"; .*{shown} \(\w+\) {hides}$", text)
    with opened_container(container):
        pass


@pytest.mark.parametrize("kind", ["missing", "directory"])
def test_without_a_record(container: Path, kind: str) -> None:
    (container / FOLDER / RECORD).unlink()
    if kind == "directory":
        (container / FOLDER / RECORD).mkdir()
    incomplete = "DIR is incomplete: its record is missing, so nobody knows what it was made from"
    assert refused(container) == (8, incomplete, PROVISION_ELSEWHERE)
    assert refused(container, needs=(RECORD, OWNERSHIP_RECORD)) == (8, incomplete, PROVISION_ELSEWHERE)
    with opened_container(container, needs=()) as opened:
        assert opened.path == container
    (container / FOLDER / OWNERSHIP_RECORD).touch()
    with opened_container(container, needs=(RECORD, OWNERSHIP_RECORD)) as opened:
        opened.check_ownership_record()


def test_removal_is_suggested_for_what_can_be_removed(container: Path) -> None:
    (container / FOLDER / RECORD).unlink()
    for hint in ("move it away", f"to remove this one: provision remove {container}"):
        with pytest.raises(TargetExists, match="is incomplete: its record is missing") as raised:
            existing_record(container)
        assert raised.value.hint.endswith(hint)
        (container / FOLDER / OWNERSHIP_RECORD).touch()
