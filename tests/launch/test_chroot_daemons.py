"""Debian's daemons and setuid programs in chroot: what start.sh keeps from root, they don't need."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containers import Container, starter
from tests.support.leftovers import clean_place
from tests.support.tcp import free_port
from tests.support.tools import provision

pytestmark = pytest.mark.slow
PACKAGES = ("dbus", "iputils-ping", "openssh-server", "postgresql", "s6", "sudo")


@pytest.fixture(scope="module")
def container(debian: str) -> Iterator[Container]:
    """A Debian with those packages, installed by apt in chroot."""
    starter("chroot")
    with clean_place() as place:
        provision(debian, place / "debian", status=0)
        found = Container(place / "debian")
        settings = ["--env", "DEBIAN_FRONTEND=noninteractive"]
        for words in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
            done = found.run("chroot", *settings, "apt-get", *words, timeout=400)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        yield found


def output(container: Container, script: str, *options: str) -> str:
    return container.output("chroot", *options, "sh", "-c", script).decode()


def test_dpkg_finds_nothing_wrong(container: Container) -> None:
    assert container.output("chroot", "dpkg", "--audit") == b""


def test_su_and_sudo_change_the_user(container: Container) -> None:
    assert output(container, "su -s /bin/sh nobody -c 'id -un'") == "nobody\n"
    assert output(container, "sudo -u nobody id -un") == "nobody\n"
    sudoers = "echo 'nobody ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/nobody"
    assert output(container, sudoers) == ""
    assert output(container, "sudo id -un", "--user", "nobody") == "root\n"


def test_no_new_privs_keeps_them_from_it(container: Container) -> None:
    done = container.run("chroot", "--no-new-privs", "--user", "nobody", "sudo", "id", "-un")
    assert done.returncode == 1
    assert b"no new privileges" in done.stderr


def test_ping_works_for_users(container: Container) -> None:
    for user in ("root", "nobody"):
        assert "1 received" in output(container, "ping -c 1 127.0.0.1", "--user", user)


def test_sshd_answers(container: Container) -> None:
    port = free_port()
    script = f"""
        to_sshd() {{
            ssh -n -q -p {port} -i /root/key -o StrictHostKeyChecking=no -o ConnectionAttempts=60 root@127.0.0.1 "$@"
        }}
        mkdir -p /run/sshd && ssh-keygen -q -t ed25519 -N '' -f /root/key && mkdir -p -m 700 /root/.ssh &&
        cat /root/key.pub >/root/.ssh/authorized_keys &&
        /usr/sbin/sshd -p {port} -o ListenAddress=127.0.0.1 -o PidFile=/run/sshd.pid -E /dev/null &&
        to_sshd 'id -un; tty -s || echo no tty' &&
        to_sshd -tt tty
    """
    assert output(container, script).replace("\r", "").splitlines() == ["root", "no tty", "/dev/pts/0"]


def test_postgres_answers(container: Container) -> None:
    script = """
        bin=$(echo /usr/lib/postgresql/*/bin) && cd /tmp &&
        su postgres -c "$bin/initdb -A trust -D /tmp/data >/dev/null &&
            $bin/pg_ctl -D /tmp/data -o '-c listen_addresses= -k /tmp' -w -l /tmp/log start >/dev/null &&
            psql -h /tmp -Atc 'select 6 * 7' postgres && $bin/pg_ctl -D /tmp/data stop >/dev/null"
    """
    assert output(container, script) == "42\n"


def test_s6_is_process_1(container: Container) -> None:
    service = container.rootfs / "srv/service/say"
    service.mkdir(parents=True)
    (service / "run").write_text("#!/bin/sh\ncat /proc/1/comm\nexec sleep 1000\n")
    (service / "run").chmod(0o755)
    with container.running("chroot", "s6-svscan", "/srv/service") as process:
        assert process.stdout
        assert process.stdout.readline() == b"s6-svscan\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, 143)


def test_the_root_is_a_mount(container: Container) -> None:
    assert output(container, "findmnt -no TARGET /") == "/\n"
    assert output(container, "df --output=target / | tail -n 1") == "/\n"


def test_the_directory_stays_one(container: Container, tmp_path: Path) -> None:
    """Nothing that was mounted inside is seen here."""
    assert str(container.directory).encode() not in Path("/proc/self/mountinfo").read_bytes()
