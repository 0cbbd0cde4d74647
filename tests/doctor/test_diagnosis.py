"""The diagnosis of a machine: which runtime it has, on Android too; probes that hang, and interrupts."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from provisioner.doctor.diagnosis import diagnose
from tests.support.doctor import checks_of, doctor, doctor_in_jail, path_before, states_of, write_script
from tests.support.jail import Jail
from tests.support.tools import as_user, need, need_root, provision_command


def test_what_ends_it_in_its_first_moment_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = os.mkdir

    def interrupted(*place: Any, **options: Any) -> None:
        make(*place, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt):
        diagnose(tmp_path, offline=True)
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_a_probe_that_hangs_is_given_up(tmp_path: Path) -> None:
    need("fakeroot")
    write_script(tmp_path / "proot", "sleep 60")
    started = time.monotonic()
    done = doctor("--json", tmp_path, env=path_before(tmp_path))
    assert time.monotonic() - started < 50
    found = checks_of(done)
    assert (found["proot"]["state"], found["proot"]["detail"]) == ("?", "the probe failed: no answer in 6 seconds")
    assert found["fakeroot"]["state"] == "ok"
    assert os.listdir(tmp_path) == ["proot"]


def test_android_s_restrictions_are_reported(phone: Jail) -> None:
    done = doctor_in_jail(phone, allow=["tmp"])
    found = checks_of(done)
    assert done.returncode == 0
    del found["ping"]  # is up to this machine
    del found["proot paths"]  # is up to its proot
    assert {name: check["state"] for name, check in found.items() if check["state"] != "ok"} == {
        **dict.fromkeys(("hard links", "attributes", "devices", "owners", "chroot", "userns", "unshare"), "no"),
        **dict.fromkeys(("subuid", "bwrap", "qemu", "libmagic", "fakeroot"), "no"),
        "phantom processes": "?",
    }
    assert "the kernel ends the process that tries it (SIGSYS)" in found["userns"]["detail"]
    assert "os.link" in found["python"]["detail"]
    assert found["umask"]["detail"].startswith("0077")
    assert found["runtime"]["detail"] == "start.sh uses proot; usable: proot"
    assert found["fakeroot"]["fix"] == "pkg install fakeroot"
    assert list(phone.home.iterdir()) == []
    assert list((phone.prefix / "tmp").iterdir()) == []


def test_an_android_where_proot_cannot_work_has_status_7(phone: Jail) -> None:
    if "PROVISION_TEST_PROOT" in os.environ:
        pytest.skip("Termux's proot works there")
    done = doctor_in_jail(phone)  # Debian's proot needs a /tmp
    assert done.returncode == 7
    assert states_of(done)["runtime"] == "no"


def test_a_machine_that_can_start_nothing(place: Path) -> None:
    need_root()
    empty = place / "empty"
    empty.mkdir()
    command, options = provision_command("doctor", "--offline", place, cache=place, **as_user())
    options["env"]["PATH"] = str(empty)
    done = subprocess.run(command, **options, check=False)
    assert done.returncode == 7
    assert f"provision can't work in {place.resolve()}: runtime" in done.stdout
