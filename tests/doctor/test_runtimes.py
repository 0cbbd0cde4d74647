"""proot, qemu, and the start.sh of a provisioned directory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from provisioner.doctor.diagnosis import CONTAINER_PROBES
from tests.support import builders
from tests.support.doctor import checks_of, doctor, doctor_in_jail, path_before, path_without, states_of, write_script
from tests.support.jail import HOME, PREFIX, Jail
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import find_program, need, provision

PICKY = """
case "$1" in --version | --help) exec {real} "$@" ;; esac
[ -n "$PROOT_NO_SECCOMP" ] && exec {real} "$@"
echo "proot error: execve: Function not implemented" >&2
exit 1
"""


@pytest.mark.slow
def test_a_proot_whose_seccomp_fails(place: Path) -> None:
    need("proot")
    (place / "bin").mkdir()
    write_script(place / "bin/proot", PICKY.format(real=find_program("proot")))
    found = checks_of(doctor("--json", place, env=path_before(place / "bin")))
    assert found["proot"]["state"] == "ok"
    assert (found["proot seccomp"]["state"], found["proot seccomp"]["fix"]) == ("no", "export PROOT_NO_SECCOMP=1")
    assert "Function not implemented" in found["proot seccomp"]["detail"]
    env = path_before(place / "bin", PROOT_NO_SECCOMP="1")
    check = checks_of(doctor("--json", place, env=env))["proot seccomp"]
    assert check["state"] == "ok"
    assert check["detail"].startswith("fails, and PROOT_NO_SECCOMP is set")


def test_where_there_is_no_tmp_proot_gets_the_directory_that_there_is(phone: Jail) -> None:
    programs = phone.home / "bin"
    programs.mkdir()
    (programs / "proot").write_text(f'#!{PREFIX}/bin/sh\necho "its temporary files: $PROOT_TMP_DIR"\nexit 1\n')
    (programs / "proot").chmod(0o755)
    try:
        done = doctor_in_jail(phone, env={"PATH": f"{HOME}/bin:{PREFIX}/bin"})
    finally:
        shutil.rmtree(programs)
    assert f"its temporary files: {PREFIX}/tmp" in checks_of(done)["proot"]["detail"]


@pytest.fixture
def provisioned(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A function that provisions a small image for a platform and returns the directory."""
    with ScriptedRegistry() as registry:

        def make(platform: str) -> Path:
            registry.push("image", builders.small())
            provision(f"{registry.host}/image", tmp_path / "dir", "--platform", platform, status=0)
            (tmp_path / "dir/rootfs/bin/sh").chmod(0o755)  # proot looks whether it can be executed
            return tmp_path / "dir"

        yield make


def as_platform(directory: Path, platform: str) -> None:
    for file in (directory / ".provision/record.json", directory / "start.sh"):
        text = file.read_text()
        file.write_text(text.replace("linux/amd64", platform))


def test_a_container_of_this_machine_s_can_be_started(provisioned: Callable[[str], Path]) -> None:
    directory = provisioned("amd64")
    before = sorted(directory.iterdir())
    found = checks_of(doctor("--json", directory))
    assert [*found][-3:] == [probe.name for probe in CONTAINER_PROBES]
    assert found["platform"]["detail"] == "linux/amd64 is for this machine"
    runtime = found["start.sh"]["detail"].partition(";")[0]  # then those that don't work here
    assert runtime in ("starts with chroot", "starts with proot", "starts with user namespaces")
    assert sorted(directory.iterdir()) == before


@pytest.mark.parametrize("platform", ["linux/arm64", "linux/riscv64"])
def test_a_container_of_another_machine_s_needs_qemu(
    platform: str, provisioned: Callable[[str], Path], tmp_path: Path
) -> None:
    need("proot", "qemu-aarch64-static")
    directory = provisioned("amd64")
    as_platform(directory, platform)
    (directory / "rootfs/bin/sh").chmod(0o755)
    name = {"linux/arm64": "aarch64", "linux/riscv64": "riscv64"}[platform]
    found = checks_of(doctor("--json", directory))
    assert f"by qemu-{name}-static" in found["platform"]["detail"]
    assert found["start.sh"]["detail"].partition(";")[0] == "starts with proot"
    done = doctor("--json", directory, env=path_without(tmp_path, f"qemu-{name}-static", f"qemu-{name}"))
    found = checks_of(done)
    assert done.returncode == 7
    assert (found["platform"]["state"], found["start.sh"]["state"]) == ("no", "no")
    assert "apt install qemu-user-static" in found["platform"]["fix"]
    assert "qemu-user-static" in found["start.sh"]["fix"]


def test_what_start_sh_makes_while_it_looks_is_gone(provisioned: Callable[[str], Path], tmp_path: Path) -> None:
    directory = provisioned("amd64")
    write_script(directory / "start.sh", 'mktemp -d "$TMPDIR/start.XXXXXX" && echo /usr/bin/proot -r x')
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    found = checks_of(doctor("--json", directory, env={**os.environ, "TMPDIR": str(temporary)}))
    assert found["start.sh"]["detail"] == "starts with proot"
    assert os.listdir(temporary) == []


def test_a_newer_processor_s_image(provisioned: Callable[[str], Path]) -> None:
    directory = provisioned("amd64")
    as_platform(directory, "linux/amd64/v9")
    assert states_of(doctor("--json", directory))["platform"] == "?"


def test_a_damaged_container(provisioned: Callable[[str], Path]) -> None:
    directory = provisioned("amd64")
    (directory / ".provision/record.json").write_text("{")
    (directory / "start.sh").unlink()
    done = doctor("--json", directory)
    assert done.returncode == 7
    assert [states_of(done)[name] for name in ("platform", "start.sh")] == ["?", "no"]
