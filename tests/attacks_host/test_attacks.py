"""The attacks themselves: where nothing protects they succeed, so that the other tests here see a protection."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support import exploits
from tests.support.containers import starter
from tests.support.hostile import PROGRAM, PYTHON, Host, Outcome, guest_id, victim
from tests.support.terminal import Terminal
from tests.support.tools import as_user, need, need_root, user_python

# Of a bare chroot there is no way out by these: it has no other namespaces, and user namespaces can't be made there.
# Processes of the host are in another PID namespace than its own, and its /sys has no control groups.
ONLY_ELSEWHERE = {
    "path_of_the_host",
    "chroot_in_a_new_user_namespace",
    "namespaces_of_other_processes",
    "new_user_namespace",
    "new_user_namespace_by_clone",
    "new_user_namespace_by_clone3",
    "new_user_namespace_by_32_bit_calls",
    "new_user_namespace_by_x32_calls",
    "host_process",
    "control_groups",
}
# What a kernel may lack.
MISSING = (
    "Function not implemented",
    "Address family not supported",
    "ended by signal 11",
    "No such file or directory: '/proc/sysrq-trigger'",
)

BARE_CHROOT = """\
mount -t proc proc "$0/proc" && mount -t sysfs sysfs "$0/sys" && mount --rbind /dev "$0/dev" || exit
chroot "$0" "$@"
exit $?
"""


@pytest.fixture(scope="module")
def bare(host: Host) -> dict[str, Outcome]:
    """What the attacks come to in a bare chroot with all capabilities."""
    need_root()
    need("unshare", "mount")
    target = host.container("chroot")
    command = [
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "sh",
        "-c",
        BARE_CHROOT,
        target.rootfs,
        PYTHON,
        PROGRAM,
        "attack",
    ]
    with victim(0) as pid:
        # One of them unmounts /proc.
        others = tuple(exploits.ATTACKS.keys() - {"root_unmounted"})
        found = host.run(target, pid, command, starter("chroot"), others)
        return found | host.run(target, pid, command, starter("chroot"), ("root_unmounted",))


@pytest.mark.parametrize("attack", sorted(exploits.ATTACKS.keys() - ONLY_ELSEWHERE))
def test_the_attack_succeeds_in_a_bare_chroot(bare: dict[str, Outcome], attack: str) -> None:
    outcome = bare[attack]
    if any(text in outcome.why for text in MISSING):
        pytest.skip(f"this kernel lacks it: {outcome.why}")
    assert outcome.got is not None, outcome.why
    assert outcome.got != "a broken attack"


@pytest.mark.parametrize("attack", sorted(ONLY_ELSEWHERE - {"namespaces_of_other_processes"}))
def test_the_attack_succeeds_outside_of_a_container(host: Host, attack: str) -> None:
    if attack == "control_groups" and " cgroup2 " not in Path("/proc/self/mounts").read_text():
        pytest.skip("there are no control groups of version 2")
    if attack == "control_groups":
        need_root()
    target = host.container("userns")
    command = [user_python()[0], host.place / "exploits.py", "attack"]
    with victim(guest_id("userns", "root")) as pid:
        outcome = host.run(target, pid, command, {"cwd": "/", **as_user()}, (attack,))[attack]
    if any(text in outcome.why for text in MISSING):
        pytest.skip(f"this kernel lacks it: {outcome.why}")
    assert outcome.got is not None, outcome.why


def test_a_terminal_outside_of_a_container_takes_what_is_typed(tmp_path: Path) -> None:
    setting = Path("/proc/sys/dev/tty/legacy_tiocsti")
    if setting.exists() and setting.read_text().strip() == "0":
        pytest.skip("this kernel refuses TIOCSTI to everybody")
    screen = Terminal(["sh"], user=False)
    screen.until(b"PROMPT")
    screen.type(f"{sys.executable} {exploits.__file__} type 0 'touch {tmp_path}/typed'; echo 'ended 'here\n".encode())
    screen.until(b"ended here")
    screen.type(b"echo 'all 'typed\n")
    screen.until(b"all typed")
    screen.type(b"exit\n")
    screen.end()
    assert (tmp_path / "typed").exists()
