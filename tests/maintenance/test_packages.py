"""Package databases that both sides have changed: the user's packages are installed in the new image.

A script stands in for apt-get, so that no network is needed; start.sh runs it, as it runs the real one.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import builders
from tests.support.archives import Member, special
from tests.support.containers import starter
from tests.support.provisioned import busybox_layer
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import as_user, provision
from tests.support.trees import tree_of

APT_GET = """\
#!/bin/sh
case $1 in
    update) exit 0 ;;
    install) ;;
    *) exit 100 ;;
esac
while [ "$1" != -- ]; do shift; done
shift
for name; do
    [ "$name" != broken ] || { echo "E: Unable to locate package $name"; exit 100; }
    printf '\\nPackage: %s\\nStatus: install ok installed\\n' "$name" >>/var/lib/dpkg/status
    echo "/usr/bin/$name" >"/var/lib/dpkg/info/$name.list"
    echo "made for the new image" >"/usr/bin/$name"
    echo "$name:x:99:99::/:/bin/false" >>/etc/passwd
done
"""
STATUS = "Package: base\nStatus: install ok installed\n"


def program(name: str, content: str) -> builders.Layer:
    """Return a layer with an executable file."""
    header = special(name, tarfile.REGTYPE, mode=0o755)
    header.size = len(content)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(header, io.BytesIO(content.encode()))
    return builders.Layer(buffer.getvalue(), builders.OCI_LAYER, builders.digest_of(buffer.getvalue()))


def push(registry: ScriptedRegistry, *members: Member) -> None:
    shell = special("bin/sh", tarfile.SYMTYPE, "busybox")
    base: list[Member] = [
        ("etc/passwd", b"root:x:0:0::/:/bin/sh\n"),
        ("var/lib/dpkg/info/base.list", b"/usr/lib/base\n"),
        ("usr/bin", None),
    ]
    layers = [builders.layer(shell, *base, *members), busybox_layer(), program("bin/apt-get", APT_GET)]
    registry.push("image", builders.image(*layers, run={"Env": ["PATH=/bin"]}))


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    with ScriptedRegistry() as running:
        push(running, ("var/lib/dpkg/status", STATUS.encode()), ("usr/lib/base", b"1"), ("etc/conf", b"1"))
        yield running


@pytest.fixture
def directory(place: Path, registry: ScriptedRegistry) -> Path:
    """A directory in which the user has installed `mine`; the new image has the package `other`."""
    starter("proot")
    provision(f"{registry.host}/image", place / "dir", "--platform=linux/amd64", **as_user(), status=0)
    rootfs = place / "dir/rootfs"
    with (rootfs / "var/lib/dpkg/status").open("a") as status:
        status.write("\nPackage: mine\nStatus: install ok installed\n")
    for name, text in {
        "var/lib/dpkg/info/mine.list": "/usr/bin/mine\n",
        "usr/bin/mine": "made for the old image\n",
        "usr/lib/base": "upgraded",
        "etc/conf": "edited",
        "usr/bin/script": "of the user",
    }.items():
        (rootfs / name).parent.mkdir(parents=True, exist_ok=True)
        (rootfs / name).write_text(text)
    with (rootfs / "etc/passwd").open("a") as passwd:
        passwd.write("me:x:1000:1000::/:/bin/sh\n")
    if os.geteuid() == 0:
        owner = (place / "dir").stat()
        for path in rootfs.rglob("*"):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    other = f"{STATUS}\nPackage: other\nStatus: install ok installed\n"
    push(registry, ("var/lib/dpkg/status", other.encode()), ("usr/lib/base", b"2"), ("etc/conf", b"1"))
    return place / "dir"


def update(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return provision("update", directory, "--yes", "--no-keep", *words, **as_user())


def test_packages_of_the_user_are_installed_again(directory: Path) -> None:
    done = update(directory)
    assert done.returncode == 0, done.stderr
    assert "packages to install again: mine" in done.stdout
    rootfs = directory / "rootfs"
    assert (rootfs / "usr/bin/mine").read_text() == "made for the new image\n"
    assert [line for line in (rootfs / "var/lib/dpkg/status").read_text().splitlines() if "Package" in line] == [
        "Package: base",
        "Package: other",
        "Package: mine",
    ]
    assert (rootfs / "usr/lib/base").read_text() == "2"
    assert (rootfs / "etc/conf").read_text() == "edited"
    assert (rootfs / "usr/bin/script").read_text() == "of the user"
    assert (rootfs / "etc/passwd").read_text().splitlines() == [
        "root:x:0:0::/:/bin/sh",
        "me:x:1000:1000::/:/bin/sh",
        "mine:x:99:99::/:/bin/false",
    ]
    assert sorted(os.listdir(directory.parent)) == ["dir"]


def test_a_package_that_is_not_there_any_more(directory: Path) -> None:
    """Nothing is swapped, and the log stays."""
    status = directory / "rootfs/var/lib/dpkg/status"
    status.write_text(status.read_text() + "\nPackage: broken\nStatus: install ok installed\n")
    before = tree_of(directory)
    done = update(directory)
    assert done.returncode == 7
    assert "E: Unable to locate package broken" in done.stderr
    (log,) = (name for name in os.listdir(directory.parent) if name.endswith(".log"))
    assert log in done.stderr
    assert "broken" in (directory.parent / log).read_text()
    assert tree_of(directory) == before
    assert sorted(os.listdir(directory.parent)) == ["dir", log]


def test_the_plan_names_them(directory: Path) -> None:
    before = tree_of(directory)
    done = update(directory, "--dry-run")
    assert done.returncode == 0
    assert "packages to install again: mine" in done.stdout
    assert tree_of(directory) == before
