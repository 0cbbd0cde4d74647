"""rpm's databases that both sides have changed: dnf installs what the user had added, in the new image."""

from __future__ import annotations

import os
import shutil
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

SPEC = """\
Name: {name}
Version: {version}
Release: 1
Summary: test package
License: MIT
BuildArch: noarch
{tags}
%description
A test package.
%install
mkdir -p %{{buildroot}}/usr/lib %{{buildroot}}/etc
echo {name} {version} >%{{buildroot}}/usr/lib/{name}
echo default {version} >%{{buildroot}}/etc/{name}.conf
echo default {version} >%{{buildroot}}/etc/{name}.edited
%files
/usr/lib/{name}
%config(noreplace) /etc/{name}.conf
%config(noreplace) /etc/{name}.edited
"""
MACROS = b"%_dbpath /var/lib/rpm\n%_db_backend sqlite\n"
REPOSITORY = "[mine]\nname=mine\nbaseurl=file:///repository\ngpgcheck=0\n"


@dataclass(frozen=True)
class World:
    registry: ScriptedRegistry
    repository: Path
    images: tuple[builders.Image, builders.Image]


def make_rpm(place: Path, name: str, version: str, *tags: str) -> Path:
    spec = place / f"{name}.spec"
    spec.write_text(SPEC.format(name=name, version=version, tags="\n".join(tags)))
    run(
        "rpmbuild",
        "-bb",
        "--quiet",
        "--define",
        f"_topdir {place}/build",
        "--define",
        f"_rpmdir {place}",
        spec,
        env={**os.environ, "HOME": str(place)},
    )
    spec.unlink()
    shutil.rmtree(place / "build", ignore_errors=True)
    return place / f"noarch/{name}-{version}-1.noarch.rpm"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A system with the package `base` 1; then with `base` 2 and `other`."""
    starter("proot")
    need("rpmbuild", "createrepo_c")
    place = open_directory("packages")
    try:
        programs = host_layer("dnf", "rpm", "dash", "coreutils", "libc-bin", "sed", "grep")
        repository = place / "repository"
        repository.mkdir()
        base = [make_rpm(repository, "base", version) for version in ("1", "2")]
        other, dropped = (make_rpm(repository, name, "1") for name in ("other", "dropped"))
        make_rpm(repository, "helper", "1")
        make_rpm(repository, "mine", "1", "Requires: helper")
        run("createrepo_c", "--quiet", repository)
        settings = builders.layer(
            ("etc/rpm/macros", MACROS),
            ("etc/passwd", b"root:x:0:0::/root:/bin/sh\n"),
            ("etc/group", b"root:x:0:\n"),
            ("etc/dnf/dnf.conf", b"[main]\ngpgcheck=0\n"),
        )
        images = [
            builders.image(programs, settings, installed(place, packages), run={"Env": ["PATH=/usr/bin:/bin"]})
            for packages in ([base[0], dropped], [base[1], dropped, other])
        ]
        run("chmod", "-R", "a+rX", place)
        with ScriptedRegistry() as registry:
            yield World(registry, repository, (images[0], images[1]))
    finally:
        shutil.rmtree(place)


def installed(place: Path, packages: list[Path]) -> builders.Layer:
    """The layer that rpm makes of some packages."""
    root = place / "root"
    root.mkdir()
    run(
        "rpm", "--root", root, "--dbpath", "/var/lib/rpm", "--define", "_db_backend sqlite", "-i", "--nodeps", *packages
    )
    members = [(str(path.relative_to(root)), path.read_bytes()) for path in sorted(root.rglob("*")) if path.is_file()]
    shutil.rmtree(root)
    return builders.layer(*members)


@pytest.fixture
def directory(place: Path, world: World) -> Path:
    """A directory of the first image in which the user has installed `mine`; the registry has the second one."""
    world.registry.push("image", world.images[0])
    repository = Path(shutil.copytree(world.repository, place / "repository"))
    own(repository)
    words = ["--platform=linux/amd64", "--bind", f"{repository}:/repository"]
    done = provision(f"{world.registry.host}/image", place / "dir", *words, **as_user())
    assert done.returncode == 0, done.stderr
    in_container(
        place / "dir",
        f"mkdir -p /etc/yum.repos.d; printf %s '{REPOSITORY}' >/etc/yum.repos.d/mine.repo; dnf -y install mine",
    )
    world.registry.push("image", world.images[1])
    make_rpm(repository, "mine", "2", "Requires: helper")
    run("createrepo_c", "--quiet", repository)
    run("chmod", "-R", "a+rX", repository)
    return place / "dir"


@pytest.mark.slow
def test_packages_are_installed_in_the_new_image(directory: Path) -> None:
    rootfs = directory / "rootfs"
    in_container(
        directory,
        """
        rpm -e dropped
        echo edited >/etc/mine.edited; echo edited >/etc/base.edited; echo script >/usr/bin/my-script
        """,
    )
    assert in_container(directory, "rpm -qa | sort").split() == [
        "base-1-1.noarch",
        "helper-1-1.noarch",
        "mine-1-1.noarch",
    ]
    assert in_container(directory, "dnf -q -C repoquery --userinstalled").split() == [
        "base-0:1-1.noarch",
        "mine-0:1-1.noarch",
    ]
    done = update(directory)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "packages to install again: mine\n" in done.stdout
    assert "packages that come again: dropped\n" in done.stdout
    assert in_container(directory, "rpm -qa | sort").split() == [
        "base-2-1.noarch",
        "dropped-1-1.noarch",
        "helper-1-1.noarch",
        "mine-2-1.noarch",
        "other-1-1.noarch",
    ]
    changed = in_container(directory, "rpm -Va --nomtime --nouser --nogroup || :").splitlines()
    assert [line.split()[-1] for line in changed] == ["/etc/base.edited", "/etc/mine.edited"]
    assert in_container(directory, "dnf -q -C repoquery --userinstalled | grep -c helper || :").strip() == "0"
    texts = {
        "usr/lib/mine": "mine 2\n",
        "usr/lib/base": "base 2\n",
        "etc/mine.conf": "default 2\n",
        "etc/mine.edited": "edited\n",
        "etc/base.conf": "default 2\n",
        "etc/base.edited": "edited\n",
        "etc/base.edited.provision-new": "default 2\n",
        "usr/bin/my-script": "script\n",
        "etc/yum.repos.d/mine.repo": REPOSITORY,
    }
    assert {path: (rootfs / path).read_text() for path in texts} == texts
    assert sorted(os.listdir(directory.parent)) == ["dir", "repository"]


@pytest.mark.slow
def test_a_package_that_can_not_be_installed(directory: Path) -> None:
    """Nothing is swapped, and the log stays."""
    repository = directory.parent / "repository"
    for package in repository.glob("noarch/mine-*"):
        package.unlink()
    run("createrepo_c", "--quiet", repository)
    run("chmod", "-R", "a+rX", repository)
    before = tree_of(directory / "rootfs")
    done = update(directory)
    assert done.returncode == 7
    (log,) = (name for name in os.listdir(directory.parent) if name.endswith(".log"))
    assert "mine" in (directory.parent / log).read_text()
    assert tree_of(directory / "rootfs") == before
