"""What is installed, read from the databases of package managers."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.rootfs.packages import Packages, read_owned_paths, read_packages
from provisioner.rootfs.tree import Tree
from tests.support.tools import find_program, run, unavailable

APT = {
    "var/lib/dpkg/status": "Package: a\nStatus: install ok installed\nDescription: x\n  Package: no\n\n"
    "Package: b\nStatus: install ok installed\n\nPackage: c\nStatus: deinstall ok config-files\n\n"
    "Package: -o evil\nStatus: install ok installed\n",
    "var/lib/apt/extended_states": "Package: b\nArchitecture: amd64\nAuto-Installed: 1\n",
    "var/lib/dpkg/info/a.list": "/.\n/usr\n/usr/bin\n/usr/bin/a\n",
    "var/lib/dpkg/info/b:amd64.list": "/usr/lib/b\n",
    "var/lib/dpkg/info/a.md5sums": "0 usr/bin/no\n",
}
APK = {
    "lib/apk/db/installed": "C:Q1\nP:a\nV:1\nF:usr/bin\nR:a\na:0:0:755\n\nP:b\nF:\nR:b\n",
    "etc/apk/world": "a>1 !c missing\n",
}
PACMAN = {
    "var/lib/pacman/local/a-1-1/desc": "%NAME%\na\n\n%REASON%\n0\n",
    "var/lib/pacman/local/b-1-1/desc": "%NAME%\nb\n\n%REASON%\n1\n",
    "var/lib/pacman/local/a-1-1/files": "%FILES%\nusr/\nusr/bin/a\n",
    "var/lib/pacman/local/ALPM_DB_VERSION": "9\n",
}
OWNED = {"apt": {"usr/bin/a", "usr/lib/b"}, "apk": {"usr/bin/a", "b"}, "pacman": {"usr/bin/a"}}


@pytest.mark.parametrize(("manager", "files"), [("apt", APT), ("apk", APK), ("pacman", PACMAN)])
def test_packages_and_their_files(root: Path, tree: Tree, manager: str, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    assert read_packages(tree) == Packages(manager, frozenset({b"a", b"b"}), frozenset({b"a"}))
    assert {path.decode() for path in read_owned_paths(tree, manager)} >= OWNED[manager]


def test_links_of_an_image_lead_nowhere_outside(root: Path, tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "status").write_text(APT["var/lib/dpkg/status"])
    (root / "var/lib/dpkg").mkdir(parents=True)
    (root / "var/lib/dpkg/status").symlink_to(tmp_path / "status")
    assert read_packages(tree) is None


def test_without_a_package_manager(tree: Tree) -> None:
    assert read_packages(tree) is None


def test_it_says_what_apt_says() -> None:
    """On the machine of the tests, if that is a Debian."""
    if not find_program("apt-mark") or not Path("/var/lib/dpkg/status").exists():
        unavailable("this is no Debian")
    with Tree(Path("/")) as tree:
        found = read_packages(tree)
    assert found
    names = {name.partition(":")[0] for name in run("apt-mark", "showmanual").split()}
    assert {name.decode() for name in found.by_hand} == names
