"""The files of /etc that depend on the machine and its network: made anew at each start of start.sh, or left alone."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from provisioner.rootfs.fixups import format_hosts, format_resolv_conf
from tests.support.containers import PASSWD, SHELLS, Container, hand_over, starter
from tests.support.tools import need, need_root
from tests.support.trees import tree_of


def test_name_servers_of_one_run(container: Container, place: Path, runtime: str) -> None:
    before = tree_of(container.rootfs / "etc")
    (place / "tmp").mkdir(mode=0o777)
    (place / "tmp").chmod(0o777)
    env = {**starter(runtime)["env"], "TMPDIR": str(place / "tmp")}
    output = container.output(runtime, "--dns", "192.0.2.1", "--dns", "2001:db8::1", "cat", "/etc/resolv.conf", env=env)
    assert output == b"nameserver 192.0.2.1\nnameserver 2001:db8::1\n"
    assert tree_of(container.rootfs / "etc") == before
    assert list((place / "tmp").iterdir()) == []


def network_files(host_resolv_conf: str = "nameserver 192.0.2.7\n") -> dict[str, str]:
    """What the three files should hold on this machine, by the code that writes them first."""
    hosts = format_hosts("container", socket.gethostname())
    return {"resolv.conf": host_resolv_conf, "hosts": hosts, "hostname": "container\n"}


def pretend_generated(container: Container, **content: str) -> Container:
    """The container as it was made on another machine, in another network."""
    (container.directory / ".provision/generated").mkdir()
    for name in ("resolv.conf", "hosts", "hostname"):
        for directory in (container.directory / ".provision/generated", container.rootfs / "etc"):
            (directory / name).write_text(content.get(name, f"{name} of yesterday\n"))
    return hand_over(container)


def shown(container: Container, runtime: str, *options: str, **more: Any) -> dict[str, str]:
    """The three files as the guest sees them."""
    guest = 'for name in resolv.conf hosts hostname; do printf "%s\\0" "$(cat /etc/$name; echo .)"; done'
    output = [word.decode().removesuffix(".") for word in container.words(runtime, *options, "sh", "-c", guest, **more)]
    return dict(zip(("resolv.conf", "hosts", "hostname"), output, strict=True))


def with_host_file(runtime: str, resolv_conf: Path) -> dict[str, str]:
    """An environment in which start.sh reads another file as the host's /etc/resolv.conf."""
    return {**starter(runtime)["env"], "PROVISION_TEST_RESOLV_CONF": str(resolv_conf)}


def test_files_of_this_machine_follow_it_to_another_network(container: Container, place: Path, runtime: str) -> None:
    pretend_generated(container)
    for server in ("192.0.2.7", "192.0.2.8"):
        (place / "host").write_text(f"# a note\nnameserver  {server}\nsortlist x\nnameserver\nsearch a  b")
        expected = network_files(format_resolv_conf((), [place / "host"]))
        assert expected["resolv.conf"] == f"nameserver {server}\nsearch a b\n"
        assert shown(container, runtime, env=with_host_file(runtime, place / "host")) == expected
    generated = {path.name: path.read_text() for path in (container.directory / ".provision/generated").iterdir()}
    assert generated == expected


@pytest.mark.parametrize("shell", SHELLS)
def test_what_has_not_changed_is_not_written(container: Container, place: Path, shell: str) -> None:
    need(SHELLS[shell][0])
    (place / "host").write_text("nameserver 192.0.2.7\n")
    pretend_generated(container, **network_files())
    env = with_host_file("proot", place / "host")
    parts = (container.rootfs / "etc", container.directory / ".provision/generated")
    before = [tree_of(part) for part in parts]
    assert shown(container, "proot", shell=SHELLS[shell], env=env) == network_files()
    assert [tree_of(part) for part in parts] == before


def test_what_somebody_has_edited_stays(container: Container, runtime: str) -> None:
    pretend_generated(container)
    mine = {"resolv.conf": "nameserver 192.0.2.99\n", "hosts": "", "hostname": "hostname of yesterday\n\n"}
    for name, content in mine.items():
        (container.rootfs / "etc" / name).write_text(content)
    assert shown(container, runtime) == mine
    (container.rootfs / "etc/hosts").unlink()
    (container.rootfs / "etc/hosts").symlink_to("passwd")
    assert shown(container, runtime)["hosts"] == PASSWD


def test_a_link_out_of_the_rootfs_is_not_written_through(container: Container, place: Path, runtime: str) -> None:
    pretend_generated(container)
    (place / "outside").write_text("hosts of yesterday\n")
    (place / "outside").chmod(0o666)
    (container.rootfs / "etc/hosts").unlink()
    (container.rootfs / "etc/hosts").symlink_to(place / "outside")
    container.run(runtime, "true")
    assert (place / "outside").read_text() == "hosts of yesterday\n"


def test_servers_and_a_name_of_the_settings_count(container: Container, runtime: str) -> None:
    pretend_generated(container.set(default_dns=("192.0.2.1", "2001:db8::1"), default_hostname="box"))
    assert shown(container, runtime) == {
        "resolv.conf": "nameserver 192.0.2.1\nnameserver 2001:db8::1\n",
        "hosts": format_hosts("box", socket.gethostname()),
        "hostname": "box\n",
    }


def test_a_machine_that_names_no_server_gets_public_ones(container: Container, place: Path) -> None:
    pretend_generated(container)
    (place / "etc").mkdir()
    (place / "etc/resolv.conf").write_text("search example\n")
    env = {**with_host_file("proot", place / "missing"), "PREFIX": str(place)}
    assert shown(container, "proot", env=env)["resolv.conf"] == format_resolv_conf((), [])
    pretend_again = container.directory / ".provision/generated"
    assert (pretend_again / "resolv.conf").read_text() == format_resolv_conf((), [])
    (place / "etc/resolv.conf").write_text("nameserver 192.0.2.5\n")
    assert shown(container, "proot", env=env)["resolv.conf"] == "nameserver 192.0.2.5\n"


def test_a_directory_that_cannot_be_written_gets_them_for_the_run(container: Container, place: Path) -> None:
    need_root()
    pretend_generated(container)
    (place / "host").write_text("nameserver 192.0.2.7\n")
    for name in ("dev", "sys"):
        (container.rootfs / name).mkdir()
    for path in (container.directory, *container.directory.rglob("*")):
        os.chown(path, 0, 0, follow_symlinks=False)
    for runtime in ("proot", "userns"):
        assert shown(container, runtime, env=with_host_file(runtime, place / "host")) == network_files()
    assert (container.rootfs / "etc/hosts").read_text() == "hosts of yesterday\n"
