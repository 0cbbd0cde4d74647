"""Real package managers whose databases both sides have changed: they install the user's packages in the new image."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.package_managers import PackageManager, in_container
from tests.support.package_managers.apk import Apk
from tests.support.package_managers.apt import Apt
from tests.support.package_managers.dnf import Dnf
from tests.support.package_managers.pacman import Pacman
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import as_user, open_directory, own, provision
from tests.support.trees import tree_of

pytestmark = pytest.mark.slow

MADE_HERE = {"base", "dropped", "helper", "mine", "other"}


@pytest.fixture(scope="module", params=[Apk, Apt, Dnf, Pacman], ids=lambda manager: manager.__name__.lower())
def manager(request: pytest.FixtureRequest, image_cache: Path) -> Iterator[PackageManager]:
    place = open_directory("packages")
    try:
        yield request.param(place, image_cache)
    finally:
        shutil.rmtree(place)


@pytest.fixture
def directory(place: Path, manager: PackageManager, registry: ScriptedRegistry) -> Path:
    """A directory of the first image with `mine` of the old repository; registry and repository are newer by now."""
    registry.push("image", manager.images[0])
    manager.publish("old", place / "repository")
    words = ["--platform=linux/amd64", "--bind", f"{own(place / 'repository')}:/repository"]
    provision(f"{registry.host}/image", place / "dir", *words, **as_user(), status=0)
    in_container(place / "dir", manager.install)
    registry.push("image", manager.images[1])
    manager.publish("new", place / "repository")
    return place / "dir"


def versions(manager: PackageManager, directory: Path) -> dict[str, str]:
    return {name: version for name, version in manager.versions(directory).items() if name in MADE_HERE}


def update(directory: Path, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    return provision("update", directory, "--yes", "--no-keep", *words, **as_user(), status=status)


def test_packages_are_installed_in_the_new_image(directory: Path, manager: PackageManager) -> None:
    edit = "for name in mine base; do echo edited >/etc/$name.edited; done; echo script >/usr/bin/my-script"
    in_container(directory, f"{manager.remove}; {manager.add_user}; {edit}")
    assert versions(manager, directory) == {"base": "1", "helper": "1", "mine": "1"}
    assert "mine" in (by_hand := manager.by_hand(directory))
    assert "helper" not in by_hand
    before = tree_of(directory / "rootfs")
    plan = update(directory, "--dry-run").stdout
    assert tree_of(directory / "rootfs") == before
    done = update(directory)
    for shown in (plan, done.stdout):
        assert "packages to install again: mine\n" in shown
        assert "packages that come again: dropped\n" in shown
    assert ("mine and system have the same number" in done.stderr) == isinstance(manager, Apt)
    assert versions(manager, directory) == {"base": "2", "dropped": "1", "helper": "1", "mine": "2", "other": "1"}
    assert "mine" in (by_hand := manager.by_hand(directory))
    assert "helper" not in by_hand
    texts = {
        "usr/lib/base": "base 2\n",
        "usr/lib/dropped": "dropped 1\n",
        "usr/lib/mine": "mine 2\n",
        "usr/lib/other": "other 1\n",
        "etc/base.conf": "default 2\n",
        "etc/base.edited": "edited\n",
        "etc/base.edited.provision-new": "default 2\n",
        "etc/dropped.conf": "default 1\n",
        "etc/mine.conf": "default 2\n",
        "etc/mine.edited": "edited\n",
        "usr/bin/my-script": "script\n",
    }
    rootfs = directory / "rootfs"
    assert {path: (rootfs / path).read_text() for path in texts} == texts
    assert "\nme:x:" in (rootfs / "etc/passwd").read_text()
    assert sorted(os.listdir(directory.parent)) == ["dir", "repository"]
    manager.check(directory)


def test_a_package_that_can_not_be_installed(directory: Path, manager: PackageManager) -> None:
    """Nothing is swapped, and the log stays."""
    manager.publish("incomplete", directory.parent / "repository")
    before = tree_of(directory / "rootfs")
    done = update(directory, status=7)
    (log,) = (name for name in os.listdir(directory.parent) if name.endswith(".log"))
    assert log in done.stderr
    lines = (directory.parent / log).read_text().splitlines()
    assert "mine" in "".join(lines)
    assert f"packages could not be installed in the new image: {lines[-1]}" in done.stderr
    assert tree_of(directory / "rootfs") == before
    assert sorted(os.listdir(directory.parent)) == sorted(["dir", log, "repository"])
    assert "mine" in manager.by_hand(directory)
