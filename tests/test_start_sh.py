"""start.sh run for real: in proot and user namespaces by an unprivileged user, in chroot by root, by several shells."""

from __future__ import annotations

import dataclasses
import errno
import os
import pty
import select
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from provisioner.fixups import hosts, resolv_conf
from provisioner.launcher import LaunchSettings, launcher
from provisioner.platforms import host_platform
from provisioner.seccomp import Abi, Rule, program, refuse, root_emulation

from . import libseccomp
from .test_launcher import NAMES, SHELLS, TEXT
from .test_seccomp import install
from .tools import (
    as_user,
    clean_environment,
    find_program,
    mounts_below,
    need,
    need_root,
    run,
    tree_of,
    unavailable,
    user_id,
)

RUNTIMES = ["proot", "userns", "chroot"]
# What the guest is told, word by word, and what it is given as environment.
SAY = ("sh", "-c", 'for word; do printf "%s\\0" "$word"; done', "say")
ENVIRONMENT = ("cat", "/proc/self/environ")

APPLETS = ("ash", "cat", "false", "head", "id", "mkdir", "printf", "pwd", "sh", "sleep", "touch", "true", "tty", "wc")

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
joe:x:1000:1001:Joe:/home/joe:/bin/ash
web:x:33:34::/srv:/bin/false
last:x:77:78::/home/last:"""
GROUP = """\
root:x:0:
adm:x:4:root
audio:x:29:web,joe
joe:x:1001:
video:x:44:joe,other
joes:x:45:joey"""

SETTINGS = LaunchSettings(
    provision_version="0.1.0",
    image_reference="docker.io/library/busybox:1",
    image_platform="",
    image_entrypoint=(),
    image_command=(),
    image_env=("PATH=/bin",),
    image_user="",
    image_workdir="",
    image_stop_signal="",
    image_ports=(),
    default_runtime="auto",
    default_dns=(),
    default_hostname="",
    default_binds=(),
    default_env=(),
)


# A small container, and ways to start it


@dataclass(frozen=True)
class Container:
    """A provisioned directory."""

    directory: Path

    @property
    def script(self) -> Path:
        return self.directory / "start.sh"

    @property
    def rootfs(self) -> Path:
        return self.directory / "rootfs"

    def set(self, **changed: Any) -> Container:
        """Write start.sh anew with other settings."""
        self.script.write_bytes(launcher(dataclasses.replace(SETTINGS, **changed)))
        self.script.chmod(0o755)
        return self

    def run(
        self, runtime: str, *args: str | bytes | Path, shell: Iterable[str] = (), by: str = "", **options: Any
    ) -> subprocess.CompletedProcess[bytes]:
        """Start it to its end: in a runtime, or in what it chooses where that is empty and started as for `by`."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 60}
        command = [*shell, self.script, *choosing(runtime), *args]
        return subprocess.run(command, check=False, **{**pipes, **starter(by or runtime), **options})

    def output(self, runtime: str, *args: str | bytes | Path, **options: Any) -> bytes:
        """The standard output of a start that has to succeed without a word on standard error."""
        done = self.run(runtime, *args, **options)
        assert (done.returncode, done.stderr) == (0, b""), done
        return done.stdout

    def words(self, runtime: str, *args: str | bytes | Path, **options: Any) -> list[bytes]:
        """What a guest like SAY or ENVIRONMENT prints."""
        return self.output(runtime, *args, **options).split(b"\0")[:-1]

    @contextmanager
    def running(
        self, runtime: str, *args: str, shell: Iterable[str] = (), **options: Any
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Start it without a terminal."""
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "start_new_session": True}
        command: list[str | Path] = [*shell, self.script, *choosing(runtime), *args]
        given = {"preexec_fn": heed_signals, **pipes, **starter(runtime), **options}
        with subprocess.Popen(command, **given) as process:
            try:
                yield process
            except BaseException:  # a test that fails must not wait for the guest
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise


def heed_signals() -> None:
    """Undo what the tests may be started with, under nohup or in a script's background."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def choosing(runtime: str) -> list[str]:
    return ["--runtime", runtime] if runtime else []


def starter(runtime: str) -> dict[str, Any]:
    """Options for subprocess: who starts a runtime, from where. The test is skipped where that can't be."""
    if runtime == "chroot":
        need_root()
        need("unshare", "mount")
        return {"env": clean_environment(), "cwd": "/"}
    user = {"cwd": "/", **as_user()}
    if runtime == "userns":
        need("unshare")
        if subprocess.run(["unshare", "-U", "-r", "true"], check=False, **user).returncode:
            unavailable("user namespaces don't work here")
    elif runtime == "proot":
        need("proot")
    return user


def make_container(directory: Path, **changed: Any) -> Container:
    """A container of the unprivileged user that holds nothing but busybox."""
    made = Container(directory)
    for name in ("bin", "usr/bin", "etc", "tmp", "root", "home/joe", "proc"):
        (made.rootfs / name).mkdir(parents=True)
    (directory / ".provision").mkdir()
    (directory / ".provision/shm").mkdir()
    (directory / ".provision/shm").chmod(0o1777)
    (directory / ".provision/seccomp.bpf").write_bytes(root_emulation(host_platform()))
    shutil.copy(static_busybox(), made.rootfs / "bin/busybox")
    for applet in APPLETS:
        (made.rootfs / "bin" / applet).symlink_to("busybox")
    (made.rootfs / "usr/bin/env").symlink_to("/bin/busybox")
    (made.rootfs / "etc/passwd").write_text(PASSWD)
    (made.rootfs / "etc/group").write_text(GROUP)
    (made.rootfs / "etc/resolv.conf").write_text("nameserver 9.9.9.9\n")
    return hand_over(made.set(**changed))


def static_busybox() -> Path:
    need("busybox")
    path = Path(find_program("busybox") or "")
    if b"/ld-" in path.read_bytes()[:4096]:
        unavailable("busybox is not the static one: apt-get install busybox-static")
    return path


def hand_over(made: Container) -> Container:
    """Make all of it the unprivileged user's."""
    if os.geteuid() == 0:
        for top, directories, files in os.walk(os.fsencode(made.directory)):
            for name in [b".", *directories, *files]:
                os.chown(os.path.join(top, name), user_id(), user_id(), follow_symlinks=False)
    return made


def make_scratch(directory: Path, **changed: Any) -> Container:
    """A container without env, shell, passwd or any directory but those of three programs."""
    made = make_container(directory, **{"image_env": ("PATH=/sbin:/app",), **changed})
    shutil.rmtree(made.rootfs)
    (made.rootfs / "app").mkdir(parents=True)
    for applet in ("cat", "id", "pwd"):
        shutil.copy(static_busybox(), made.rootfs / "app" / applet)
    (made.rootfs / "app/data").write_text("no program")
    return hand_over(made)


@pytest.fixture
def container(place: Path) -> Container:
    return make_container(place / "container")


@pytest.fixture
def scratch(place: Path) -> Container:
    return make_scratch(place / "scratch")


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# The interface


@pytest.mark.parametrize("shell", SHELLS)
def test_help_fits_a_phone(container: Container, shell: str) -> None:
    need(SHELLS[shell][0])
    lines = container.output("", "--help", shell=SHELLS[shell]).decode().splitlines()
    assert max(map(len, lines)) <= 40
    text = "\n".join(lines)
    for option in (
        "shell",
        "entrypoint",
        "user",
        "workdir",
        "env",
        "bind",
        "dns",
        "root",
        "runtime",
        "print",
        "dev",
        "privileged",
        "no-namespace",
        "termux",
        "help",
    ):
        assert f"--{option}" in text


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["--nonsense"], "unknown option --nonsense"),
        (["-x"], "unknown option -x"),
        (["--shell=yes"], "--shell takes no value"),
        (["--print", "--user"], "--user needs a value"),
        (["--env", "NAME"], "--env needs NAME=VALUE"),
        (["--env", "=x"], "--env needs NAME=VALUE"),
        (["--dns", "1.1.1.1; rm"], "--dns needs an IP address"),
        (["--bind", "/no/such:/x"], "--bind: there is no /no/such"),
        (["--workdir", "here"], "--workdir needs a path"),
        (["--dev=all"], "--dev can be host"),
        (["--runtime", "docker"], "unknown runtime docker"),
        (["--user", "nobody"], "no user nobody in the image"),
        (["--user", "joe:staff"], "no group staff in the image"),
        (["--inside", "chroot"], "--inside is for start.sh itself"),
        (["--user", "a\x1b[31mb\nc"], "no user a?[31mb?c in the image"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(container: Container, args: list[str], complaint: str) -> None:
    done = container.run("", *args)
    assert done.returncode == 125
    assert done.stdout == b""
    assert done.stderr.decode().startswith(f"start.sh: {complaint}")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("entrypoint", "command", "args", "said"),
    [
        ((), (*SAY, "cmd"), [], [b"cmd"]),
        ((), ("false",), [*SAY, "typed"], [b"typed"]),
        (SAY, ("cmd 1", ""), [], [b"cmd 1", b""]),
        (SAY, ("cmd",), ["typed", "--user", "x"], [b"typed", b"--user", b"x"]),
        (SAY, ("cmd",), ["--", "--typed"], [b"--typed"]),
        (SAY, (), [], []),
        (("false",), ("false",), ["--entrypoint", "sh", "--", *SAY[1:], "typed"], [b"typed"]),
        (("false",), ("false",), ["--entrypoint=", *SAY, "typed"], [b"typed"]),
        (("false",), ("-c", "false"), ["--entrypoint", "true"], []),  # the image's command belongs to its entrypoint
        (("false",), ("false",), ["--entrypoint", ""], []),
        ((), (), [], []),  # /bin/sh
    ],
)
def test_words_are_joined_as_docker_run_does(
    container: Container, entrypoint: tuple[str, ...], command: tuple[str, ...], args: list[str], said: list[bytes]
) -> None:
    container.set(image_entrypoint=entrypoint, image_command=command)
    assert container.words("proot", *args) == said


@pytest.mark.parametrize(
    ("user", "shell"),
    [("root", "/bin/sh"), ("joe", "/bin/ash"), ("web", "/bin/sh"), ("last", "/bin/sh"), ("5", "/bin/sh")],
)
def test_login_shell_passes_the_entrypoint(container: Container, user: str, shell: str) -> None:
    container.set(image_entrypoint=("false",))
    (container.rootfs / "etc/profile").write_text("PROFILE=read")
    told = container.words("proot", "--user", user, "--shell", "--", "-c", 'printf "%s\\0" $PROFILE $SHELL')
    assert told == [b"read", shell.encode()]


def test_options_are_taken_with_an_equals_sign_too(container: Container) -> None:
    assert container.output(
        "proot", "--user=joe", "--workdir=/home/joe", "--env=A=b=c", "sh", "-c", "pwd; echo $A"
    ) == (b"/home/joe\nb=c\n")


# What the guest sees


def test_arguments_keep_every_byte(container: Container, runtime: str) -> None:
    every = bytes(range(1, 256))
    words = [every, b"", b"-", b"--", b"a b", b"'", b"$(touch /tmp/canary)\n", b"\n\n"]
    assert container.words(runtime, "--", *SAY, *words) == words


def test_two_thousand_arguments(container: Container, runtime: str) -> None:
    words = [f"word {number}".encode() for number in range(2000)]
    assert container.words(runtime, *SAY, *words) == words


def test_environment_is_the_images_and_what_is_passed_on_purpose(container: Container, runtime: str) -> None:
    container.set(
        image_env=("PATH=/bin", "A=image", "B=image", "C=image", "LANG=image", "-odd.name=x", "LINES=a\nb\n", "LD_X=1"),
        default_env=("B=profile", "C=profile"),
    )
    env = {
        **starter(runtime)["env"],
        "TERM": "dumb",
        "COLORTERM": "truecolor",
        "LANG": "host",
        "SECRET": "x",
        "LC_ALL": "C",
    }
    found = container.words(runtime, "--env", "C=typed", "--env", "D= '\n", *ENVIRONMENT, env=env)
    image = [b"PATH=/bin", b"A=image", b"LANG=image", b"-odd.name=x", b"LINES=a\nb\n", b"LD_X=1"]
    passed = [b"B=profile", b"C=typed", b"D= '\n", b"TERM=dumb", b"COLORTERM=truecolor"]
    assert sorted(found) == sorted([*image, *passed, b"HOME=/root", b"USER=root", b"SHELL=/bin/sh"])


def test_what_the_starter_preloads_is_dropped(container: Container, runtime: str) -> None:
    env = {**starter(runtime)["env"], "LD_PRELOAD": "/no/such/library.so"}
    done = container.run(runtime, *ENVIRONMENT, env=env)
    assert b"LD_PRELOAD" not in done.stdout
    # The loader of the shell that runs the script complains; none of those that it starts does.
    assert done.stderr.count(b"LD_PRELOAD") == 1


def test_umask_is_the_usual_one(container: Container, runtime: str) -> None:
    assert container.output(runtime, "sh", "-c", "umask", umask=0o077) == b"0022\n"


def test_an_image_without_path_gets_the_usual_one(container: Container, runtime: str) -> None:
    container.set(image_env=())
    path = b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert path in container.words(runtime, *ENVIRONMENT)


@pytest.mark.parametrize("link", ["/bin/busybox", "../../bin/busybox", "../../../../bin/busybox", "/etc/alias"])
def test_env_is_found_through_links(container: Container, link: str) -> None:
    (container.rootfs / "etc/alias").symlink_to("../bin/./busybox")
    (container.rootfs / "usr/bin/env").unlink()
    (container.rootfs / "usr/bin/env").symlink_to(link)
    shown = container.output("proot", "--print", "true").decode()
    assert "/usr/bin/env -i -- " in shown
    assert b"A=b" in container.words("proot", "--env", "A=b", *ENVIRONMENT)


def test_a_command_with_an_equals_sign_is_no_variable(container: Container, runtime: str) -> None:
    (container.rootfs / "bin/a=b").write_text("#!/bin/sh\necho ran")
    (container.rootfs / "bin/a=b").chmod(0o755)
    assert container.output(runtime, "a=b") == b"ran\n"


@pytest.mark.parametrize(
    ("user", "ids", "groups", "home"),
    [
        ("", "0:0", [4], "/root"),
        ("joe", "1000:1001", [29, 44], "/home/joe"),
        ("1000", "1000:1001", [29, 44], "/home/joe"),
        ("joe:audio", "1000:29", [], "/home/joe"),
        ("joe:7", "1000:7", [], "/home/joe"),
        ("1000:root", "1000:0", [], "/home/joe"),
        ("last", "77:78", [], "/home/last"),
        ("4321", "4321:0", [], "/"),
        ("4321:4322", "4321:4322", [], "/"),
    ],
)
@pytest.mark.parametrize("given", ["image", "option"])
def test_user_is_found_in_the_rootfs(
    container: Container, runtime: str, user: str, ids: str, groups: list[int], home: str, given: str
) -> None:
    options = ["--user", user] if given == "option" else []
    container.set(image_user=user if given == "image" else "33")
    found_home, uid, gid, *others = container.output(
        runtime, *options, "--", "sh", "-c", "echo $HOME; id -u; id -g; id -G"
    ).split()
    assert (found_home.decode(), f"{uid.decode()}:{gid.decode()}") == (home, ids)
    if runtime == "chroot":
        assert sorted({int(group) for group in others} - {int(gid)}) == groups


def test_root_option_passes_the_images_user(container: Container, runtime: str) -> None:
    container.set(image_user="joe")
    assert container.output(runtime, "--root", "sh", "-c", "id -u; echo $HOME") == b"0\n/root\n"


@pytest.mark.parametrize("directory", ["/home/joe", "/new/deep one", "/etc/link/x", "/up/../../.."])
@pytest.mark.parametrize("given", ["image", "option"])
def test_working_directory_is_made_inside_the_rootfs(
    container: Container, place: Path, runtime: str, directory: str, given: str
) -> None:
    outside = place / "outside"
    outside.mkdir(mode=0o777)
    outside.chmod(0o777)
    (container.rootfs / "etc/link").symlink_to("../../../outside")  # seen from the guest, /outside
    (container.rootfs / "up").symlink_to("../../../../..")
    options = ["--workdir", directory] if given == "option" else []
    container.set(image_workdir=directory if given == "image" else "/tmp")
    real = {"/etc/link/x": "/outside/x", "/up/../../..": "/"}.get(directory, directory)
    assert container.output(runtime, *options, "pwd").decode() == f"{real}\n"
    assert list(outside.iterdir()) == []


def test_devices_and_kernel_file_systems_are_there(container: Container, runtime: str) -> None:
    guest = """
        for device in null zero full random urandom tty; do [ -c /dev/$device ] || echo no $device; done
        [ -e /dev/ptmx ] && [ -d /dev/pts ] && [ -d /sys/kernel ] && [ -e /dev/stdout ] && cat </dev/stdin >/dev/null
        echo y >/dev/shm/$$ && cat /dev/shm/$$ && busybox rm /dev/shm/$$ && head -c 3 /dev/zero | wc -c
        cat /proc/$$/comm
    """
    assert container.output(runtime, "sh", "-c", guest) == b"y\n3\nsh\n"


def test_name_servers_of_one_run(container: Container, place: Path, runtime: str) -> None:
    before = tree_of(container.rootfs / "etc")
    (place / "tmp").mkdir(mode=0o777)
    (place / "tmp").chmod(0o777)
    env = {**starter(runtime)["env"], "TMPDIR": str(place / "tmp")}
    told = container.output(runtime, "--dns", "192.0.2.1", "--dns", "2001:db8::1", "cat", "/etc/resolv.conf", env=env)
    assert told == b"nameserver 192.0.2.1\nnameserver 2001:db8::1\n"
    assert tree_of(container.rootfs / "etc") == before
    assert list((place / "tmp").iterdir()) == []


# proot


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
    container.set(image_ports=("80/tcp", "53/udp", "1024/tcp", "8080/tcp", "odd"))
    done = container.run("proot", "sh", "-c", "exit 4", env=termux_proot)
    assert (done.returncode, done.stdout) == (4, b"")
    assert done.stderr.decode().splitlines() == [
        "start.sh: port 80/tcp is at 2080 from outside",
        "start.sh: port 53/udp is at 2053 from outside",
    ]
    words = (place / "words").read_text().splitlines()
    assert [word for word in words if word in ("--link2symlink", "--sysvipc", "--kill-on-exit", "-p", "-L")] == [
        *("--kill-on-exit", "--sysvipc", "-L", "-p")
    ], "hard links work here"
    assert container.run("proot", "true", env={**starter("proot")["env"]}).stderr == b"", "Debian's moves no ports"


def test_shared_memory_is_the_container_s_own(container: Container, runtime: str) -> None:
    name = f"shared-{os.getpid()}"
    told = container.output(runtime, "sh", "-c", f"echo y >/dev/shm/{name}; cat /dev/shm/{name}")
    assert told == b"y\n"
    assert not Path("/dev/shm", name).exists()


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


def test_termux_s_directories_need_termux(container: Container) -> None:
    done = container.run("proot", "--termux", "true")
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr.startswith(b"start.sh: --termux is for Termux")


# What depends on the machine and its network


def network_files(host_resolv_conf: str = "nameserver 192.0.2.7\n") -> dict[str, str]:
    """What the three files should hold on this machine, by the code that writes them first."""
    name = socket.gethostname()
    return {"resolv.conf": host_resolv_conf, "hosts": hosts(name), "hostname": f"{name}\n"}


def pretend_made(container: Container, **content: str) -> Container:
    """The container as it was made on another machine, in another network."""
    (container.directory / ".provision/made").mkdir()
    for name in ("resolv.conf", "hosts", "hostname"):
        for directory in (container.directory / ".provision/made", container.rootfs / "etc"):
            (directory / name).write_text(content.get(name, f"{name} of yesterday\n"))
    return hand_over(container)


def shown(container: Container, runtime: str, *options: str, **more: Any) -> dict[str, str]:
    """The three files as the guest sees them."""
    guest = 'for name in resolv.conf hosts hostname; do printf "%s\\0" "$(cat /etc/$name; echo .)"; done'
    told = [word.decode().removesuffix(".") for word in container.words(runtime, *options, "sh", "-c", guest, **more)]
    return dict(zip(("resolv.conf", "hosts", "hostname"), told, strict=True))


def at_another_place(container: Container, resolv_conf: Path) -> None:
    """Let start.sh take another file for the host's /etc/resolv.conf."""
    text = container.script.read_bytes()
    assert text.count(b"in /etc/resolv.conf $") == 1
    container.script.write_bytes(
        text.replace(b"in /etc/resolv.conf $", b"in " + shlex.quote(str(resolv_conf)).encode() + b" $")
    )


def test_files_of_this_machine_follow_it_to_another_network(container: Container, place: Path, runtime: str) -> None:
    pretend_made(container)
    at_another_place(container, place / "host")
    for server in ("192.0.2.7", "192.0.2.8"):
        (place / "host").write_text(f"# a note\nnameserver  {server}\nsortlist x\nnameserver\nsearch a  b")
        expected = network_files(resolv_conf((), [place / "host"]))
        assert expected["resolv.conf"] == f"nameserver {server}\nsearch a b\n"
        assert shown(container, runtime) == expected
    made = {path.name: path.read_text() for path in (container.directory / ".provision/made").iterdir()}
    assert made == expected


@pytest.mark.parametrize("shell", SHELLS)
def test_what_has_not_changed_is_not_written(container: Container, place: Path, shell: str) -> None:
    need(SHELLS[shell][0])
    (place / "host").write_text("nameserver 192.0.2.7\n")
    pretend_made(container, **network_files())
    at_another_place(container, place / "host")
    parts = (container.rootfs / "etc", container.directory / ".provision/made")
    before = [tree_of(part) for part in parts]
    assert shown(container, "proot", shell=SHELLS[shell]) == network_files()
    assert [tree_of(part) for part in parts] == before


def test_what_somebody_has_edited_stays(container: Container, runtime: str) -> None:
    pretend_made(container)
    mine = {"resolv.conf": "nameserver 192.0.2.99\n", "hosts": "", "hostname": "hostname of yesterday\n\n"}
    for name, content in mine.items():
        (container.rootfs / "etc" / name).write_text(content)
    assert shown(container, runtime) == mine
    (container.rootfs / "etc/hosts").unlink()
    (container.rootfs / "etc/hosts").symlink_to("passwd")
    assert shown(container, runtime)["hosts"] == PASSWD


def test_a_link_out_of_the_rootfs_is_not_written_through(container: Container, place: Path, runtime: str) -> None:
    pretend_made(container)
    (place / "outside").write_text("hosts of yesterday\n")
    (place / "outside").chmod(0o666)
    (container.rootfs / "etc/hosts").unlink()
    (container.rootfs / "etc/hosts").symlink_to(place / "outside")
    container.run(runtime, "true")
    assert (place / "outside").read_text() == "hosts of yesterday\n"


def test_servers_and_a_name_of_the_settings_count(container: Container, runtime: str) -> None:
    pretend_made(container.set(default_dns=("192.0.2.1", "2001:db8::1"), default_hostname="box"))
    assert shown(container, runtime) == {
        "resolv.conf": "nameserver 192.0.2.1\nnameserver 2001:db8::1\n",
        "hosts": hosts("box"),
        "hostname": "box\n",
    }


def test_a_machine_that_names_no_server_gets_public_ones(container: Container, place: Path) -> None:
    pretend_made(container)
    at_another_place(container, place / "missing")
    (place / "etc").mkdir()
    (place / "etc/resolv.conf").write_text("search example\n")
    env = {**starter("proot")["env"], "PREFIX": str(place)}
    assert shown(container, "proot", env=env)["resolv.conf"] == resolv_conf((), [])
    pretend_again = container.directory / ".provision/made"
    assert (pretend_again / "resolv.conf").read_text() == resolv_conf((), [])
    (place / "etc/resolv.conf").write_text("nameserver 192.0.2.5\n")
    assert shown(container, "proot", env=env)["resolv.conf"] == "nameserver 192.0.2.5\n"


def test_a_directory_that_cannot_be_written_gets_them_for_the_run(container: Container, place: Path) -> None:
    need_root()
    pretend_made(container)
    at_another_place(container, place / "host")
    (place / "host").write_text("nameserver 192.0.2.7\n")
    for name in ("dev", "sys"):
        (container.rootfs / name).mkdir()
    for path in (container.directory, *container.directory.rglob("*")):
        os.chown(path, 0, 0, follow_symlinks=False)
    for runtime in ("proot", "userns"):
        assert shown(container, runtime) == network_files()
    assert (container.rootfs / "etc/hosts").read_text() == "hosts of yesterday\n"


# Binds


@pytest.mark.parametrize("name", ["plain", "two words", "co:lon", "co:/lon", "quo'te", "new\nline", "-dash", "é"])
def test_directories_and_files_are_bound(container: Container, place: Path, runtime: str, name: str) -> None:
    source = place / "bound" / name
    source.mkdir(parents=True)
    (source / "file").write_text("content")
    binds = ["--bind", f"{source}:/mnt/deep dir", "--bind", f"{source}/file:/etc/file"]
    assert container.output(runtime, *binds, "cat", "/mnt/deep dir/file", "/etc/file") == b"contentcontent"


def test_bind_alone_keeps_its_path_and_is_relative_to_where_one_is(
    container: Container, place: Path, runtime: str
) -> None:
    (place / "data").mkdir()
    (place / "data/file").write_text("content")
    assert container.output(runtime, "--bind", "data", "cat", f"{place}/data/file", cwd=place) == b"content"


def test_binds_from_provision_time_may_be_missing(container: Container, place: Path, runtime: str) -> None:
    (place / "file").write_text("content")
    container.set(default_binds=(f"{place}/gone:/gone", f"{place}/file:/file"))
    done = container.run(runtime, "cat", "/file")
    assert (done.returncode, done.stdout) == (0, b"content")
    assert done.stderr.decode() == f"start.sh: not bound, since it doesn't exist: {place}/gone\n"


def test_a_bind_never_leaves_the_rootfs(container: Container, place: Path, runtime: str) -> None:
    (place / "outside").mkdir()
    (place / "file").write_text("content")
    (container.rootfs / "away").symlink_to(place / "outside")
    container.run(runtime, "--bind", f"{place}/file:/away/new/file", "true")
    assert list((place / "outside").iterdir()) == []


def test_working_directory_below_a_bind_is_made_there(container: Container, place: Path, runtime: str) -> None:
    source = place / "source"
    source.mkdir()
    source.chmod(0o777)
    container.output(runtime, "--bind", f"{source}:/src", "--workdir", "/src/build", "touch", "here")
    assert (source / "build/here").exists()


# Exit status, signals, streams


@pytest.mark.parametrize("shell", SHELLS)
def test_exit_status_passes_through(container: Container, runtime: str, shell: str) -> None:
    need(SHELLS[shell][0])
    for status in (0, 1, 7, 125, 127, 255):
        assert container.run(runtime, "sh", "-c", f"exit {status}", shell=SHELLS[shell]).returncode == status


@pytest.mark.parametrize("kind", ["container", "scratch"])
def test_126_and_127_as_shells_do(place: Path, runtime: str, kind: str) -> None:
    made = {"container": make_container, "scratch": make_scratch}[kind](place / kind)
    (made.rootfs / "text").write_text("no program")
    for command, status in {"nonesuch": 127, "/no/such": 127, "/text": 126, "/": 126}.items():
        done = made.run(runtime, command)
        assert done.returncode == status, command
        assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "TERM", "USR1", "USR2"])
def test_signals_reach_the_guest(container: Container, runtime: str, shell: str, name: str) -> None:
    need(SHELLS[shell][0])
    guest = f"trap 'echo {name}; exit 41' {name}; echo ready; while :; do sleep 0.02; done"
    with container.running(runtime, "sh", "-c", guest, shell=SHELLS[shell]) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(getattr(signal, f"SIG{name}"))
        assert process.stdout.read().decode() == f"{name}\n"
        assert process.wait(10) == 41


@pytest.mark.parametrize("name", ["HUP", "INT", "TERM"])
def test_a_guest_without_handlers_ends_by_signals(container: Container, runtime: str, name: str) -> None:
    number = getattr(signal, f"SIG{name}")
    with container.running(runtime, "sh", "-c", "echo ready; exec sleep 60", stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(10) == 128 + number


def test_a_guest_that_handles_a_signal_goes_on(container: Container, runtime: str) -> None:
    guest = "n=0; trap 'n=$((n + 1))' TERM; echo ready; while [ $n -lt 2 ]; do sleep 0.02; done; exit 5"
    with container.running(runtime, "sh", "-c", guest) as process:
        assert process.stdout
        process.stdout.readline()
        process.terminate()
        time.sleep(0.3)
        assert process.poll() is None
        process.terminate()
        assert process.wait(10) == 5


def test_a_signal_at_any_moment_leaves_nothing(container: Container, runtime: str) -> None:
    for delay in range(0, 60, 4):
        with container.running(runtime, "sleep", "30", stderr=subprocess.DEVNULL) as process:
            time.sleep(delay / 1000)
            process.terminate()
            assert process.wait(10) in (143, -signal.SIGTERM)
    # `place` looks for processes and mounts afterwards.


def test_ignored_interrupts_stay_ignored(container: Container, runtime: str) -> None:
    with container.running(
        runtime,
        "sh",
        "-c",
        "echo ready; sleep 0.5; exit 6",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    ) as process:
        assert process.stdout
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 6


def test_no_process_outlives_a_namespace(container: Container) -> None:
    for runtime in ("userns", "chroot"):
        started = time.monotonic()
        assert container.run(runtime, "sh", "-c", "sleep 60 & exit 3").returncode == 3
        assert time.monotonic() - started < 30


def test_what_the_guest_leaves_in_proot_ends_by_a_signal(container: Container) -> None:
    with container.running("proot", "sh", "-c", "(sleep 60; :) & echo ready; exit 3") as process:
        assert process.stdout
        process.stdout.readline()
        time.sleep(0.3)
        process.terminate()
        assert process.wait(10) == 3


def test_input_and_pipes_pass_through(container: Container, runtime: str) -> None:
    done = container.run(runtime, "cat", stdin=None, input=bytes(range(256)) * 5000)
    assert done.stdout == bytes(range(256)) * 5000


def test_no_reader_is_kept_waiting(container: Container, runtime: str) -> None:
    """A writer is told that the guest has ended."""
    starter(runtime)  # where this can't be, the writer isn't started either
    writer = subprocess.Popen(["yes"], stdout=subprocess.PIPE)
    assert container.run(runtime, "head", "-n", "1", stdin=writer.stdout).stdout == b"y\n"
    assert writer.stdout
    writer.stdout.close()
    assert writer.wait(10) == -signal.SIGPIPE


@pytest.mark.parametrize("shell", SHELLS)
def test_closed_streams_are_empty_ones(container: Container, runtime: str, shell: str) -> None:
    need(SHELLS[shell][0])
    closing = ["sh", "-c", 'exec "$@" <&- >&-', "sh", *SHELLS[shell]]
    assert container.run(runtime, "sh", "-c", "cat && echo x && exit 4", shell=closing).returncode == 4


@pytest.mark.parametrize("shell", SHELLS)
def test_the_guest_has_no_files_of_ours(container: Container, runtime: str, shell: str) -> None:
    need(SHELLS[shell][0])
    guest = 'set -- /proc/self/fd/*; shift 3; for file; do busybox readlink "$file"; done; :'
    assert container.output(runtime, "sh", "-c", guest, shell=SHELLS[shell]) == b""


def test_two_at_once(container: Container, runtime: str) -> None:
    with container.running(runtime, "sh", "-c", "echo ready; sleep 1; exit 4") as first:
        assert first.stdout
        first.stdout.readline()
        assert container.run(runtime, "sh", "-c", "exit 5").returncode == 5
        assert first.wait(10) == 4


# Terminals


class Terminal:
    """A command on a terminal of its own; what it prints is read as it comes."""

    def __init__(self, command: Sequence[str | Path], user: bool) -> None:
        self.shown = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            options: dict[str, Any] = as_user() if user else {"env": clean_environment()}
            if "user" in options:
                os.setgroups([])
                os.setgid(options["group"])
                os.setuid(options["user"])
            os.chdir("/")
            heed_signals()
            program = find_program(str(command[0])) or str(command[0])
            os.execve(program, [str(word) for word in command], {**options["env"], "PS1": "PROMPT"})

    def until(self, text: bytes) -> None:
        """Read up to a text that comes within ten seconds."""
        deadline = time.monotonic() + 10
        while text not in self.shown:
            assert time.monotonic() < deadline, f"no {text!r} in {self.shown!r}"
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.shown += os.read(self.fd, 4096)
                except OSError:  # the other end is closed
                    time.sleep(0.05)
        self.shown = self.shown.partition(text)[2]

    def type(self, text: bytes) -> None:
        os.write(self.fd, text)

    def end(self) -> int:
        """Wait for the command, and return its exit status; negative when a signal ended it."""
        deadline = time.monotonic() + 10
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
                pytest.fail(f"it doesn't end; last shown: {self.shown!r}")
            if select.select([self.fd], [], [], 0.05)[0]:
                try:
                    self.shown += os.read(self.fd, 4096)
                except OSError:
                    time.sleep(0.05)


@pytest.fixture
def terminal(container: Container, runtime: str) -> Callable[..., Terminal]:
    starter(runtime)

    def start(*args: str, shell: Iterable[str] = ()) -> Terminal:
        return Terminal([*shell, container.script, *choosing(runtime), *args], user=runtime != "chroot")

    return start


@pytest.mark.parametrize("shell", SHELLS)
def test_control_c_reaches_the_guest_once(terminal: Callable[..., Terminal], shell: str) -> None:
    need(SHELLS[shell][0])
    guest = "n=0; trap 'n=$((n + 1))' INT; echo ready; for i in 1 2 3 4 5 6 7 8; do sleep 0.04; done; exit 4$n"
    screen = terminal("sh", "-c", guest, shell=SHELLS[shell])
    screen.until(b"ready")
    screen.type(b"\x03")
    assert screen.end() == 41


@pytest.mark.parametrize("shell", SHELLS)
def test_control_c_ends_a_guest_without_handler(terminal: Callable[..., Terminal], shell: str) -> None:
    need(SHELLS[shell][0])
    screen = terminal("sh", "-c", "echo ready; exec sleep 60", shell=SHELLS[shell])
    screen.until(b"ready")
    screen.type(b"\x03")
    assert screen.end() == 130


def test_signals_reach_the_guest_at_a_terminal_too(terminal: Callable[..., Terminal]) -> None:
    screen = terminal("sh", "-c", "trap 'exit 41' TERM; echo ready; while :; do sleep 0.03; done")
    screen.until(b"ready")
    os.kill(screen.pid, signal.SIGTERM)
    assert screen.end() == 41


def test_the_guests_shell_has_job_control_and_a_terminal_name(terminal: Callable[..., Terminal]) -> None:
    screen = terminal("--shell")
    screen.until(b"# ")
    screen.type(b"tty; sleep 60\n")
    screen.until(b"/dev/")
    time.sleep(0.3)
    screen.type(b"\x1a")
    screen.until(b"Stopped")
    screen.type(b"fg\n")
    screen.until(b"sleep 60")
    time.sleep(0.2)
    screen.type(b"\x03")
    screen.until(b"# ")
    screen.type(b"exit 3\n")
    assert screen.end() == 3


def test_control_z_stops_all_of_it(container: Container, runtime: str) -> None:
    need("bash")
    starter(runtime)
    screen = Terminal(["bash", "--norc", "-i"], user=runtime != "chroot")
    screen.until(b"PROMPT")
    screen.type(f"{container.script} --runtime {runtime} sh -c 'echo rea''dy; sleep 0.5; echo do''ne'\n".encode())
    screen.until(b"ready")
    screen.type(b"\x1a")
    screen.until(b"Stopped")
    screen.until(b"PROMPT")
    screen.type(b"fg\n")
    screen.until(b"done")
    screen.until(b"PROMPT")
    screen.type(b"exit 6\n")
    assert screen.end() == 6


def test_closing_the_terminal_ends_the_guest(terminal: Callable[..., Terminal]) -> None:
    screen = terminal("sh", "-c", "echo ready; exec sleep 60")
    screen.until(b"ready")
    os.close(screen.fd)
    deadline = time.monotonic() + 10
    while not (ended := os.waitpid(screen.pid, os.WNOHANG))[0]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert os.waitstatus_to_exitcode(ended[1]) in (129, -signal.SIGHUP)


# Relocation


@pytest.mark.parametrize(
    "name",
    [
        b"two words",
        b"quo'te\"s",
        b"new\nline",
        b"-x",
        b"--help",
        b"not\xffutf8\x88",
        b"co:lon",
        b"$(touch canary)",
        b"*",
        b"end\n",
    ],
)
def test_directory_may_have_any_name_and_move(container: Container, runtime: str, name: bytes) -> None:
    moved = Container(Path(os.fsdecode(os.path.join(os.fsencode(container.directory.parent), name))))
    container.directory.rename(moved.directory)
    here = moved.directory.parent
    assert moved.output(runtime, *SAY, "absolute") == b"absolute\0"
    # Started as `-x/start.sh`, which the shell would take for options.
    relative = Container(Path(os.fsdecode(name)))
    assert relative.output(runtime, *SAY, "relative", cwd=here) == b"relative\0"
    assert moved.output(runtime, *SAY, "by a shell", shell=["sh", "--"]) == b"by a shell\0"
    links = here / "links"
    links.mkdir()
    (links / "first").symlink_to(moved.script)
    (links / "second").symlink_to("first")
    for started, cwd in ((links / "second", "/"), (Path("second"), str(links))):
        command = ["sh", str(started), *choosing(runtime), *SAY, "link"]
        done = subprocess.run(command, capture_output=True, check=True, **{**starter(runtime), "cwd": cwd})
        assert done.stdout == b"link\0"


def test_a_copy_works_like_the_original(container: Container, place: Path, runtime: str) -> None:
    shutil.copytree(container.directory, place / "copy", symlinks=True)
    copy = hand_over(Container(place / "copy"))
    shutil.rmtree(container.directory)
    assert copy.output(runtime, *SAY, "copied") == b"copied\0"


def test_the_script_alone_says_what_it_lacks(container: Container, place: Path) -> None:
    shutil.move(container.script, place / "start.sh")
    done = Container(place).run("")
    assert done.returncode == 125
    assert b"there is no rootfs beside" in done.stderr


def test_a_directory_that_cannot_be_written(container: Container) -> None:
    need_root()
    for top, directories, files in os.walk(container.directory):
        for name in [".", *directories, *files]:
            os.chown(os.path.join(top, name), 0, 0, follow_symlinks=False)
    for runtime in ("proot", "userns"):
        for missing in ("dev", "sys"):
            (container.rootfs / missing).mkdir(exist_ok=True)
        assert container.output(runtime, *SAY, "read-only") == b"read-only\0"


# Shells and tools


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_does_it_all(container: Container, place: Path, runtime: str, shell: str) -> None:
    need(SHELLS[shell][0])
    (place / "data").write_text("data")
    container.set(image_entrypoint=("sh", "-c"), image_env=("PATH=/bin", "ODD='\\\n\x81\xff"))
    # Process 1 of a namespace is the `sh` on PATH.
    (place / "shells").mkdir()
    inner = place / "shells/sh"
    shutil.copy(find_program(SHELLS[shell][0]) or "", inner)
    env = starter(runtime)["env"]
    env["PATH"] = f"{inner.parent}:{env['PATH']}"
    options = ["--user", "joe", "--workdir", "/home/joe/new", "--env", "A=a\n", "--dns", "192.0.2.1"]
    if runtime != "proot":
        options[3] = "/home/joe"
    guest = 'printf "%s\\0" "$ODD" "$A" "$HOME" "$PWD" "$(cat /etc/resolv.conf /data)" "$(id -u)"; exit 9'
    done = container.run(runtime, *options, "--bind", f"{place}/data:/data", guest, shell=SHELLS[shell], env=env)
    assert done.stderr == b""
    assert done.stdout.split(b"\0")[:-1] == [
        *(b"'\\\n\xc2\x81\xc3\xbf", b"a\n", b"/home/joe", options[3].encode()),
        *(b"nameserver 192.0.2.1\ndata", b"1000"),
    ]
    assert done.returncode == 9


@pytest.fixture(params=[("busybox", "busybox"), ("busybox", "bash"), ("toybox", "mksh")], ids=" and ".join)
def small_tools(request: pytest.FixtureRequest, place: Path) -> dict[str, str]:
    """An environment whose PATH has nothing but the tools of busybox or toybox, a shell, and proot."""
    box, shell = request.param
    need(box, shell, "proot")
    tools = place / "tools"
    tools.mkdir()
    listing = ["--list"] if box == "busybox" else []
    for name in run(find_program(box) or "", *listing).split():
        (tools / name).symlink_to(find_program(box) or "")
    for name, other in {"sh": shell, "proot": "proot"}.items():
        (tools / name).unlink(missing_ok=True)
        (tools / name).symlink_to(find_program(other) or "")
    return {"PATH": str(tools), "TERM": "dumb"}


def test_small_tools_are_enough(container: Container, runtime: str, small_tools: dict[str, str]) -> None:
    shell = [small_tools["PATH"] + "/sh"]
    options = ["--workdir", "/tmp/new", "--dns", "192.0.2.1"]
    guest = ["sh", "-c", "pwd; cat /etc/resolv.conf; exit 9"]
    if runtime == "chroot":
        # Their setpriv can't drop capabilities.
        assert b"root keeps all capabilities" in container.run(runtime, "true", shell=shell, env=small_tools).stderr
        options.append("--privileged")
    done = container.run(runtime, *options, *guest, shell=shell, env=small_tools)
    assert (done.returncode, done.stdout, done.stderr) == (9, b"/tmp/new\nnameserver 192.0.2.1\n", b"")


def test_small_tools_pass_signals_on(container: Container, runtime: str, small_tools: dict[str, str]) -> None:
    shell = [small_tools["PATH"] + "/sh"]
    guest = "trap 'exit 41' TERM; trap 'exit 42' INT; echo ready; while :; do sleep 0.02; done"
    # busybox's shell can't give SIGINT back to a background process: it becomes a SIGTERM.
    for number, status in {signal.SIGTERM: 41, signal.SIGINT: 41 if "busybox" in os.readlink(shell[0]) else 42}.items():
        with container.running(runtime, "sh", "-c", guest, shell=shell, env=small_tools) as process:
            assert process.stdout
            process.stdout.readline()
            process.send_signal(number)
            assert process.wait(10) == status


def test_control_c_with_small_tools(
    container: Container, runtime: str, small_tools: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    starter(runtime)
    monkeypatch.setenv("PATH", small_tools["PATH"])
    shell = f"{small_tools['PATH']}/sh"
    guest = "trap 'exit 42' INT; echo ready; while :; do sleep 0.02; done"
    screen = Terminal([shell, container.script, *choosing(runtime), "sh", "-c", guest], user=runtime != "chroot")
    screen.until(b"ready")
    screen.type(b"\x03")
    # bash loses the status of a child that ends while a signal comes in, and it is 128 and the signal's number then.
    assert screen.end() in ((42, 130) if os.readlink(shell).endswith("bash") else (42,))
    assert b"start.sh:" not in screen.shown
    assert b"mount:" not in screen.shown


def test_becoming_a_user_needs_a_chroot_that_can(container: Container, small_tools: dict[str, str]) -> None:
    done = container.run("chroot", "--user", "joe", "true", shell=[small_tools["PATH"] + "/sh"], env=small_tools)
    assert done.returncode == 125
    assert done.stderr == b"start.sh: this chroot can't become user 1000: install GNU coreutils\n"


def test_children_are_found_without_the_kernels_list(container: Container, runtime: str) -> None:
    without = container.script.read_bytes().replace(b"/children", b"/no-such-file")
    assert without.count(b"/no-such-file") == 2
    container.script.write_bytes(without)
    with container.running(
        runtime, "sh", "-c", "trap 'exit 41' TERM; echo ready; while :; do sleep 0.02; done"
    ) as process:
        assert process.stdout
        process.stdout.readline()
        process.terminate()
        assert process.wait(10) == 41


def test_few_programs_are_started(container: Container) -> None:
    need("strace", "proot")
    trace = container.directory / "trace"
    options = starter("proot")
    subprocess.run(
        ["strace", "-f", "-qq", "-e", "trace=execve", "-z", "-o", trace, container.script, "--print", "true"],
        check=True,
        stdout=subprocess.DEVNULL,
        **options,
    )
    programs = [Path(line.split('"')[1]).name for line in trace.read_text().splitlines() if "execve" in line]
    # env and uname are one process; the guest's env is a link here; proot tells its options.
    assert programs == ["start.sh", "env", "uname", "readlink", "proot"]


def test_few_programs_are_started_in_namespaces_too(container: Container) -> None:
    need("strace", "setpriv")
    container.output("chroot", "true")  # makes directories
    trace = container.directory / "trace"
    subprocess.run(
        ["strace", "-f", "-qq", "-e", "trace=execve", "-z", "-o", trace, container.script, "--runtime=chroot", "true"],
        check=True,
        **starter("chroot"),
    )
    programs = [Path(line.split('"')[1]).name for line in trace.read_text().splitlines() if "execve" in line]
    assert programs == [
        *("start.sh", "env", "uname", "unshare", "sh"),
        *("mount", "readlink", "mount", "mount", "mount", "mount", "cp", "mkdir", "ln", "mount"),
        "chroot",  # its --help, since root is in other groups here
        *("env", "setpriv", "chroot", "env", "exe"),
    ]


# Runtimes


def test_root_gets_chroot_and_users_get_proot(container: Container, place: Path) -> None:
    need_root()
    need("proot")
    assert b"unshare -m -p " in container.output("", "--print", "true", by="chroot")
    assert b"/proot " in container.output("", "--print", "true")


@pytest.fixture
def bare_path(place: Path) -> Path:
    """A PATH without any runtime: /usr/sbin, which start.sh adds, has none either."""
    bare = place / "bare"
    bare.mkdir()
    for name in ("env", "uname", "sh", "readlink"):
        (bare / name).symlink_to(find_program(name) or "")
    return bare


def test_no_runtime_is_mended_by_one_package(container: Container, bare_path: Path) -> None:
    env = {"PATH": str(bare_path)}
    done = container.run("", "true", env=env)
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr == b"start.sh: neither proot nor user namespaces work here: apt install proot\n"
    env["PREFIX"] = "/data/data/com.termux/files/usr"
    done = container.run("", "--runtime", "proot", "true", env=env)
    assert done.stderr == b"start.sh: proot is missing: pkg install proot\n"


def test_user_namespaces_where_proot_is_missing(container: Container, bare_path: Path) -> None:
    for name in ("unshare", "mount", "mkdir", "chroot", "true"):
        (bare_path / name).symlink_to(find_program(name) or "")
    env = {"PATH": str(bare_path)}
    assert b"unshare -U -r -m -p " in container.output("", "--print", "true", by="userns", env=env)
    assert container.output("", *SAY, "x", by="userns", env=env) == b"x\0"


def test_chroot_is_refused_to_users(container: Container) -> None:
    done = container.run("", "--runtime", "chroot", "true")
    assert (done.returncode, done.stderr) == (125, b"start.sh: chroot needs root: use sudo, or --runtime proot\n")


def test_root_without_capabilities_takes_proot(container: Container) -> None:
    need_root()
    need("setpriv", "proot")
    powerless = ["setpriv", "--bounding-set", "-sys_admin"]
    assert b"/proot " in container.output("", "--print", "true", shell=powerless, by="chroot")


def test_runtime_may_come_from_the_environment_and_the_settings(container: Container) -> None:
    container.set(default_runtime="userns")
    assert b"unshare" in container.output("", "--print", "true", by="userns")
    env = {**starter("userns")["env"], "PROVISION_RUNTIME": "proot"}
    assert b"/proot " in container.output("", "--print", "true", env=env)
    assert b"unshare" in container.output("", "--runtime", "userns", "--print", "true", env=env)


def test_what_is_printed_can_be_pasted(container: Container, runtime: str) -> None:
    container.set(image_env=("PATH=/bin", "A=it's\n$HOME"))
    args = ["--user", "1000", "--workdir", "/tmp", *SAY, "a b", "'", "", "$(touch canary)\n"]
    shown = container.output(runtime, "--print", *args)
    env = {**starter(runtime)["env"], "LD_PRELOAD": "/no/such/library.so"}
    assert container.run(runtime, "--print", "true", env=env).stdout.startswith(b"(unset LD_PRELOAD; ")
    done = subprocess.run([b"sh", b"-c", shown], capture_output=True, check=True, **starter(runtime))
    assert done.stdout.split(b"\0")[:-1] == [b"a b", b"'", b"", b"$(touch canary)\n"]


def test_an_init_is_process_1_and_others_are_not(container: Container) -> None:
    (container.rootfs / "sbin").mkdir()
    (container.rootfs / "sbin/init").write_text(
        "#!/bin/sh\ntrap 'exit 42' TERM\necho $$\nwhile :; do sleep 0.02; done\n"
    )
    (container.rootfs / "sbin/init").chmod(0o755)
    for runtime in ("userns", "chroot"):
        with container.running(runtime, "/sbin/init") as process:
            assert process.stdout
            assert process.stdout.readline() == b"1\n"
            process.terminate()
            assert process.wait(10) == 42
        assert container.output(runtime, "sh", "-c", "echo $$") != b"1\n"


# Nothing of the host is touched


def mounts_around(container: Container, propagation: str, tools: str) -> list[str]:
    """What a mount namespace around start.sh says of its mounts, while a guest runs with a bind, and afterwards.

    The namespace's own mounts have that propagation; `tools` is the PATH of start.sh.
    """
    need_root()
    script = f"""
        mount --make-r{propagation} / && before=$(cat /proc/self/mountinfo)
        env PATH="$0" sh "$@" -c 'echo ready; sleep 1' | {{
            read line; echo $line; [ "$(cat /proc/self/mountinfo)" = "$before" ] && echo same during; }}
        [ "$(cat /proc/self/mountinfo)" = "$before" ] && echo same after
    """
    starting: list[str | Path] = [
        container.script,
        "--runtime",
        "chroot",
        "--bind",
        f"{container.directory.parent}:/data",
        "sh",
    ]
    return run("unshare", "--mount", "sh", "-c", script, tools, *starting, **starter("chroot")).splitlines()


@pytest.mark.parametrize("propagation", ["private", "shared"])
def test_nothing_stays_mounted(container: Container, propagation: str) -> None:
    path = starter("chroot")["env"]["PATH"]
    assert mounts_around(container, propagation, path) == ["ready", "same during", "same after"]


def test_nothing_stays_mounted_with_small_tools(container: Container, small_tools: dict[str, str]) -> None:
    assert mounts_around(container, "shared", small_tools["PATH"]) == ["ready", "same during", "same after"]


def test_a_mount_that_fails_is_told_and_undone(container: Container, place: Path) -> None:
    (place / "data").mkdir()
    (container.rootfs / "file").write_text("")
    done = container.run("chroot", "--bind", f"{place}/data:/file", "true")
    assert done.returncode == 125
    assert f"start.sh: can't bind {place}/data on /file".encode() in done.stderr
    assert mounts_below(place) == []


def test_deleting_the_directory_during_a_run_spares_the_host(container: Container, place: Path) -> None:
    data = place / "data"
    data.mkdir()
    (data / "canary").write_text("alive")
    data.chmod(0o777)
    with container.running(
        "chroot", "--bind", f"{data}:/data", "sh", "-c", "echo ready; cat", stdin=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        shutil.rmtree(container.directory, ignore_errors=True)
        assert (data / "canary").read_text() == "alive"
        assert Path("/dev/null").is_char_device()
        process.communicate()
    shutil.rmtree(container.directory, ignore_errors=True)
    assert not container.directory.exists()
    assert (data / "canary").read_text() == "alive"


CANARIES = [
    "$(touch {0})",
    "`touch {0}`",
    "'; touch {0}; '",
    '"; touch {0}; "',
    "\ntouch {0}\n",
    "$(touch {0}",
    "&& touch {0} #",
]


@pytest.mark.parametrize("text", CANARIES)
def test_no_field_of_an_image_runs_on_the_host(container: Container, place: Path, runtime: str, text: str) -> None:
    (place / "open").mkdir()
    (place / "open").chmod(0o777)
    canary = text.format(place / "open/canary")
    (container.rootfs / "etc/passwd").write_text(f"root:x:0:0::{canary.strip()}:{canary.strip()}\n")
    container.set(
        **{
            field.name: canary if isinstance(getattr(SETTINGS, field.name), str) else (f"A={canary}", canary)
            for field in dataclasses.fields(LaunchSettings)
            if field.name not in ("default_runtime", "image_platform", "image_user", "image_entrypoint")
        },
        image_entrypoint=SAY,
    )
    done = container.run(runtime)
    assert done.returncode == 0, done
    assert done.stdout.split(b"\0")[:-1] == [f"A={canary}".encode(), canary.encode()]
    container.set(image_platform=canary)
    assert container.run(runtime).returncode == 125
    container.set(image_user=canary, image_entrypoint=(canary,))
    assert container.run(runtime).returncode == 125
    assert container.run(runtime, "--root").returncode in (126, 127)
    assert list((place / "open").iterdir()) == []


@pytest.mark.parametrize("kind", ["container", "scratch"])
def test_variables_of_an_image_do_not_act_on_host_programs(place: Path, runtime: str, kind: str) -> None:
    made = {"container": make_container, "scratch": make_scratch}[kind](place / kind)
    evil = place / "evil"
    evil.mkdir(mode=0o755)
    for name in ("proot", "chroot", "unshare", "mount", "env", "sh", "mkdir", "cp", "uname", "readlink"):
        (evil / name).write_text(f"#!/bin/sh\necho ran {name}\n")
        (evil / name).chmod(0o755)
    made.set(
        image_env=(
            f"PATH={evil}:/bin:/app",
            *(f"{name}={evil}/no-such" for name in ("LD_PRELOAD", "LD_AUDIT", "PROOT_TMP_DIR", "TMPDIR", "GCONV_PATH")),
            *("LD_DEBUG=all", "PROOT_VERBOSE=9", "GLIBC_TUNABLES=x", "MALLOC_CHECK_=9", "LOCPATH=/x"),
        ),
        image_workdir="/work",
    )
    found = made.words(runtime, *ENVIRONMENT)
    assert f"PATH={evil}:/bin:/app".encode() in found
    # With env in the image, the guest does get all of them.
    assert (b"LD_DEBUG=all" in found) == (kind == "container")


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../../../etc/passwd", "{outside}/passwd", "loop"])
def test_users_are_not_read_outside_of_the_rootfs(container: Container, place: Path, runtime: str, target: str) -> None:
    (place / "passwd").write_text("mallory:x:7:7::/:/bin/sh\n")
    (container.rootfs / "etc/passwd").unlink()
    (container.rootfs / "etc/passwd").symlink_to(target.format(outside=place))
    (container.rootfs / "etc/loop").symlink_to("passwd")
    done = container.run(runtime, "--user", "mallory", "true")
    assert done.returncode == 125
    assert done.stderr.count(b"\n") == 1
    assert b"no user mallory" in done.stderr or b"too many links" in done.stderr


def test_users_may_stand_behind_a_link_inside(container: Container) -> None:
    (container.rootfs / "etc/passwd").rename(container.rootfs / "home/users")
    (container.rootfs / "etc/passwd").symlink_to("/usr/../home/users")
    assert container.output("proot", "--user", "joe", "id", "-u") == b"1000\n"


@pytest.mark.parametrize("kind", ["fifo", "directory", "nothing", "binary", "unreadable", "bad lines"])
def test_odd_user_files_do_no_harm(container: Container, kind: str) -> None:
    home = b"/\n"
    passwd = container.rootfs / "etc/passwd"
    passwd.unlink()
    if kind == "fifo":
        os.mkfifo(passwd)
    elif kind == "directory":
        passwd.mkdir()
    elif kind == "binary":
        passwd.write_bytes(bytes(range(256)) * 300)
    elif kind == "bad lines":
        passwd.write_text("root\nroot:x:no:0::/a:\nroot:x:0::::\n:\n\nroot:x:99999999999:0::/b:\nroot:x:0:0::/good:")
        home = b"/good root\n"
    elif kind == "unreadable":
        passwd.write_text(PASSWD)
        passwd.chmod(0)
    assert container.output("proot", "sh", "-c", "echo $HOME $USER", timeout=10) == home


def test_hostile_mount_points_lead_nowhere(container: Container, place: Path, runtime: str) -> None:
    outside = place / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    (container.rootfs / "proc").rmdir()
    for name in ("dev", "proc", "sys"):
        (container.rootfs / name).symlink_to(outside / name)
    container.run(runtime, "true")
    assert list(outside.iterdir()) == []


# Images without tools, and for other machines


def test_scratch_images_start(scratch: Container, runtime: str) -> None:
    scratch.set(image_env=("PATH=/sbin:/app", "A=b\nc"), image_workdir="/made/here", image_user="65532:65533")
    assert scratch.output(runtime, "pwd") == b"/made/here\n"
    told = scratch.output(runtime, "id").split()
    assert told[:2] == [b"uid=65532", b"gid=65533"]
    assert len(told) == 2 or os.geteuid()  # other groups are those of whoever runs the tests
    found = scratch.words(runtime, *ENVIRONMENT, env={**starter(runtime)["env"], "SECRET": "x", "TERM": "dumb"})
    assert {b"A=b\nc", b"TERM=dumb"} < set(found)
    assert b"SECRET=x" not in found


def test_an_image_with_a_shell_but_no_env_starts(container: Container, runtime: str) -> None:
    (container.rootfs / "usr/bin/env").unlink()
    (container.rootfs / "app").mkdir()
    (container.rootfs / "app/told").write_text('#!/bin/sh\necho "$A $(pwd)"')
    (container.rootfs / "app/told").chmod(0o755)
    hand_over(container.set(image_env=("PATH=/app:/bin", "A=b"), image_workdir="/made/here"))
    assert container.output(runtime, "told") == b"b /made/here\n"


def test_proot_is_told_what_its_starter_says(scratch: Container) -> None:
    need("proot")
    env = {**starter("proot")["env"], "PROOT_NO_SECCOMP": "1"}
    assert b"PROOT_NO_SECCOMP=1" in scratch.words("proot", *ENVIRONMENT, env=env)


def arm64_program(status: int) -> bytes:
    """A static arm64 program that ends with `status`."""
    code = struct.pack("<III", 0xD2800000 | status << 5, 0xD2800BA8, 0xD4000001)  # mov x0; mov x8, exit; svc
    base, size = 0x400000, 120 + len(code)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1" + bytes(9), 2, 183, 1, base + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    return header + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x10000) + code


@pytest.fixture
def foreign(place: Path) -> Container:
    """A container for arm64."""
    if os.uname().machine in ("aarch64", "arm64"):
        unavailable("this machine runs arm64 by itself")
    made = make_scratch(place / "foreign", image_platform="linux/arm64/v8", image_command=("/answer",))
    (made.rootfs / "answer").write_bytes(arm64_program(42))
    (made.rootfs / "answer").chmod(0o755)
    return made


def test_qemu_runs_other_architectures_in_proot(foreign: Container) -> None:
    need("qemu-aarch64-static")
    assert foreign.run("proot").returncode == 42
    if os.geteuid() == 0 and not Path("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists():
        assert foreign.run("", by="chroot").returncode == 42


def test_what_to_install_for_another_architecture(foreign: Container, bare_path: Path) -> None:
    (bare_path / "proot").symlink_to(find_program("proot") or "")
    machine = os.uname().machine
    for env, mend in (
        ({}, "apt install proot qemu-user-static"),
        ({"PREFIX": "/data/data/com.termux/files/usr"}, "pkg install proot qemu-user-aarch64"),
    ):
        done = foreign.run("", env={"PATH": str(bare_path), **env})
        assert done.returncode == 125
        assert done.stderr.decode() == f"start.sh: the image is for linux/arm64/v8, this machine is {machine}: {mend}\n"


def test_namespaces_need_binfmt_for_another_architecture(foreign: Container) -> None:
    need("qemu-aarch64-static")
    if Path("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists():
        unavailable("binfmt is registered here")
    done = foreign.run("userns")
    assert done.returncode == 125
    assert b"the kernel has no binfmt for it: apt install binfmt-support qemu-user-static" in done.stderr


def test_namespaces_use_binfmt_for_another_architecture(foreign: Container) -> None:
    """A user namespace may have a binfmt_misc of its own, since Linux 6.7."""
    need("qemu-aarch64-static")
    magic = "\\x7fELF\\x02\\x01\\x01" + "\\x00" * 9 + "\\x02\\x00\\xb7\\x00"
    mask = "\\xff" * 7 + "\\x00" + "\\xff" * 8 + "\\xfe\\xff\\xff\\xff"
    rule = f":qemu-aarch64:M::{magic}:{mask}:{find_program('qemu-aarch64-static')}:F"
    script = 'cd /proc/sys/fs/binfmt_misc && mount -t binfmt_misc none . && printf %s "$0" >../binfmt_misc/register'
    script += ' || exit 99; "$@"'
    outer = ["unshare", "-U", "-r", "-m", "sh", "-c", script, rule]
    done = foreign.run("userns", shell=outer)
    if done.returncode == 99:
        unavailable("this kernel has no binfmt_misc in user namespaces")
    assert done.returncode == 42, done
    assert foreign.run("", shell=outer, by="userns").returncode == 42


# Anything an image may say


@pytest.fixture(scope="module")
def shared(lasting_place: Path) -> Container:
    return make_container(lasting_place / "shared")


COMPONENT = TEXT.filter(lambda text: 0 < len(os.fsencode(text)) < 200 and "/" not in text and text not in (".", ".."))


@pytest.mark.parametrize("shell", SHELLS)
@hypothesis_settings(max_examples=25, deadline=None)
@given(
    words=st.lists(TEXT, max_size=4),
    cut=st.integers(0, 4),
    env=st.dictionaries(NAMES.filter(lambda name: name not in ("PATH", "HOME")), TEXT, max_size=3),
    directory=COMPONENT,
    ids=st.tuples(st.integers(0, 2**31 - 2), st.integers(0, 2**31 - 2)),
)
def test_the_guest_sees_exactly_what_the_image_says(
    shared: Container, shell: str, words: list[str], cut: int, env: dict[str, str], directory: str, ids: tuple[int, int]
) -> None:
    need(SHELLS[shell][0])
    guest = ("/bin/sh", "-c", 'cat /proc/self/environ; printf "%s\\0" "$(id -u):$(id -g)" "$PWD" "$@"', "say")
    shared.set(
        image_entrypoint=guest + tuple(words[:cut]),
        image_command=tuple(words[cut:]),
        image_env=("PATH=/bin", *(f"{name}={value}" for name, value in env.items())),
        image_workdir=f"/tmp/{directory}",
        image_user=f"{ids[0]}:{ids[1]}",
    )
    told = shared.words("proot", shell=SHELLS[shell])
    say_from = told.index(f"{ids[0]}:{ids[1]}".encode())
    assert told[say_from + 1 :] == [os.fsencode(word) for word in (f"/tmp/{directory}", *words)]
