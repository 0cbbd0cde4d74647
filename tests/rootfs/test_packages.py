"""What is installed, read from the databases of package managers."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import sqlite3
import struct
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provisioner.exports.owners import OwnerSource
from provisioner.filesystem.descriptors import directory_descriptor
from provisioner.rootfs.berkeley import read_berkeley
from provisioner.rootfs.packages import PackagedContent, Packages, read_defaults, read_owned_paths, read_packages
from provisioner.rootfs.rpm import parse_header, read_rpm_packages
from provisioner.rootfs.tree import Tree
from tests.support.containers import need_user_namespaces
from tests.support.tools import find_program, need, run, unavailable

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


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_configuration_files_as_packages_have_them(root: Path, tree: Tree) -> None:
    md5, sha1, sha256 = hashlib.md5(b"x").hexdigest(), hashlib.sha1(b"x"), hashlib.sha256(b"x")
    conffiles = f" /etc/a {md5}\n /etc/b {md5} obsolete\n /etc/c newconffile\n"
    status = f"Package: a\nStatus: install ok installed\nConffiles:\n{conffiles}"
    write(root, {**APT, "var/lib/dpkg/status": status})
    assert read_defaults(tree, "apt") == dict.fromkeys((b"etc/a", b"etc/b"), PackagedContent(("md5",), md5))
    checksum, newer = (base64.b64encode(digest).decode() for digest in (sha1.digest(), sha256.digest()[:20]))
    database = (
        f"C:Q1\nP:a\nF:etc\nR:a\na:0:0:644\nZ:Q1{checksum}\nR:odd\nZ:Q1*\nR:none\n\nP:b\nF:etc/b\nR:c\nZ:Q1{newer}\n"
    )
    write(root, {"lib/apk/db/installed": database})
    defaults = read_defaults(tree, "apk")
    assert defaults.keys() == {b"etc/a", b"etc/b/c"}
    assert all(default.is_of(b"x") and not default.is_of(b"y") for default in defaults.values())
    assert set(read_owned_paths(tree, "apk")) == {b"etc/a", b"etc/odd", b"etc/none", b"etc/b/c"}
    write(root, {"var/lib/pacman/local/a-1-1/files": f"%FILES%\netc/\netc/a\n\n%BACKUP%\netc/a\t{md5}\n"})
    assert read_defaults(tree, "pacman") == {b"etc/a": PackagedContent(("md5",), md5)}
    assert set(read_owned_paths(tree, "pacman")) == {b"etc", b"etc/a"}


def test_paths_of_packages_are_without_symlinks(root: Path, tree: Tree) -> None:
    """dpkg may still say /bin where that leads to /usr/bin."""
    write(root, {**APT, "var/lib/dpkg/info/a.list": "/bin\n/bin/a\n/no/b\n"})
    (root / "usr/bin").mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    assert {b"usr/bin/a", b"bin", b"no/b"} <= set(read_owned_paths(tree, "apt"))


SPEC = """\
Name: {name}
Version: 1
Release: 1
Summary: test
License: MIT
BuildArch: noarch
%description
%install
mkdir -p %{{buildroot}}/etc %{{buildroot}}/usr/lib
echo {name} >%{{buildroot}}/etc/{name}.conf
echo {name} >%{{buildroot}}/usr/lib/{name}
%files
%config /etc/{name}.conf
%attr(-, web, mail) /usr/lib/{name}
"""


BERKELEY = """
my ($size, $name, @headers) = @ARGV;
$DB_HASH->{bsize} = $size;
tie my %h, "DB_File", $name, O_RDWR | O_CREAT, 0644, $DB_HASH or die $!;
$h{pack("L", 0)} = pack("L", scalar @headers);
for (@headers) { local $/; open my $f, "<:raw", $_ or die $!; $h{pack("L", ++$n)} = <$f>; }
untie %h;
"""
"""Perl for what rpm did until 2020: a hash of Berkeley DB, with headers on pages of a size or beside them."""


@pytest.fixture(scope="module")
def rpm_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that rpm has written."""
    need("rpmbuild", "rpm")
    place = tmp_path_factory.mktemp("rpm")
    for name in ("a", "b"):
        (place / "spec").write_text(SPEC.format(name=name))
        define = ("--define", f"_topdir {place}/build", "--define", f"_rpmdir {place}")
        run("rpmbuild", "-bb", "--quiet", *define, place / "spec", env={**os.environ, "HOME": str(place)})
    (place / "root").mkdir()
    options = ("--root", str(place / "root"), "--dbpath", "/var/lib/rpm", "--define", "_db_backend sqlite")
    if os.geteuid() != 0:
        need_user_namespaces(by_root=False)  # in which rpm changes its root
    run("rpm", *options, "-i", "--nodeps", *sorted(place.glob("noarch/*.rpm")))
    return place / "root/var/lib/rpm/rpmdb.sqlite"


@pytest.mark.parametrize("page_size", [1024, 65536])
def test_the_older_format_says_the_same(
    root: Path, tree: Tree, rpm_database: Path, tmp_path: Path, page_size: int
) -> None:
    need("perl")
    if subprocess.run(["perl", "-MDB_File", "-e", "1"], capture_output=True, check=False).returncode:
        unavailable("perl has no DB_File: apt-get install perl")
    write(root, {"var/lib/rpm/.rpm.lock": ""})
    newer, older = (root / "var/lib/rpm" / name for name in ("rpmdb.sqlite", "Packages"))
    newer.write_bytes(rpm_database.read_bytes())
    expected = {*(read_rpm_packages(tree) or ())}
    assert len(expected) == 2
    with sqlite3.connect(newer) as connection:
        headers = [row[0] for row in connection.execute("SELECT blob FROM Packages")]
    newer.unlink()
    for number, header in enumerate(headers):
        (tmp_path / f"header-{number}").write_bytes(header)
    files = sorted(tmp_path.glob("header-*"))
    run("perl", "-MDB_File", "-MFcntl", "-e", BERKELEY, str(page_size), older, *files)
    assert {*(read_rpm_packages(tree) or ())} == expected
    content, chance = older.read_bytes(), random.Random(1)
    for _ in range(200):  # damaged ones are read, or refused
        damaged = bytearray(content[: chance.choice((len(content), chance.randrange(len(content))))])
        for _ in range(chance.randrange(20) if damaged else 0):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        with suppress(struct.error, LookupError, ValueError):
            assert sum(map(len, read_berkeley(bytes(damaged)))) <= len(damaged)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("length", "used", "kind", "message"),
    [
        (1500, 400, 7, "overlap"),
        (1500, 0, 7, "without an end"),
        (1500, 400, 13, "without an end"),
        (1537, 400, 7, "a value of 1537 bytes"),
    ],
)
def test_a_chain_of_pages_that_is_a_circle_ends(order: str, length: int, used: int, kind: int, message: str) -> None:
    """A value that says to be longer than its pages, which lead to themselves, or are used by all."""
    size = 512
    pages = [bytearray(b"\xff" * size) for _ in range(3)]
    struct.pack_into(f"{order}III", pages[0], 12, 0x061561, 9, size)
    pages[0][25] = 8
    struct.pack_into(f"{order}HHBB8H", pages[1], 20, 8, 0, 1, 13, 500, 400, 490, 400, 480, 400, 470, 400)
    struct.pack_into(f"{order}B3xII", pages[1], 400, 3, 2, length)
    struct.pack_into(f"{order}IHHBB", pages[2], 16, 2, 1, used, 0, kind)
    with pytest.raises(ValueError, match=message):
        read_berkeley(b"".join(pages))


def test_owners_are_those_of_headers(root: Path, rpm_database: Path, tmp_path: Path) -> None:
    """By the real path, and as the container numbers them."""
    write(root, {"var/lib/rpm/.rpm.lock": "", "etc/passwd": "web:x:33:34::/:\n", "etc/group": "mail:x:8:\n"})
    (root / "var/lib/rpm/rpmdb.sqlite").write_bytes(rpm_database.read_bytes())
    (root / "usr/real").mkdir(parents=True)
    (root / "usr/lib").symlink_to("real")
    with directory_descriptor(root) as opened:
        owners = OwnerSource(opened)
        assert owners.find(b"usr/real/a") == (33, 8)
        assert owners.find(b"etc/a.conf") == (0, 0)
        assert owners.counts["package databases"] == 1


def test_it_says_what_rpm_says(root: Path, tree: Tree, rpm_database: Path) -> None:
    write(root, {"var/lib/rpm/.rpm.lock": ""})
    (root / "var/lib/rpm/rpmdb.sqlite").write_bytes(rpm_database.read_bytes())
    assert read_packages(tree) is None  # it isn't dnf who has installed them
    write(root, {"usr/bin/dnf": "#!/bin/sh"})
    toml = '[packages."b.noarch"]\nreason = "Dependency"\n[packages."a.noarch"]\nreason = "User"\n'
    write(root, {"usr/lib/sysimage/libdnf5/packages.toml": toml})
    assert read_packages(tree) == Packages("dnf", frozenset({b"a", b"b"}), frozenset({b"a"}))
    assert set(read_owned_paths(tree, "dnf")) == {b"etc/a.conf", b"usr/lib/a", b"etc/b.conf", b"usr/lib/b"}
    digest = hashlib.sha256(b"a\n").hexdigest()
    assert read_defaults(tree, "dnf")[b"etc/a.conf"] == PackagedContent(("sha256",), digest)
    owners = {package.owners for package in read_rpm_packages(tree) or ()}
    assert owners == {((b"usr/lib/" + name, b"web", b"mail"),) for name in (b"a", b"b")}
    write(root, {"usr/lib/sysimage/libdnf5/packages.toml": "packages = 5"})
    assert read_packages(tree) == Packages("dnf", frozenset({b"a", b"b"}), frozenset({b"a", b"b"}))


@given(st.binary(max_size=64), st.integers(0, 1 << 16), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_a_database_of_rpm_that_is_damaged(
    tmp_path: Path, rpm_database: Path, noise: bytes, position: int, is_cut: bool
) -> None:
    """It is read, or there is none; nothing else is raised."""
    content = rpm_database.read_bytes()
    position %= len(content)
    damaged = content[:position] + noise + (b"" if is_cut else content[position + len(noise) :])
    place = tmp_path / "root/var/lib/rpm"
    place.mkdir(parents=True, exist_ok=True)
    (place / "rpmdb.sqlite").write_bytes(damaged)
    with Tree(tmp_path / "root") as tree:
        read_packages(tree)
        list(read_owned_paths(tree, "dnf"))
        read_defaults(tree, "dnf")


@given(st.binary(max_size=200))
def test_a_header_of_rpm_that_is_damaged(blob: bytes) -> None:
    with suppress(struct.error, LookupError, ValueError):
        parse_header(blob)
    with suppress(struct.error, LookupError, ValueError):
        parse_header(struct.pack(">IIIIII", 1, 1 << 31, 1000, 6, 0, 1 << 31) + blob)


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
