"""The commands that install what is missing, on each system."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from provisioner.doctor.fixes import install_command
from provisioner.doctor.runtimes import QEMU
from tests.support.doctor import checks_of, doctor, path_without, write_script
from tests.support.jail import PREFIX


def test_programs_that_are_missing_are_named_with_their_packages(tmp_path: Path) -> None:
    emulators = [f"qemu-{name}{suffix}" for name in QEMU.values() for suffix in ("-static", "")]
    env = path_without(tmp_path, "proot", "bwrap", "fakeroot", "zstd", *emulators)
    found = checks_of(doctor("--json", tmp_path, env=env))
    packages = {"proot": "proot", "bwrap": "bubblewrap", "fakeroot": "fakeroot", "qemu": "qemu-user-static"}
    before = "" if os.geteuid() == 0 or not shutil.which("sudo") else "sudo "
    behind = "" if os.geteuid() == 0 or before else " (as root)"
    assert {name: (found[name]["state"], found[name]["fix"]) for name in packages} == {
        name: ("no", f"{before}apt install {package}{behind}") for name, package in packages.items()
    }
    assert found["proot seccomp"]["state"] == "?"


@pytest.mark.parametrize(
    ("manager", "command"),
    [
        ("apt-get", "apt install libmagic1"),
        ("apk", "apk add libmagic"),
        ("dnf", "dnf install file-libs"),
        ("pacman", "pacman -S file"),
        ("zypper", "zypper install libmagic1"),
    ],
)
def test_the_command_is_in_the_words_of_this_system(
    manager: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_script(tmp_path / manager, "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert install_command("libmagic1").removesuffix(" (as root)") == command
    monkeypatch.setenv("PREFIX", PREFIX)
    assert install_command("libmagic1") == "pkg install libmagic"
    assert install_command("qemu-user-static", "aarch64") == "pkg install qemu-user-aarch64"
    assert install_command("qemu-user-static", "x86_64") == "pkg install qemu-user-x86-64"
    assert install_command("uidmap") == ""
