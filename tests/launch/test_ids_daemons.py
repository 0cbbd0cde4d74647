"""Debian's daemons and setuid programs with many ids in a user namespace: they work as in docker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.containers import Container, starter
from tests.support.leftovers import clean_place
from tests.support.subordinate import FIRST, with_subordinate_ids
from tests.support.tcp import free_port
from tests.support.tools import as_user, own, provision

pytestmark = pytest.mark.slow
PACKAGES = ("openssh-server", "postgresql", "sudo", "gosu")


@pytest.fixture(scope="module")
def options() -> Iterator[dict[str, Any]]:
    starter("userns")
    with clean_place() as place:
        yield with_subordinate_ids(place)


@pytest.fixture(scope="module")
def container(debian: str, options: dict[str, Any]) -> Iterator[Container]:
    """A Debian with those packages, installed by apt."""
    with clean_place() as place:
        own(place)
        provision("--ids", "many", debian, place / "debian", **as_user(), status=0)
        found = Container(place / "debian")
        assert (found.directory / ".provision/ids").read_text() == "many\n"
        settings = ["--env", "DEBIAN_FRONTEND=noninteractive"]
        for words in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
            done = found.run("", *settings, "apt-get", *words, **{**options, "timeout": 400})
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        yield found


def output(container: Container, options: dict[str, Any], script: str, *words: str) -> str:
    return container.output("", *words, "sh", "-c", script, **options).decode()


def test_dpkg_finds_nothing_wrong(container: Container, options: dict[str, Any]) -> None:
    assert container.output("", "dpkg", "--audit", **options) == b""


def test_the_image_s_files_have_its_owners(container: Container, options: dict[str, Any]) -> None:
    assert output(container, options, "stat -c '%U:%G %a' /etc/shadow /usr/bin/passwd").splitlines() == [
        "root:shadow 640",
        "root:root 4755",
    ]
    assert os.lstat(container.rootfs / "etc/shadow").st_gid == FIRST + 41


def test_su_and_sudo_change_the_user(container: Container, options: dict[str, Any]) -> None:
    assert output(container, options, "su -s /bin/sh nobody -c 'id -un'") == "nobody\n"
    assert output(container, options, "sudo -u nobody id -un") == "nobody\n"
    assert output(container, options, "gosu postgres id -un") == "postgres\n"
    assert output(container, options, "echo 'nobody ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/nobody") == ""
    assert output(container, options, "sudo id -un", "--user", "nobody") == "root\n"


def test_sshd_answers_on_a_terminal_too(container: Container, options: dict[str, Any]) -> None:
    port = free_port()
    script = f"""
        to_sshd() {{
            ssh -n -q -p {port} -i /root/key -o StrictHostKeyChecking=no -o ConnectionAttempts=60 root@127.0.0.1 "$@"
        }}
        mkdir -p /run/sshd && rm -f /root/key && ssh-keygen -q -t ed25519 -N '' -f /root/key &&
        mkdir -p -m 700 /root/.ssh && cp /root/key.pub /root/.ssh/authorized_keys &&
        /usr/sbin/sshd -p {port} -o ListenAddress=127.0.0.1 -E /dev/null &&
        to_sshd 'id -un; tty -s || echo no tty' &&
        to_sshd -tt tty
    """
    assert output(container, options, script).replace("\r", "").splitlines() == ["root", "no tty", "/dev/pts/0"]


def test_postgres_answers_in_a_cluster_of_its_own(container: Container, options: dict[str, Any]) -> None:
    port = free_port()
    script = f"""
        version=$(ls /etc/postgresql) && pg_createcluster -p {port} "$version" other >/dev/null &&
        pg_ctlcluster "$version" other start && su postgres -c "psql -p {port} -Atc 'select 6 * 7'" &&
        stat -c %U "/var/lib/postgresql/$version/other" && pg_dropcluster --stop "$version" other
    """
    assert output(container, options, script) == "42\npostgres\n"


def test_an_entrypoint_that_drops_root_by_gosu_goes_on(container: Container, options: dict[str, Any]) -> None:
    entrypoint = container.rootfs / "usr/local/bin/entrypoint.sh"
    output(container, options, "rm -f /usr/local/bin/entrypoint.sh")
    text = '#!/bin/sh\n[ "$(id -u)" != 0 ] || exec gosu postgres "$0" "$@"\nexec "$@"\n'
    output(
        container,
        options,
        f"printf '%s' {shell_word(text)} >/usr/local/bin/entrypoint.sh; chmod 755 {inside(entrypoint)}",
    )
    assert output(container, options, "id -un", "--entrypoint", inside(entrypoint), "--") == "postgres\n"


def shell_word(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def inside(path: Path) -> str:
    return f"/usr/local/bin/{path.name}"


def test_provision_does_not_replace_what_it_could_not_remove(
    container: Container, options: dict[str, Any], debian: str
) -> None:
    done = provision("--force", debian, container.directory, **as_user())
    assert done.returncode != 0
    assert f"provision remove {container.directory}" in done.stderr
    assert container.output("", "true", **options) == b""
