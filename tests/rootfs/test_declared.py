"""The VOLUMEs and the WorkingDir of an image exist after it was provisioned, as docker makes them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from provisioner.image.platform import host_platform
from provisioner.rootfs.declared import make_declared_directories
from provisioner.rootfs.tree import Tree
from tests.support import builders
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import clean_environment, provision


def test_missing_directories_are_made_for_root(tree: Tree, root: Path) -> None:
    umask = os.umask(0o077)
    try:
        paths = ["/data", "/deep/er/volume", "relative", "//odd/./../way/", "/", ""]
        assert make_declared_directories(tree, paths) == []
    finally:
        os.umask(umask)
    for name in ("data", "deep", "deep/er", "deep/er/volume", "relative", "way"):
        status = (root / name).stat()
        assert stat.S_IMODE(status.st_mode) == 0o755
        assert status.st_uid == os.geteuid()
    assert not (root / "odd").exists()


def test_what_is_there_stays(tree: Tree, root: Path) -> None:
    (root / "data").mkdir(mode=0o700)
    (root / "data/file").write_text("content")
    assert make_declared_directories(tree, ["/data"]) == []
    assert stat.S_IMODE((root / "data").stat().st_mode) == 0o700
    assert (root / "data/file").read_text() == "content"


def test_links_are_followed_inside_the_rootfs(tree: Tree, root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (root / "var").mkdir()
    (root / "var/run").symlink_to("/run")
    (root / "away").symlink_to("../../../../outside")
    (root / "host").symlink_to(tmp_path / "outside")
    assert make_declared_directories(tree, ["/var/run/app", "/away/volume", "/host/volume"]) == []
    assert (root / "run/app").is_dir()
    assert (root / "outside/volume").is_dir()
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("path", ["/file", "/file/below", "/loop", "/loop/below", f"/{'x' * 300}", "/a\0b", "/\ud800"])
def test_what_the_image_is_in_the_way_of_is_said(tree: Tree, root: Path, path: str) -> None:
    (root / "file").write_text("content")
    (root / "loop").symlink_to("loop")
    (message,) = make_declared_directories(tree, [path])
    assert message.startswith("the image declares a directory ")
    assert message.isprintable()
    assert (root / "file").read_text() == "content"


def test_they_are_in_the_directory_and_in_its_record(tmp_path: Path) -> None:
    config = {"Volumes": {"/var/lib/data": {}, "/etc/motd": {}}, "WorkingDir": "/srv/app"}
    env = clean_environment(XDG_STATE_HOME=str(tmp_path / "state"))
    with ScriptedRegistry() as registry:
        registry.push("image", builders.small(on=str(host_platform()), run=config))
        done = provision(f"{registry.host}/image", tmp_path / "dir", env=env)
    assert done.returncode == 0, done.stderr
    assert "the image declares a directory '/etc/motd', which can't be made" in done.stderr
    for name in ("var/lib/data", "srv/app"):
        assert stat.S_IMODE((tmp_path / "dir/rootfs" / name).stat().st_mode) == 0o755
    record = (tmp_path / "dir/.provision/ownership.mtree").read_text()
    (line,) = [line for line in record.splitlines() if line.split()[0] == "data"]
    assert "uid=0" in line
    assert "mode=0755" in line
