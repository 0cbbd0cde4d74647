"""Where the root directory of a rootfs archive is."""

from __future__ import annotations

import pytest

from provisioner.errors import MalformedImage
from provisioner.sources.root_search import RootSearch, root_of

USUAL = ("bin/sh", "etc/passwd", "usr/lib/x", "var/tmp")
INSIDE = {
    "docker export": (".dockerenv", *USUAL),
    "tar -C DIR .": (".", *(f"./{name}" for name in USUAL)),
    "tar -C / with a slash": tuple(f"/{name}" for name in USUAL),
    "busybox alone": ("bin/busybox",),
    "others that look like one": ("app/bin/x", "app/etc/y", "home/user/bin/x", "opt/usr/etc", *USUAL),
    "a home called root": ("root/bin/tool", "root/etc/x", "root/usr/y", "root/var/z", "etc/passwd"),
}
BELOW = {
    "a directory": ("alpine", tuple(f"alpine/{name}" for name in USUAL)),
    "with ./": ("root.x86_64", tuple(f"./root.x86_64/{name}" for name in USUAL)),
    "with files beside it": ("void", ("README", "pkglist.txt", *(f"void/{name}" for name in USUAL))),
    "Incus": ("rootfs", ("metadata.yaml", "templates/hosts.tpl", *(f"rootfs/{name}" for name in USUAL))),
    "proot-distro": ("debian/rootfs", ("debian/manifest.json", *(f"debian/rootfs/{name}" for name in USUAL))),
    "proot-distro 4": ("installed-rootfs/ubuntu", tuple(f"installed-rootfs/ubuntu/{name}" for name in USUAL)),
    "few of the names": ("tiny", ("tiny/bin/busybox", "tiny/etc/passwd")),
    "a directory called root": ("root", tuple(f"root/{name}" for name in USUAL)),
    "more of the names than others": ("good", ("app/bin/x", "good/bin/sh", "good/etc/passwd")),
}


def search(*paths: str) -> bytes | None:
    found = RootSearch()
    for path in paths:
        found.add(path.encode())
    return found.finish()


@pytest.mark.parametrize("name", INSIDE)
def test_the_root_of_the_archive_itself(name: str) -> None:
    assert search(*INSIDE[name]) == b""


@pytest.mark.parametrize("name", BELOW)
def test_a_directory_in_the_archive(name: str) -> None:
    root, paths = BELOW[name]
    assert search(*paths) == root.encode()


@pytest.mark.parametrize("paths", [(), ("x",), ("hello", "dev/console"), ("a/b/c/bin/sh", "a/b/c/etc/passwd")])
def test_no_directory_looks_like_one(paths: tuple[str, ...]) -> None:
    assert search(*paths) is None


def test_two_directories_that_fit_are_both_named() -> None:
    with pytest.raises(MalformedImage, match="more than one root directory: 'one' and 'two'"):
        search("one/bin/sh", "two/bin/sh")


def test_it_is_known_before_the_end_of_a_usual_archive() -> None:
    found = RootSearch()
    found.add(b"./etc/passwd")
    assert found.root == b""
    found = RootSearch()
    for path in (b"rootfs/bin/sh", b"rootfs/etc/passwd", b"rootfs/usr/bin"):
        assert found.root is None
        found.add(path)
    assert found.root == b"rootfs"


def test_a_million_directories_are_not_remembered() -> None:
    found = RootSearch()
    for number in range(5000):
        found.add(b"%d/bin/x" % number)
    assert len(found._marks) == 1000
    found.add(b"bin/sh")
    assert found.root == b""


@pytest.mark.parametrize(
    ("path", "root"),
    [
        (b"etc/passwd", b""),
        (b"a/etc", b"a"),
        (b"README", None),
        (b"home/bin/x", None),
        (b"a/rootfs/usr/x", b"a/rootfs"),
    ],
)
def test_what_a_single_path_says(path: bytes, root: bytes | None) -> None:
    assert root_of(path) == root
