"""The kernel: its settings, its secrets and its calls."""

from __future__ import annotations

import pytest

from tests.attacks_host.protection import protects
from tests.support.exploits import CALLS
from tests.support.hostile import Host


@protects("userns", "chroot")
def test_core_pattern_can_t_be_written(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "core_pattern").got is None


@protects("userns", "chroot")
def test_no_setting_below_proc_sys_can_be_written(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "settings_of_the_kernel").got is None


@protects("userns", "chroot")
def test_sysrq_trigger_can_t_be_opened(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "sysrq").got is None


@protects("userns", "chroot")
def test_nothing_else_in_proc_can_be_written(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "writable_files_of_proc").got is None


@protects("userns", "chroot")
def test_nothing_in_sys_can_be_written(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "writable_files_of_sys").got is None


@protects("userns", "chroot")
def test_what_other_runtimes_mask_is_masked(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "secrets_of_the_kernel").got is None


@pytest.mark.parametrize(
    "attack",
    [
        "new_user_namespace",
        "new_user_namespace_by_clone",
        "new_user_namespace_by_clone3",
        "new_user_namespace_by_32_bit_calls",
        "new_user_namespace_by_x32_calls",
    ],
)
@protects("userns", "chroot")
def test_no_user_namespace_can_be_made(host: Host, runtime: str, user: str, attack: str) -> None:
    assert host.outcome(runtime, user, attack).got is None


@protects("userns", "chroot")
def test_no_mount_namespace_can_be_made(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "new_mount_namespace").got is None


@protects("userns", "chroot")
def test_nothing_can_be_mounted(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "mounts").got is None


@protects("userns", "chroot")
def test_the_kernel_s_log_can_t_be_read(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "kernel_log").got is None


@protects("userns", "chroot")
def test_no_program_can_be_loaded_into_the_kernel(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "kernel_program").got is None


@protects("userns", "chroot")
def test_no_counter_of_the_kernel_can_be_read(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "kernel_counters").got is None


@protects("userns", "chroot")
def test_no_socket_to_the_host_of_a_virtual_machine_can_be_made(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "host_of_a_virtual_machine").got is None


@protects("chroot")
def test_root_has_the_capabilities_of_containers_without_mknod(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "capabilities").got is None


@pytest.mark.parametrize("name", CALLS)
@protects("userns", "chroot")
def test_calls_of_the_machine_s_administrator_are_refused(host: Host, runtime: str, user: str, name: str) -> None:
    assert host.outcome(runtime, user, f"call_{name}").got is None
