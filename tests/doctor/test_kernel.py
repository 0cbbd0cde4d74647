"""What the kernel allows: namespaces, the programs for them, Android's limit of processes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.doctor import checks_of, doctor, doctor_in_jail, path_without
from tests.support.jail import PREFIX, Jail
from tests.support.tools import need, need_root, provision_command

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("level", "switch", "limit", "state", "says"),
    [
        ("30", "", "", "ok", "no limit before Android 12"),
        ("34", "false", "", "ok", "the limit is off"),
        ("34", "true", "", "no", "settings put global settings_enable_monitor_phantom_procs false"),
        ("31", "", "64", "no", "max_phantom_processes 2147483647"),
        ("31", "", "2147483647", "ok", "the limit is 2147483647"),
    ],
)
def test_the_phantom_limit(phone: Jail, level: str, switch: str, limit: str, state: str, says: str) -> None:
    for name, reply in (("getprop", level), ("settings", switch), ("device_config", limit)):
        program = phone.prefix / "bin" / name
        program.unlink(missing_ok=True)
        program.write_text(f"#!{PREFIX}/bin/sh\necho '{reply}'\n[ -n '{reply}' ]\n")
        program.chmod(0o755)
    try:
        check = checks_of(doctor_in_jail(phone, allow=["tmp"]))["phantom processes"]
    finally:
        for name in ("getprop", "settings", "device_config"):
            (phone.prefix / "bin" / name).unlink()
    assert check["state"] == state
    assert says in check["detail"] + check["fix"]
    assert limit in check["detail"]


def test_there_is_no_such_limit_elsewhere(tmp_path: Path) -> None:
    assert checks_of(doctor("--json", tmp_path))["phantom processes"]["detail"] == "no limit: this is no Android"


def test_root_without_the_programs_for_chroot(tmp_path: Path) -> None:
    need_root()
    done = doctor("--json", tmp_path, env=path_without(tmp_path, "proot", "unshare"))
    found = checks_of(done)
    assert done.returncode == 7
    assert found["unshare"]["fix"] == "apt install util-linux"
    assert (found["chroot"]["state"], found["runtime"]["state"]) == ("ok", "no")


def test_user_namespaces_that_the_kernel_refuses(tmp_path: Path) -> None:
    need_root()
    need("unshare")
    # Settings of a user namespace of its own, where none may be made.
    command, options = provision_command("doctor", "--json", "--offline", tmp_path, cache=tmp_path)
    inner = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"'
    done = subprocess.run(["unshare", "--user", "-r", "sh", "-c", inner, "sh", *command], check=False, **options)
    check = checks_of(done)["userns"]
    assert check["state"] == "no"
    assert "sysctl -w user.max_user_namespaces=15000" in check["fix"]
