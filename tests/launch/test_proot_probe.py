"""What start.sh and doctor find out about a proot: by trying, once for each file that is called proot."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

from provisioner.errors import MachineError
from provisioner.image.platform import Platform, host_platform
from provisioner.launch.proot_probe import CALLS, WORKS, proot_probe
from provisioner.launch.static_helper import ARCHITECTURES
from tests.support.containers import Container, starter
from tests.support.doctor import checks_of, doctor, path_before, write_script
from tests.support.programs import emulator
from tests.support.tools import find_program, need

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_probe_counts_the_calls_that_find_nothing(architecture: str, tmp_path: Path) -> None:
    probe = tmp_path / "probe"
    probe.write_bytes(proot_probe(Platform("linux", architecture)))
    probe.chmod(0o755)
    assert subprocess.run([emulator(architecture), probe, "/etc/passwd"], check=False).returncode == WORKS
    missing = subprocess.run([emulator(architecture), probe, "/nowhere/file"], check=False).returncode - WORKS
    # Older versions of qemu have no openat2 and faccessat2: a call that isn't there finds nothing of the host's.
    assert missing & CALLS["statx"]


def test_this_machine_s_probe_counts_all() -> None:
    assert sum(CALLS.values()) == 7


def test_there_is_no_probe_for_other_machines() -> None:
    with pytest.raises(MachineError):
        proot_probe(Platform("linux", "s390x"))


@pytest.fixture
def counted(container: Container, place: Path) -> dict[str, str]:
    """An environment whose proot writes down how it is called, in `place/calls`."""
    need("proot")
    tools = place / "tools"
    tools.mkdir()
    write_script(tools / "proot", f'echo "$1" >>{shlex.quote(str(place))}/calls\nexec {find_program("proot")} "$@"')
    (place / "calls").write_text("")
    (place / "calls").chmod(0o666)
    env: dict[str, str] = starter("proot")["env"]
    return {**env, "PATH": f"{tools}:{env['PATH']}"}


def test_a_proot_is_asked_once(container: Container, place: Path, counted: dict[str, str]) -> None:
    for _ in range(3):
        assert container.output("proot", "true", env=counted) == b""
    assert (place / "calls").read_text().split() == ["--help", "-v", "-v", "-v", "-v"], "help, probe, and three starts"


def test_another_file_of_that_name_is_asked_again(container: Container, place: Path, counted: dict[str, str]) -> None:
    container.output("proot", "true", env=counted)
    program = place / "tools/proot"
    times = (program.stat().st_atime_ns, program.stat().st_mtime_ns)
    text = program.read_bytes()
    program.rename(place / "old")
    program.write_bytes(text)
    program.chmod(0o755)
    os.utime(program, ns=times)
    (place / "calls").write_text("")
    container.output("proot", "true", env=counted)
    assert (place / "calls").read_text().split()[0] == "--help"


def test_nothing_is_written_through_a_link(container: Container, place: Path) -> None:
    need("proot")
    (place / "canary").write_text("text")
    (place / "canary").chmod(0o666)
    (container.directory / ".provision/proot-facts").symlink_to(place / "canary")
    done = container.run("proot", "sh", "-c", "echo here")
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"proot-facts is a symlink" in done.stderr
    assert (place / "canary").read_text() == "text"


def test_hostile_facts_are_no_shell_text(container: Container, place: Path) -> None:
    need("proot")
    container.output("proot", "true")
    facts = container.directory / ".provision/proot-facts"
    identity = facts.read_text().partition("\n")[0]
    facts.write_text(f"{identity}\n7\n  -$(touch {place}/canary)\n`touch {place}/canary`\nend\n")
    container.run("proot", "true")
    facts.write_text(f"{identity}\n$(touch {place}/canary)\n  -$(touch {place}/canary)\nend\n")
    container.run("proot", "true")
    assert not (place / "canary").exists()


def test_facts_that_are_cut_off_are_found_anew(container: Container) -> None:
    need("proot")
    container.output("proot", "true", env={**starter("proot")["env"], "features": "of the caller's environment"})
    facts = container.directory / ".provision/proot-facts"
    whole = facts.read_text()
    for end in (0, len(whole.partition("\n")[0]) + 1, len(whole) // 2, len(whole) - 2):
        facts.write_text(whole[:end])
        container.output("proot", "true")
        assert facts.read_text() == whole


def test_a_dir_without_a_filter_says_what_guests_see(container: Container, place: Path) -> None:
    need("proot")
    (container.directory / ".provision/proot.bpf").unlink()
    done = container.run("proot", "true")
    facts = (container.directory / ".provision/proot-facts").read_text().splitlines()
    lines = done.stderr.decode().splitlines()
    says = "start.sh: with this proot, programs inside can see files of this machine, and DIR has no filter for that"
    assert lines == ([f"{says}: use --runtime userns"] if facts[1] != "0" else [])


def test_without_a_helper_programs_of_the_host_are_asked(container: Container) -> None:
    """And asked again: without it nothing tells which file proot is."""
    need("proot")
    container.output("proot", "true")
    facts = container.directory / ".provision/proot-facts"
    with_helper = facts.read_text().splitlines()[1]
    facts.unlink()
    (container.directory / ".provision/machine").unlink()
    done = container.run("proot", "true")
    assert done.returncode == 0
    # A host whose own programs use none of these calls can't tell.
    assert done.stderr == b"" or (with_helper != "0" and b"can see files of this machine" in done.stderr)
    assert not facts.exists()


def test_the_identity_of_a_file_changes_with_it(tmp_path: Path) -> None:
    probe, file = tmp_path / "probe", tmp_path / "file"
    probe.write_bytes(proot_probe(host_platform()))
    probe.chmod(0o755)

    def identity() -> bytes:
        return subprocess.run([probe, "-", file], check=True, capture_output=True).stdout

    assert identity() == b"", "there is none yet"
    file.write_text("one")
    first = identity()
    assert len(first) == 224
    file.read_text()
    assert identity() == first
    os.utime(file, ns=(1, 1))
    changed = identity()
    assert changed != first
    (tmp_path / "other").write_text("one")
    os.utime(tmp_path / "other", ns=(1, 1))
    (tmp_path / "other").rename(file)
    assert identity() != changed


def test_doctor_tries_it_too(place: Path) -> None:
    need("proot")
    found = checks_of(doctor("--json", place))
    check = found["proot paths"]
    assert check["state"] == "ok"
    probe = place / "root/proot-probe"
    probe.parent.mkdir()
    probe.write_bytes(proot_probe(host_platform()))
    probe.chmod(0o755)
    words: list[str | Path] = ["proot", "-v", "-1", "-r", probe.parent, "-w", "/", "/proot-probe", "/proot-probe"]
    seen = subprocess.run(words, check=False).returncode - WORKS
    expected = ", ".join(name for name, bit in CALLS.items() if seen & bit)
    says = f"proot doesn't know {expected}: start.sh's filter" if expected else "proot translates"
    assert check["detail"].startswith(says)
    assert sorted(os.listdir(place)) == ["root"]


def test_doctor_says_what_a_proot_can_t_be_asked(place: Path) -> None:
    (place / "bin").mkdir()
    write_script(place / "bin/proot", "exit 1")
    place.chmod(0o755)
    found = checks_of(doctor("--json", place, env=path_before(place / "bin")))
    assert found["proot paths"]["state"] == "?"
    assert found["proot paths"]["detail"].startswith("the probe didn't end as it should")


def test_doctor_tries_ping(place: Path) -> None:
    check = checks_of(doctor("--json", place))["ping"]
    allowed = Path("/proc/sys/net/ipv4/ping_group_range").read_text().split()
    can = int(allowed[0]) <= os.getegid() <= int(allowed[1])
    assert check["state"] == ("ok" if can else "no")
    assert can or "net.ipv4.ping_group_range" in check["fix"]


def test_the_files_of_a_dir_can_be_executed(container: Container) -> None:
    for name in ("helper", "proot-probe"):
        assert stat.S_IMODE((container.directory / ".provision" / name).stat().st_mode) == 0o755
