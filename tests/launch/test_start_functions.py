"""Functions of start.sh, each called by a shell without a container."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from provisioner.launch.script import options_reader
from tests.support.containers import SHELLS
from tests.support.tools import find_program, need, need_root, own, user_id


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> list[str]:
    need(SHELLS[request.param][0])
    return SHELLS[request.param]


def output_of(shell: list[str], place: Path, commands: str) -> list[str]:
    """Define the functions of start.sh, run the commands, and return the lines that they print."""
    script = place / "commands.sh"
    script.write_bytes(options_reader() + commands.encode())
    done = subprocess.run([*shell, script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_signal_waits_while_another_one_is_forwarded(shell: list[str], place: Path) -> None:
    commands = """
        signal_guest() {
            echo "begin $1"
            case $1 in
                HUP) kill -s USR1 $$ && kill -s TERM $$ ;;
                USR1) kill -s USR2 $$ ;;
            esac
            echo "end $1"
        }
        child=$$
        begin_supervision
        kill -s HUP $$
        true
    """
    expected = [f"{moment} {name}" for name in ("HUP", "USR1", "TERM", "USR2") for moment in ("begin", "end")]
    assert output_of(shell, place, commands) == expected


def test_only_a_child_of_the_parent_is_signaled(shell: list[str], place: Path) -> None:
    """The number of a child that has ended may be that of another process."""
    commands = """
        cd "$place"
        sleep 60 & child=$!
        (until [ -e go ]; do sleep 0.05; done; echo "not signaled") &
        signal_process KILL $! $child
        signal_process KILL $child $$ || true
        wait $child
        echo $?
        : > go
        wait
    """
    assert output_of(shell, place, f"place='{place}'\n{commands}") == ["137", "not signaled"]


def test_a_child_that_ends_meanwhile_is_not_signaled(shell: list[str], place: Path) -> None:
    commands = """
        sleep 60 & child=$!
        kill() {
            echo kill "$@"
        }
        read_stat() {
            stat_parent=$$
            command kill -s KILL $child
            wait $child
            echo $?
        }
        signal_process TERM $child $$ || true
    """
    assert output_of(shell, place, commands) == ["137"]


def test_an_invisible_child_is_signaled(shell: list[str], place: Path) -> None:
    """A user who mounts /proc with hidepid doesn't see processes that can't be traced, such as unreadable programs."""
    need_root()
    need("unshare", "setpriv")
    program = place / "sleep"
    program.write_bytes(Path(find_program("sleep") or "").resolve().read_bytes())
    program.chmod(0o711)
    own(place)
    mount = 'mount -t proc -o hidepid=2 proc /proc && exec setpriv --reuid "$0" --regid "$0" --clear-groups "$@"'
    commands = f"""
        {program} 60 & child=$!
        while [ -e /proc/$child ]; do sleep 0.01; done
        signal_process TERM $child $$
        wait $child
        echo $?
    """
    words = ["unshare", "-m", "-p", "-f", "sh", "-c", mount, str(user_id()), *shell]
    assert output_of(words, place, commands) == ["143"]


def test_a_command_that_its_reporter_is_about_to_start_is_signaled(shell: list[str], place: Path) -> None:
    """The reporter keeps a signal from it from then on."""
    commands = """
        cd "$place"
        sh -c 'sh -c "trap : TERM; : > ready; until [ -e go ]; do :; done; sleep 60; echo \\$?"; true' & child=$!
        until [ -e ready ]; do :; done
        signal_opened() {
            if [ "$3" = $child ]; then
                kill -s "$1" "$2"
                : > go
            else
                # Until then it may be a copy of the reporter, which has the reporter's handlers.
                until read_file "/proc/$2/comm" && [ "$text" = sleep ]; do :; done
                kill -s "$1" "$2"
            fi
        }
        report=yes
        signal_guest_of_proot TERM
        wait $child
    """
    assert output_of(shell, place, f"place='{place}'\n{commands}") == ["143"]


def test_a_handler_waits_for_no_child_of_a_process_that_has_ended(shell: list[str], place: Path) -> None:
    """In a handler, `return` without a number means the status before the handler, in bash and mksh."""
    commands = """
        handle() {
            if wait_for_child "$ended" 10; then echo "found '$first_child'"; else echo none; fi
        }
        sh -c : & ended=$!
        wait $ended
        trap handle TERM
        kill -s TERM $$
        true
    """
    assert output_of(shell, place, commands) == ["none"]


def test_exec_says_that_its_session_has_ended(shell: list[str], place: Path) -> None:
    """The session may end after it was found."""
    commands = """
        joined=none
        (open_session) 2>&1
        echo $?
    """
    assert output_of(shell, place, commands) == ["start.sh: session none has ended", "125"]


def test_a_signal_for_all_processes_does_not_end_reading(shell: list[str], place: Path) -> None:
    """In shells that read by cat after the first signal."""
    commands = """
        cat() {
            sh -c 'for name in HUP INT QUIT USR1 USR2 TERM; do kill -s $name $$; done; exec cat'
        }
        last_signal=1
        read_file /proc/sys/kernel/ostype
        echo "$text"
    """
    assert output_of(shell, place, commands) == ["Linux"]


def test_what_a_guest_makes_while_the_guests_of_a_killed_proot_are_listed_ends_too(
    shell: list[str], place: Path
) -> None:
    commands = """
        cd "$place"
        child=$$ last_signal=''
        sleep 30 & first=$!
        sleep 30 & second=$!
        ls() {
            echo >> rounds
            case $(wc -l < rounds) in
                *1) pid=$first ;;
                *2) pid=$second ;;
                *) return ;;
            esac
            echo "lrwxrwxrwx 1 root root 0 Jan  1 00:00 /proc/$pid/exe -> /tmp/prooted-$child-x"
        }
        end_orphans
        for pid in $first $second; do
            wait $pid
            echo $?
        done
    """
    assert output_of(shell, place, f"place='{place}'\n{commands}") == ["137", "137"]


def test_stop_waits_for_what_ends_late_by_sigkill(shell: list[str], place: Path) -> None:
    """Here two seconds later, by a clock that goes on whenever it is looked at."""
    commands = """
        find_sessions() { sessions=$alive; }
        find_unrecorded() { unrecorded=''; }
        find_child() { false; }
        find_descendants() { descendants=''; }
        read_session() { session_runtime=bare; }
        find_time() {
            now=$((now + 1))
            [ -z "$killed" ] || [ $((now - killed)) -lt 20 ] || alive=''
        }
        sleep() { true; }
        kill() {
            [ "$2" != KILL ] || killed=$now
        }
        now=0 killed='' alive=' 7' image_stop_signal='' stop_timeout=1
        stop_sessions
        echo $killed $alive
    """
    assert output_of(shell, place, commands)[-1].isdigit()


def test_no_signal_is_forwarded_after_the_guest_has_ended(shell: list[str], place: Path) -> None:
    """Its handler would use the same variables as the function that it interrupts."""
    commands = """
        signal_guest() {
            echo "forwarded $1"
        }
        read_report() {
            kill -s HUP $$
            true
        }
        finish() {
            echo "finished $1"
            exit
        }
        child=$$ status=3
        begin_supervision
        end_supervision
    """
    assert output_of(shell, place, commands) == ["finished 3"]
