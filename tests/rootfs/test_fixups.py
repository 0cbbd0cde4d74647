from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.errors import MalformedImage
from provisioner.profile import Profile
from provisioner.rootfs.fixups import (
    PUBLIC_DNS,
    apply_fixups,
    format_hostname,
    format_hosts,
    format_missing_groups,
    format_resolv_conf,
    host_resolv_confs,
)
from provisioner.rootfs.tree import Tree

BOX = Path("/home/joe/.Some_-_box.d")
"""The directory of the container."""


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "outside"
    path.mkdir()
    return path


# The files


def test_an_empty_root_gets_all_of_them(tree: Tree, root: Path) -> None:
    apply_fixups(tree, Profile(hostname="box"), ["9.9.9.9"], BOX)
    assert (root / "etc/resolv.conf").read_text() == "nameserver 9.9.9.9\n"
    assert (root / "etc/hosts").read_text() == format_hosts("box", socket.gethostname())
    assert (root / "etc/hostname").read_text() == "box\n"
    files = [path for path in (root / "etc").iterdir() if path.name != "mtab"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o644}


def test_the_name_is_the_directory_s_unless_the_profile_has_one(tree: Tree, root: Path) -> None:
    apply_fixups(tree, Profile(), ["9.9.9.9"], BOX)
    assert (root / "etc/hostname").read_text() == "some-box-d\n"


@pytest.mark.parametrize("target", ["{outside}/there", "../../outside/there", "../run/gone", "resolv.conf", "hosts"])
def test_links_in_place_of_files_are_replaced(tree: Tree, root: Path, outside: Path, target: str) -> None:
    (outside / "there").write_text("theirs")
    (root / "etc").mkdir()
    for name in ("resolv.conf", "hosts", "hostname"):
        (root / "etc" / name).symlink_to(target.format(outside=outside))
    apply_fixups(tree, Profile(hostname="box"), ["9.9.9.9"], BOX)
    written = [path for path in (root / "etc").iterdir() if path.name != "mtab"]
    assert all(path.is_file() and not path.is_symlink() for path in written)
    assert (outside / "there").read_text() == "theirs"


def test_directories_in_place_of_files_are_replaced(tree: Tree, root: Path) -> None:
    (root / "etc/resolv.conf/full").mkdir(parents=True)
    apply_fixups(tree, Profile(), ["9.9.9.9"], BOX)
    assert (root / "etc/resolv.conf").is_file()


@pytest.mark.parametrize(
    ("target", "real"),
    [
        ("usr/etc", "usr/etc"),
        ("/private/etc", "private/etc"),
        ("../outside", "outside"),
        ("{outside}", "{outside}"),
        ("no/such", "no/such"),
    ],
)
def test_etc_may_be_a_symlink_and_leads_inside(tree: Tree, root: Path, outside: Path, target: str, real: str) -> None:
    (root / "usr/etc").mkdir(parents=True)
    (root / "etc").symlink_to(target.format(outside=outside))
    apply_fixups(tree, Profile(hostname="box"), ["9.9.9.9"], BOX)
    inside = root / real.format(outside=outside).lstrip("/")
    assert sorted(path.name for path in inside.iterdir()) == ["hostname", "hosts", "mtab", "resolv.conf"]
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("what", ["file", "loop"])
def test_an_image_without_room_for_them_is_to_blame(tree: Tree, root: Path, what: str) -> None:
    if what == "file":
        (root / "etc").write_text("x")
    else:
        (root / "etc").symlink_to("etc")
    with pytest.raises(MalformedImage, match=r"^write /etc/resolv\.conf: it is below "):
        apply_fixups(tree, Profile(), [], BOX)


def test_files_of_the_profile(tree: Tree, root: Path) -> None:
    (root / "etc").mkdir()
    (root / "etc/motd").symlink_to("/elsewhere")
    files = ((b"/etc/motd", b"hello"), (b"/opt/new/x", b"whole\n"), (b"/etc/hosts", b"mine"))
    apply_fixups(tree, Profile(files=files), [], BOX)
    assert [(root / name).read_text() for name in ("etc/motd", "opt/new/x", "etc/hosts")] == [
        "hello\n",
        "whole\n",
        "mine\n",
    ]
    assert not (root / "elsewhere").exists()


def test_start_sh_may_generate_the_files_again_that_no_profile_has(tree: Tree, root: Path) -> None:
    files = ((b"/etc/hosts", b"mine"), (b"/etc/motd", b"hello"))
    generated = apply_fixups(tree, Profile(files=files, hostname="box"), ["9.9.9.9"], BOX)
    assert generated == {"resolv.conf": b"nameserver 9.9.9.9\n", "hostname": b"box\n"}


# resolv.conf


def test_servers_asked_for_come_before_the_profiles_and_the_hosts(tree: Tree, root: Path) -> None:
    apply_fixups(tree, Profile(dns=("1.2.3.4",)), ["9.9.9.9", "2620:fe::fe"], BOX)
    assert (root / "etc/resolv.conf").read_text() == "nameserver 9.9.9.9\nnameserver 2620:fe::fe\n"
    apply_fixups(tree, Profile(dns=("1.2.3.4",)), [], BOX)
    assert (root / "etc/resolv.conf").read_text() == "nameserver 1.2.3.4\n"


def test_the_first_host_file_that_names_a_server_is_taken(tmp_path: Path) -> None:
    names = ["missing", "empty", "nameless", "good", "late"]
    missing, empty, nameless, good, late = (tmp_path / name for name in names)
    empty.write_text("")
    nameless.write_text("# nameserver 6.6.6.6\nsearch example\nnameserver\n")
    good.write_bytes(b"; note\n nameserver\t127.0.0.53\nsearch a b\noptions edns0\nsortlist x\nname\xff x\n")
    late.write_text("nameserver 6.6.6.6\n")
    files = [missing, empty, tmp_path, nameless, good, late]
    assert format_resolv_conf([], files) == "nameserver 127.0.0.53\nsearch a b\noptions edns0\n"


def test_without_any_there_are_public_servers_of_both_kinds(tmp_path: Path) -> None:
    lines = format_resolv_conf([], [tmp_path / "missing"]).splitlines()
    assert lines == [f"nameserver {address}" for address in PUBLIC_DNS]
    assert {":" in line for line in lines[:3]} == {True, False}, "libc reads the first three"


def test_termux_keeps_its_own_below_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFIX", str(tmp_path / "usr"))
    assert host_resolv_confs() == [Path("/etc/resolv.conf"), tmp_path / "usr/etc/resolv.conf"]
    monkeypatch.delenv("PREFIX")
    assert host_resolv_confs() == [Path("/etc/resolv.conf")]


# hosts and group


def test_hosts_names_the_container_and_the_machine_once() -> None:
    begin = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
    assert format_hosts("box", "vm") == f"{begin}127.0.1.1 box vm\n"
    assert format_hosts("box", "box") == f"{begin}127.0.1.1 box\n"
    assert format_hosts("localhost", "localhost") == format_hosts("localhost", "") == begin


@pytest.mark.parametrize(
    ("name", "hostname"),
    [
        ("ubuntu", "ubuntu"),
        ("Debian_12.5", "debian-12-5"),
        ("-.-x-.-", "x"),
        ("日本", "container"),
        ("it's a \n box", "it-s-a-box"),
        ("a" * 62 + ".b", "a" * 62),
        ("a" * 200, "a" * 63),
    ],
)
def test_the_hostname_is_a_label_made_of_the_directory_s_name(name: str, hostname: str) -> None:
    assert format_hostname(Path("/home/joe", name)) == hostname


GROUP = b"root:x:0:\ninet:x:3003:me\nodd\nshort:x\n"


@pytest.mark.parametrize(
    ("group", "ids", "added"),
    [
        (GROUP, [0, 3003], b""),
        (GROUP, [9997, 20123, 0, 9997], b"aid_everybody:x:9997:\naid_20123:x:20123:\n"),
        (b"", [3003], b"aid_inet:x:3003:\n"),
        (b"root:x:0:", [3003], b"\naid_inet:x:3003:\n"),
        (b"root:x:0:", [0], b""),
        (GROUP, [], b""),
    ],
)
def test_groups_that_have_no_name_get_one(group: bytes, ids: list[int], added: bytes) -> None:
    assert format_missing_groups(group, ids) == added


@given(st.binary(), st.lists(st.integers(0, 2**32 - 2)))
def test_every_group_has_a_name_then(group: bytes, ids: list[int]) -> None:
    whole = group + format_missing_groups(group, ids)
    assert whole.startswith(group)
    assert format_missing_groups(whole, ids) == b""


def test_only_android_gets_groups(tree: Tree, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apply_fixups(tree, Profile(), [], BOX)
    assert not (root / "etc/group").exists()
    (root / "etc/real").write_text("root:x:0:\n")
    (root / "etc/group").symlink_to("real")
    # Python has this function on Android only, where no test can run.
    monkeypatch.setattr(sys, "getandroidapilevel", lambda: 34, raising=False)
    monkeypatch.setattr(os, "getgroups", lambda: [3003, 50123])
    apply_fixups(tree, Profile(), [], BOX)
    assert (root / "etc/group").read_text() == "root:x:0:\naid_inet:x:3003:\naid_50123:x:50123:\n"
    assert (root / "etc/real").read_text() == "root:x:0:\n"


# mtab


def test_mtab_shows_the_mounts_where_the_image_has_none(tree: Tree, root: Path) -> None:
    apply_fixups(tree, Profile(), [], BOX)
    assert os.readlink(root / "etc/mtab") == "/proc/mounts"


@pytest.mark.parametrize("kind", ["file", "dangling link", "directory"])
def test_mtab_of_the_image_stays(tree: Tree, root: Path, kind: str) -> None:
    (root / "etc").mkdir()
    mtab = root / "etc/mtab"
    if kind == "file":
        mtab.write_text("mine")
    elif kind == "directory":
        mtab.mkdir()
    else:
        mtab.symlink_to("../proc/self/mounts")
    before = mtab.lstat()
    apply_fixups(tree, Profile(), [], BOX)
    assert os.path.samestat(mtab.lstat(), before)
