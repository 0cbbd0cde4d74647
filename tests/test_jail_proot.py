"""Termux's own proot, built from its source, in the jail: hard links, replacements, and what is broken in it.

All of it is skipped unless PROVISION_TEST_PROOT names such a build.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from provisioner.container.proot_links import find_links
from tests.support.jail import HOME, PREFIX, UID, Jail, provision_in_jail
from tests.support.termux import need_termux_proot

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def phone(lasting_place: Path, debian: str) -> Jail:
    """A jail that ends programs by SIGSYS, with a Debian in $HOME/debian that has git."""
    need_termux_proot()
    jail = Jail(lasting_place, "sigsys")
    provision_in_jail(jail, debian)
    install = "apt-get update >/dev/null && apt-get install --yes --no-install-recommends git perl >/dev/null"
    done = start(jail, install, "--env", "DEBIAN_FRONTEND=noninteractive")
    assert done.returncode == 0, done
    return jail


def start(jail: Jail, script: str, *options: str, directory: str = "debian") -> subprocess.CompletedProcess[str]:
    return jail.run([f"{directory}/start.sh", *options, "sh", "-c", f"set -e; cd /root; {script}"])


def output(jail: Jail, script: str, *options: str, directory: str = "debian") -> str:
    done = start(jail, script, *options, directory=directory)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def test_hard_links_of_files_survive_mv_cp_and_rm(phone: Jail) -> None:
    script = (
        "mkdir d; echo 1 >d/x; ln d/x d/y; ln d/x z; stat -c %h z; mv d e; echo 2 >>e/y; cat e/x z;"
        "cp -a e f; [ f/x -ef f/y ]; cat f/x; rm -rf e; cat z; stat -c %h z; mv z f/x; cat f/x; rm -rf f; ls"
    )
    assert output(phone, script) == "3\n" + "1\n2\n" * 4 + "1\n" + "1\n2\n"
    assert not any((phone.home / "debian/rootfs/.l2s").glob(".l2s.x*")), "nothing is left of them"


def test_a_repository_survives_commits_and_moves(phone: Jail) -> None:
    script = (
        "git config --global user.email a@b; git config --global user.name n; git init -q r; cd r;"
        "for i in 1 2 3 4 5; do echo $i >f; git add f; git commit -qm $i; done; cd ..; mv r s; git -C s fsck;"
        "git -C s gc -q; git -C s fsck; cp -a s t; rm -rf s; git -C t fsck; git -C t log --oneline | wc -l;"
        "git clone -q --no-hardlinks t u; git -C u fsck; git -C u log --oneline | wc -l"
    )
    done = start(phone, script)
    assert (done.returncode, done.stdout) == (0, "5\n5\n"), done


def test_packages_are_installed_and_removed(phone: Jail) -> None:
    assert output(phone, "dpkg --audit; [ -s /var/lib/dpkg/status-old ]") == ""
    done = start(phone, "apt-get install --yes --reinstall tzdata >/dev/null; dpkg --audit; dpkg -r tzdata >/dev/null")
    assert (done.returncode, done.stdout) == (0, "")
    assert find_links(phone.home / "debian").lost_count == 0


def test_tar_of_the_host_and_of_the_guest_hold_everything(phone: Jail) -> None:
    script = "mkdir a; echo 1 >a/x; ln a/x a/y; tar -cf a.tar a; rm -r a; tar -xf a.tar; cat a/x a/y; rm -r a a.tar"
    assert output(phone, script) == "1\n1\n"
    done = phone.run(["tar", "-cf", "/dev/null", "-C", f"{HOME}/debian", "."])
    assert (done.returncode, done.stderr) == (0, ""), "no directory can't be read"


def test_a_directory_that_moves_keeps_them(phone: Jail) -> None:
    output(phone, "echo 1 >x; ln x y")
    (phone.home / "debian").rename(phone.home / "other")
    try:
        assert find_links(phone.home / "other").elsewhere == f"{HOME}/debian/rootfs"
        done = start(phone, "echo 2 >>y; cat x; dpkg --audit; rm x; stat -c %h y", directory="other")
        assert (done.returncode, done.stdout) == (0, "1\n2\n1\n")
        assert (
            done.stderr
            == f"start.sh: DIR was moved from {HOME}/debian: changing the hard links that were made inside\n"
        )
        assert output(phone, "cat y", directory="other") == "1\n2\n"
    finally:
        (phone.home / "other").rename(phone.home / "debian")
    assert start(phone, "cat y; rm y").stdout == "1\n2\n"


def test_termux_s_own_tools_run_with_its_files(phone: Jail) -> None:
    (phone.prefix / "bin/mine").write_text(f"#!{PREFIX}/bin/sh\necho of Termux\n")
    (phone.prefix / "bin/mine").chmod(0o755)
    done = start(phone, f"{PREFIX}/bin/mine", "--termux")
    assert (done.returncode, done.stdout) == (0, "of Termux\n")


@pytest.mark.parametrize("guest", ["exit 255", "kill -SEGV $$", "kill -TERM $$", "kill -SYS $$", "exit 1"])
def test_a_failure_of_the_guest_is_not_blamed_on_seccomp(phone: Jail, guest: str) -> None:
    done = phone.run(["env", "-u", "PROOT_NO_SECCOMP", "debian/start.sh", "sh", "-c", guest])
    assert done.returncode != 0
    assert "PROOT_NO_SECCOMP" not in done.stderr


# What is broken in it, and named in docs/termux-proot.md. A test that fails here is good news: mend the page.


def test_a_writer_goes_on_when_nobody_reads(phone: Jail) -> None:
    assert output(phone, "timeout 3 sh -c 'yes | head -n 1' || echo $?") == "y\n124\n"


def test_a_new_owner_is_not_seen(phone: Jail) -> None:
    assert output(phone, "touch o; chown 33:33 o; stat -c %u:%g o; rm o") == "0:0\n"


def test_a_hard_link_has_the_user_s_own_number_in_every_second_process(phone: Jail) -> None:
    """proot turns the order of its parts around for each child; git then says: hardlink different from source."""
    show = "perl -e 'print((lstat q(x))[4], q( ))'"
    seen = output(phone, f"echo 1 >x; ln x y; {show}; ({show}; :); (({show}; :); :); rm x y").split()
    assert sorted(set(seen)) == ["0", str(UID)]
