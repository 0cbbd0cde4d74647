"""What start.sh asks of proot, Termux's and Debian's, and says where proot can't work."""

from __future__ import annotations

import errno
import os
import shlex
from pathlib import Path

import pytest

from provisioner.launch.bpf import Abi, Rule, program, refuse
from tests.launch.test_seccomp import install
from tests.support import libseccomp
from tests.support.containers import ENVIRONMENT, Container, starter
from tests.support.tools import find_program, need


@pytest.fixture
def termux_proot(place: Path) -> dict[str, str]:
    """An environment with a proot that lists the options of Termux's fork, and writes its words to `place/words`."""
    need("proot")
    tools = place / "tools"
    tools.mkdir()
    (tools / "proot").write_text(
        f"""#!/bin/sh
[ "$1" != --help ] || exec printf '  --link2symlink\\n  --sysvipc\\n  --kill-on-exit\\n  -p\\n\\n  -L\\n\\nEnd\\n'
printf '%s\\n' "$@" >{shlex.quote(str(place))}/words
for word; do
    shift
    case $word in --link2symlink | --sysvipc | --kill-on-exit | -p | -L) ;; *) set -- "$@" "$word" ;; esac
done
exec {find_program("proot")} "$@"
"""
    )
    (tools / "proot").chmod(0o755)
    env = starter("proot")["env"]
    return {**env, "PATH": f"{tools}:{env['PATH']}"}


def test_of_termux_s_proot_all_that_helps_is_used(
    container: Container, place: Path, termux_proot: dict[str, str]
) -> None:
    done = container.run("proot", "sh", "-c", "exit 4", env=termux_proot)
    assert (done.returncode, done.stdout) == (4, b"")
    assert done.stderr == b""
    words = (place / "words").read_text().splitlines()
    assert [word for word in words if word in ("--link2symlink", "--sysvipc", "--kill-on-exit", "-p", "-L")] == [
        *("--kill-on-exit", "--sysvipc", "-L", "-p")
    ], "hard links work here"
    assert container.run("proot", "true", env={**starter("proot")["env"]}).stderr == b"", "Debian's moves no ports"


def test_ports_that_are_moved_are_told_at_a_terminal(container: Container, termux_proot: dict[str, str]) -> None:
    container.set(image_ports=("80/tcp", "53/udp", "1024/tcp", "odd"), image_entrypoint=("true",))
    leader, follower = os.openpty()
    with os.fdopen(leader, "rb") as terminal:
        done = container.run("proot", env=termux_proot, stderr=follower)
        os.close(follower)
        assert done.returncode == 0
        line = terminal.readline().decode()
    assert line.endswith("network: 80/tcp (outside 2080), 53/udp (outside 2053), 1024/tcp, odd\r\n")


def test_proot_gets_its_variables_from_the_caller(scratch: Container) -> None:
    need("proot")
    env = {**starter("proot")["env"], "PROOT_NO_SECCOMP": "1"}
    assert b"PROOT_NO_SECCOMP=1" in scratch.words("proot", *ENVIRONMENT, env=env)


def test_proot_in_proot_is_refused(container: Container) -> None:
    need("proot")
    done = container.run("", "true", shell=["proot"])
    assert done.returncode == 125
    assert done.stderr.decode().splitlines()[-1] == (
        "start.sh: this is inside of proot already, and proot can't be nested: leave it first (exit)"
    )


def test_a_proot_that_cannot_work_here_is_explained(container: Container) -> None:
    (container.rootfs / "bin/true").unlink()
    (container.rootfs / "bin/true").symlink_to("busybox")
    arch = libseccomp.native_arch()
    call = libseccomp.number("ptrace", arch)
    assert call is not None
    abi = Abi(arch, {"ptrace": call})
    missing = program([Rule(refuse(errno.ENOSYS), ("ptrace",))], [abi])
    done = container.run("proot", "true", preexec_fn=lambda: install(missing))
    assert done.returncode in (1, 126, 127, 255)
    assert done.stderr.decode().splitlines()[-1] == (
        "start.sh: proot says 'Function not implemented' here: try PROOT_NO_SECCOMP=1, in the environment"
    )
    assert container.run("proot", "false").stderr == b""


def test_a_failure_runs_no_other_program_of_the_image(container: Container) -> None:
    (container.rootfs / "bin/true").unlink()
    (container.rootfs / "bin/true").write_text("#!/bin/sh\necho >/tmp/canary\n")
    (container.rootfs / "bin/true").chmod(0o755)
    assert container.run("proot", "false").returncode == 1
    assert not (container.rootfs / "tmp/canary").exists()


def test_termux_s_directories_need_termux(container: Container) -> None:
    done = container.run("proot", "--termux", "true")
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr.startswith(b"start.sh: --termux is for Termux")
