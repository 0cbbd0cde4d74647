"""The host's files: no way out of the rootfs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attacks_host.protection import protects
from tests.support.containers import choosing, starter
from tests.support.hostile import PROGRAM, PYTHON, USERS, Host, guest_id, victim
from tests.support.tools import need, need_root


@protects("userns", "chroot")
def test_the_host_s_paths_show_the_guest_s_files(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "path_of_the_host").got is None


@protects("userns", "chroot")
def test_a_second_chroot_does_not_lead_out(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "second_chroot").got is None


@protects("userns", "chroot")
def test_a_descriptor_kept_over_a_second_chroot_does_not_lead_out(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "second_chroot_with_descriptor").got is None


@protects("userns", "chroot")
def test_a_directory_handed_into_nested_chroots_does_not_lead_out(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "nested_chroots").got is None


@protects("userns", "chroot")
def test_a_new_user_namespace_s_chroot_does_not_lead_out(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "chroot_in_a_new_user_namespace").got is None


@protects("userns", "chroot")
def test_root_and_cwd_of_processes_do_not_lead_out(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "links_in_proc").got is None


@protects("userns", "chroot")
def test_descriptors_of_processes_do_not_lead_out(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "links_to_descriptors_in_proc").got is None


@protects("userns", "chroot")
def test_the_own_mount_namespace_does_not_lead_out(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "own_mount_namespace_entered_again").got is None


@protects("userns", "chroot")
def test_unmounting_the_root_does_not_lead_out(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "root_unmounted").got is None


@protects("userns", "chroot")
def test_no_other_namespace_can_be_entered(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "namespaces_of_other_processes").got is None


@protects("userns", "chroot")
def test_file_handles_do_not_lead_out(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "file_handle").got is None


@protects("proot", "userns", "chroot")
def test_descriptors_of_the_caller_are_closed(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "inherited_descriptors").got is None


@protects("userns", "chroot", users=())
def test_with_small_tools_the_root_does_not_lead_out_either(
    host: Host, runtime: str, small_tools: dict[str, str]
) -> None:
    """Without util-linux's setpriv root keeps all capabilities, and can follow /proc/1/root: start.sh says so."""
    attacks = (
        "path_of_the_host",
        "second_chroot",
        "second_chroot_with_descriptor",
        "nested_chroots",
        "chroot_in_a_new_user_namespace",
        "own_mount_namespace_entered_again",
        "root_unmounted",
        "namespaces_of_other_processes",
        "file_handle",
        "inherited_descriptors",
    )
    outcomes = host.attack(runtime, "root", **small_tools, PROVISION_TEST_SBIN="")
    assert {name: outcomes[name].got for name in attacks if outcomes[name].got} == {}


@pytest.mark.parametrize("user", USERS)
def test_where_the_host_is_a_chroot_nothing_leads_out_of_that_either(host: Host, place: Path, user: str) -> None:
    """Root of such a host can climb out of it. A guest can't, unless the rootfs is mounted on what is above."""
    need_root()
    need("unshare", "mount", "chroot")
    target = host.container("chroot")
    enter = 'mount --rbind / "$0" && exec chroot "$0" "$@"'
    command = ["unshare", "-m", "sh", "-c", enter, place, target.script, *choosing("chroot"), "--user", user, "--"]
    attacks = ("second_chroot", "second_chroot_with_descriptor", "nested_chroots", "root_unmounted", "links_in_proc")
    with victim(guest_id("chroot", user)) as pid:
        outcomes = host.run(target, pid, [*command, PYTHON, PROGRAM, "attack"], starter("chroot"), attacks)
    assert {name: outcomes[name].got for name in attacks} == dict.fromkeys(attacks)
