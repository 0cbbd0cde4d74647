"""Other processes, their memory and their keys."""

from __future__ import annotations

import subprocess

from tests.attacks_host.protection import protects
from tests.support.containers import choosing, starter
from tests.support.hostile import Host


@protects("userns", "chroot")
def test_processes_of_the_host_can_t_be_reached(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "host_process").got is None


@protects("userns", "chroot")
def test_programs_of_start_sh_can_t_be_reached(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "programs_of_start_sh").got is None


@protects("userns", "chroot")
def test_keys_of_the_caller_can_t_be_read(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "host_key").got is None


@protects("userns", "chroot")
def test_keys_of_the_caller_can_t_be_read_by_32_bit_calls(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "host_key_by_32_bit_calls").got is None


@protects("userns", "chroot")
def test_shared_memory_of_the_host_can_t_be_attached(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "shared_memory").got is None


@protects("userns", "chroot")
def test_groups_of_the_host_s_processes_can_t_be_changed(host: Host, runtime: str, user: str) -> None:
    assert host.outcome(runtime, user, "control_groups").got is None


@protects("userns", "chroot")
def test_the_group_of_the_caller_can_t_be_signalled(host: Host, runtime: str, user: str) -> None:
    """By `kill 0`, where the caller has no terminal, as in CI; the caller has the guest's user id."""
    target, options = host.container(runtime), starter(runtime)
    caller = 'trap "echo signalled" USR1; "$@"; echo "status $?"'
    command = [target.script, *choosing(runtime), "--user", user, "sh", "-c", "trap : USR1; kill -USR1 0; sleep 0.1"]
    words = ["sh", "-c", caller, "sh", *map(str, command)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, start_new_session=True, **options)
    assert (done.stdout, done.stderr) == ("status 0\n", "")
