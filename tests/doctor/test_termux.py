"""What doctor says of Termux's proot, of its links in DIR, and of 32-bit programs."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from provisioner.container.proot_links import find_links
from provisioner.doctor.check import Finding, Site, State
from provisioner.doctor.fixes import emulator_fix, install_command
from provisioner.doctor.termux import check_proot_limits, check_proot_links, runs_32_bit
from tests.support.containers import Container, starter
from tests.support.doctor import checks_of, doctor, path_before, write_script
from tests.support.jail import PREFIX
from tests.support.termux import make_hard_links, with_similar_proot
from tests.support.tools import find_program, need


def checked(container: Container) -> Finding:
    return check_proot_links(Site(container.directory, None))


def test_a_directory_without_links_is_fine(container: Container) -> None:
    assert checked(container) == Finding(State.OK, "none is a link of proot")
    (container.rootfs / "plain").symlink_to("/etc/passwd")
    (container.rootfs / "relative").symlink_to(".l2s.x0001")
    assert checked(container).state == State.OK


def test_links_that_lead_to_their_content_are_counted(container: Container) -> None:
    make_hard_links(container, "a", "b", "c")
    assert checked(container) == Finding(State.OK, "3 hard links are links of Termux's proot")


def test_a_moved_directory_is_seen_and_its_fix_works(container: Container, place: Path) -> None:
    make_hard_links(container, "a", "b")
    old = container.rootfs
    moved = Container(place / "it's moved")
    container.directory.rename(moved.directory)
    finding = checked(moved)
    assert (finding.state, finding.detail) == (State.NO, f"3 links lead to {old}, where DIR was")
    env = {**with_similar_proot(place), "PROVISION_RUNTIME": "proot"}
    subprocess.run(finding.fix, shell=True, check=True, **starter("proot") | {"env": env})
    assert checked(moved).state == State.OK


def test_lost_content_is_named(container: Container) -> None:
    make_hard_links(container, "a", "b")
    make_hard_links(container, "bad\nname", "fine", "x", "y", "z")
    (container.rootfs / ".l2s/.l2s.bad\nname0001.0005").unlink()
    finding = checked(container)
    assert finding.state == State.NO
    assert finding.detail.startswith(
        "6 files have lost their content: .l2s/.l2s.bad\\nname0001, bad\\nname, fine and 3 more"
    )


def test_links_to_places_that_are_gone_for_good_are_named(container: Container) -> None:
    (container.rootfs / "a").symlink_to("/elsewhere/.l2s.a0001")
    finding = checked(container)
    assert (finding.state, finding.detail) == (State.NO, "1 file has lost its content: a")


def test_names_without_a_number_left_are_found(container: Container) -> None:
    make_hard_links(container, "config", "b")
    (container.rootfs / ".l2s/.l2s.config0998").write_text("")
    assert checked(container).state == State.OK
    (container.rootfs / ".l2s/.l2s.config0999").write_text("")
    finding = checked(container)
    assert finding.state == State.NO
    assert "no number is left for config" in finding.detail


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_place_for_links_that_is_no_directory_has_a_fix(container: Container, kind: str) -> None:
    target = container.rootfs / ".l2s"
    if kind == "file":
        target.write_text("")
    else:
        target.symlink_to("/")
    finding = checked(container)
    assert finding.state == State.NO
    assert shlex.split(finding.fix) == ["mv", str(target), f"{target}.old"]


def test_another_name_of_the_directory_is_no_move(container: Container, place: Path) -> None:
    other = place / "other"
    other.symlink_to(container.directory)
    make_hard_links(container, "a", "b", at=other / "rootfs")
    assert find_links(container.directory).elsewhere_count == 3
    (container.directory / ".provision/links").write_text(f"{other}/rootfs\n")
    assert checked(container).state == State.OK


def test_doctor_checks_a_directory(container: Container) -> None:
    (container.rootfs / "a").symlink_to("/elsewhere/.l2s.a0001")
    found = checks_of(doctor("--json", "--trust-dir", container.directory))
    assert found["proot links"]["state"] == "no"


@pytest.mark.parametrize(("text", "said"), [("--link2symlink", "docs/termux-proot.md"), ("-r", "this is not Termux's")])
def test_the_limits_of_termux_s_proot_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    write_script(tmp_path / "proot", f"echo ' {text}'")
    monkeypatch.setenv("PATH", path_before(tmp_path)["PATH"])
    finding = check_proot_limits(Site(tmp_path, None))
    assert finding.state == State.OK
    assert said in finding.detail


def test_a_32_bit_program_is_tried(tmp_path: Path) -> None:
    machine = subprocess.run(["uname", "-m"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    if machine != "x86_64":
        pytest.skip("it is not known what this machine runs")
    assert not runs_32_bit("arm", Site(tmp_path, None)) or Path("/proc/sys/fs/binfmt_misc/qemu-arm").exists()
    need("file")
    assert runs_32_bit("386", Site(tmp_path, tmp_path)) == (
        subprocess.run([tmp_path / "program-386"], check=False).returncode == 0 if find_program("file") else False
    )


def test_packages_have_the_names_of_termux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFIX", PREFIX)
    assert install_command("util-linux") == "pkg install util-linux mount-utils"
    assert emulator_fix("x86_64") == "pkg install qemu-user-x86-64"
    for machine in ("s390x", "ppc64le", "loongarch64", "mipsel", "mips64el"):
        assert emulator_fix(machine) == "choose an image for this machine: Termux has no qemu-user for that one"
