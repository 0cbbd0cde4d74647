"""Databases of pacman that both sides have changed: it installs what the user had added, in the new image."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import builders
from tests.support.containers import starter
from tests.support.host_packages import host_layer
from tests.support.package_updates import in_container, update
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import as_user, need, open_directory, own, provision, run
from tests.support.trees import tree_of

CONFIGURATION = "[options]\nArchitecture = auto\nSigLevel = Never\n"
REPOSITORY = "[mine]\nServer = file:///repository\n"


@dataclass(frozen=True)
class World:
    registry: ScriptedRegistry
    repository: Path
    images: tuple[builders.Image, builders.Image]


def make_package(place: Path, name: str, version: str, *depends: str) -> Path:
    """Make a package as makepkg(8) does, which root can't run."""
    files = {
        f"usr/lib/{name}": f"{name} {version}",
        f"etc/{name}.conf": f"default {version}",
        f"etc/{name}.edited": f"default {version}",
    }
    fields = [
        ("pkgname", name),
        ("pkgbase", name),
        ("pkgver", f"{version}-1"),
        ("pkgdesc", "test"),
        ("size", "1"),
        ("arch", "any"),
        ("packager", "tests"),
        *(("depend", other) for other in depends),
        *(("backup", path) for path in files if path.startswith("etc/")),
    ]
    texts = {".PKGINFO": "".join(f"{key} = {value}\n" for key, value in fields), **files}
    package = place / f"{name}-{version}-1-any.pkg.tar.gz"
    with tarfile.open(package, "w:gz") as archive:
        for path, text in texts.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(text), 0o644
            archive.addfile(entry, io.BytesIO(text.encode()))
    return package


def write_repository(repository: Path) -> None:
    for old in repository.glob("mine.*"):
        old.unlink()
    run("repo-add", "-q", repository / "mine.db.tar.gz", *sorted(repository.glob("*.pkg.tar.gz")))
    run("chmod", "-R", "a+rX", repository)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A system with the package `base` 1; then with `base` 2 and `other`."""
    starter("proot")
    need("fakeroot", "pacman", "repo-add")
    place = open_directory("packages")
    try:
        programs = host_layer("pacman-package-manager", "dash", "coreutils", "libc-bin", "grep", "bash")
        repository = place / "repository"
        repository.mkdir()
        base = [make_package(repository, "base", version) for version in ("1", "2")]
        other, dropped = (make_package(repository, name, "1") for name in ("other", "dropped"))
        make_package(repository, "helper", "1")
        make_package(repository, "mine", "1", "helper")
        base[0].rename(place / base[0].name)
        write_repository(repository)
        settings = builders.layer(
            ("etc/pacman.conf", f"{CONFIGURATION}Include = /etc/pacman.d/*.conf\n".encode()),
            ("etc/pacman.d/none.conf", b""),
            ("etc/passwd", b"root:x:0:0::/root:/bin/sh\n"),
            ("etc/group", b"root:x:0:\n"),
        )
        images = [
            builders.image(programs, settings, installed(place, packages), run={"Env": ["PATH=/usr/bin:/bin"]})
            for packages in ([place / base[0].name, dropped], [base[1], dropped, other])
        ]
        with ScriptedRegistry() as registry:
            yield World(registry, repository, (images[0], images[1]))
    finally:
        shutil.rmtree(place)


def installed(place: Path, packages: list[Path]) -> builders.Layer:
    """The layer that pacman makes of some packages."""
    root = place / "root"
    (root / "var/lib/pacman").mkdir(parents=True)
    configuration = place / "pacman.conf"
    configuration.write_text(CONFIGURATION)
    as_root = [] if os.geteuid() == 0 else ["fakeroot"]
    run(*as_root, "pacman", "--root", root, "--config", configuration, "--noconfirm", "-U", *packages)
    members = [(str(path.relative_to(root)), path.read_bytes()) for path in sorted(root.rglob("*")) if path.is_file()]
    shutil.rmtree(root)
    return builders.layer(*members)


@pytest.fixture
def directory(place: Path, world: World) -> Path:
    """A directory of the first image in which the user has installed `mine`; the registry has the second one."""
    world.registry.push("image", world.images[0])
    repository = Path(shutil.copytree(world.repository, place / "repository", symlinks=True))
    own(repository)
    words = ["--platform=linux/amd64", "--bind", f"{repository}:/repository"]
    done = provision(f"{world.registry.host}/image", place / "dir", *words, **as_user())
    assert done.returncode == 0, done.stderr
    in_container(place / "dir", f"printf %s '{REPOSITORY}' >/etc/pacman.d/mine.conf; pacman -Sy --noconfirm mine")
    world.registry.push("image", world.images[1])
    (repository / "mine-1-1-any.pkg.tar.gz").unlink()
    make_package(repository, "mine", "2", "helper")
    write_repository(repository)
    return place / "dir"


@pytest.mark.slow
def test_packages_are_installed_in_the_new_image(directory: Path) -> None:
    rootfs = directory / "rootfs"
    in_container(
        directory,
        """
        pacman -R --noconfirm dropped
        echo edited >/etc/mine.edited; echo edited >/etc/base.edited; echo script >/usr/bin/my-script
        """,
    )
    assert in_container(directory, "pacman -Qqe").split() == ["base", "mine"]
    assert in_container(directory, "pacman -Qq").split() == ["base", "helper", "mine"]
    done = update(directory)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "packages to install again: mine\n" in done.stdout
    assert "packages that come again: dropped\n" in done.stdout
    assert in_container(directory, "pacman -Q").splitlines() == [
        "base 2-1",
        "dropped 1-1",
        "helper 1-1",
        "mine 2-1",
        "other 1-1",
    ]
    assert in_container(directory, "pacman -Qqd") == "helper\n"
    in_container(directory, "pacman -Qkq")
    texts = {
        "usr/lib/mine": "mine 2",
        "usr/lib/base": "base 2",
        "etc/mine.conf": "default 2",
        "etc/mine.edited": "edited\n",
        "etc/base.conf": "default 2",
        "etc/base.edited": "edited\n",
        "etc/base.edited.provision-new": "default 2",
        "usr/bin/my-script": "script\n",
        "etc/pacman.d/mine.conf": REPOSITORY,
    }
    assert {path: (rootfs / path).read_text() for path in texts} == texts
    assert sorted(os.listdir(directory.parent)) == ["dir", "repository"]


@pytest.mark.slow
def test_a_package_that_can_not_be_installed(directory: Path) -> None:
    """Nothing is swapped, and the log stays."""
    repository = directory.parent / "repository"
    (repository / "mine-2-1-any.pkg.tar.gz").unlink()
    write_repository(repository)
    before = tree_of(directory / "rootfs")
    done = update(directory)
    assert done.returncode == 7
    (log,) = (name for name in os.listdir(directory.parent) if name.endswith(".log"))
    assert "mine" in (directory.parent / log).read_text()
    assert tree_of(directory / "rootfs") == before
