"""Containers by name: start, shell, exec, stop, logs, link and expose, with containers that really run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import builders
from tests.support.containers import SHELLS, need_user_namespaces, static_busybox
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import as_user, find_program, need, need_root, own, provision, provision_command

APPLETS = ("sh", "cat", "echo", "env", "false", "kill", "ls", "pwd", "readlink", "sleep", "wc")


@pytest.fixture
def home(place: Path) -> Path:
    """The home directory of the unprivileged user, in which `web` is a provisioned directory."""
    home = place / "home"
    home.mkdir()
    own(home)
    links = [(f"bin/{applet}", "busybox") for applet in APPLETS]
    data = builders.layer(
        ("bin", None), ("bin/busybox", static_busybox().read_bytes(), 0o755), *links, ("etc", None), ("etc/motd", b"x")
    )
    with ScriptedRegistry() as registry:
        registry.push("web", builders.image(data, run={"Cmd": ["echo", "hello"], "Env": ["PATH=/bin"]}))
        done = run(home, f"{registry.host}/web", home / "web", "--platform=amd64")
    assert done.returncode == 0, done.stderr
    return home


def run(home: Path, *words: str | Path, cwd: Path | None = None, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run `provision` as the unprivileged user with this home."""
    options = as_user(HOME=str(home), XDG_STATE_HOME=str(home / "state"))
    return provision(*words, cache=home / "cache", **{**options, "cwd": cwd or home.parent, **more})


@pytest.fixture
def running(home: Path) -> Iterator[Path]:
    """The home with `web` running in the background; it has printed a line."""
    done = run(home, "start", "web", "-d", "sh", "-c", "echo started; exec sleep 1000")
    assert done.returncode == 0, done.stderr
    log, end = home / "web/.provision/log", time.monotonic() + 60
    while b"started" not in log.read_bytes() and time.monotonic() < end:
        time.sleep(0.01)
    yield home
    run(home, "stop", "web")


def test_a_name_or_a_directory_starts_it_with_its_status(home: Path) -> None:
    for container, cwd in (("web", None), ("./web", home), ("web", home), (str(home / "web"), None)):
        done = run(home, "start", container, cwd=cwd)
        assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")
    done = run(home, "start", "web", "sh", "-c", "cat; exit 7", stdin=None, input="typed")
    assert (done.returncode, done.stdout) == (7, "typed")
    done = run(home, "start", "web", "--env", "A=1", "env")
    assert "A=1\n" in done.stdout
    done = run(home, "shell", "web", stdin=None, input="echo $0\n")
    assert done.stdout == "/bin/sh\n"
    for words in (["-c"], ["-lc"], ["--", "-c"], ["--env", "A=1", "--", "-c"]):
        assert run(home, "shell", "web", *words, 'echo "<$0>"', "a  b").stdout == "<a  b>\n"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda script: script.unlink(), "is missing"),
        (lambda script: script.write_bytes(b""), "is damaged"),
        (lambda script: script.write_bytes(script.read_bytes()[:100_000]), "is damaged"),
        (lambda script: script.chmod(0o644), "is not executable"),
        (lambda script: script.write_bytes(bytes(5000)), "is damaged"),
    ],
)
def test_a_damaged_start_sh_is_told_with_what_helps(damage: Callable[[Path], object], says: str, home: Path) -> None:
    damage(home / "web/start.sh")
    for words in (["start", "web"], ["stop", "web"], ["shell", "./web"]):
        done = run(home, *words, cwd=home)
        assert done.returncode == 7
        assert done.stderr == f"provision: {home}/web/start.sh {says}\n  write it anew: provision repair {home}/web\n"
    assert run(home, "repair", home / "web").returncode == 0
    assert run(home, "start", "web").stdout == "hello\n"


def test_many_names_are_counted(home: Path) -> None:
    for number in range(12):
        assert run(home, "copy", "web", home / f"copy{number}").returncode == 0
    done = run(home, "start", "nothing")
    assert (done.returncode, done.stderr) == (
        3,
        "provision: there is no container nothing\n  there are 13 others: provision list\n",
    )


def test_a_directory_that_was_moved_is_found_by_its_new_name(home: Path) -> None:
    (home / "web").rename(home / "site")
    done = run(home, "start", "site")
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr
    assert "there are site" in run(home, "start", "web").stderr
    assert "NAME|DIR is empty" in run(home, "start", "").stderr


def test_several_are_stopped_or_none(running: Path) -> None:
    assert run(running, "copy", "web", running / "other").returncode == 0
    assert run(running, "start", "other", "-d", "sleep", "1000").returncode == 0
    done = run(running, "stop", "web", "none")
    assert done.returncode == 3
    assert run(running, "exec", "web", "true").returncode == 0
    assert run(running, "stop", "web", "other", "-t", "1").returncode == 0
    for name in ("web", "other"):
        assert run(running, "exec", name, "true").returncode == 125


def test_a_log_is_followed_as_long_as_the_container_runs(running: Path) -> None:
    deadline = time.monotonic() + 60
    while not run(running, "logs", "web").stdout.startswith("started\n"):
        assert time.monotonic() < deadline
    assert run(running, "stop", "web").returncode == 0
    before = run(running, "logs", "-f", "web").stdout
    assert run(running, "start", "web", "-d", "sh", "-c", "sleep 1; echo end").returncode == 0
    assert run(running, "logs", "-f", "web").stdout == before + "end\n"


def test_a_name_that_several_have_or_none(home: Path) -> None:
    (home / "other").mkdir()
    own(home / "other")
    with ScriptedRegistry() as registry:
        registry.push("web", builders.small())
        assert run(home, f"{registry.host}/web", home / "other/web", "--platform=amd64").returncode == 0
    done = run(home, "start", "web")
    assert done.returncode == 2
    assert f"name one: {home}/web, {home}/other/web" in done.stderr
    done = run(home, "stop", "wbe")
    assert done.returncode == 3
    assert done.stderr.endswith("\n  did you mean web? All of them: provision list\n")


def test_a_name_is_a_directory_for_all_commands(home: Path) -> None:
    """But an image for `inspect`, which says so before anything is asked for."""
    (home / "web/rootfs/new").touch()
    own(home / "web/rootfs/new")
    done = run(home, "diff", "web")
    assert (done.returncode, done.stdout) == (0, "A /new\n"), done.stderr
    done = run(home, "repair", "web", "--check")
    assert done.returncode == 0, done.stderr
    done = run(home, "owners", "web")
    assert f"cd {home}/web && fakeroot" in done.stderr
    done = run(home, "export", "--format=oci-archive", "web", str(home / "web.tar"))
    assert done.returncode == 0, done.stderr
    done = run(home, "update", "web", "--offline", "--check")
    assert done.stderr.startswith("web is up to date with"), done.stderr
    for name in ("web", "wbe"):
        done = run(home, "inspect", name, "--offline")
        says = f"{name} is taken for an image; for the container web: provision inspect {home}/web\n"
        assert (done.returncode, done.stderr.startswith(says)) == (5, True), done.stderr
    done = run(home, "inspect", f"{home}/wbe")
    assert done.stderr == f"provision: there is no directory {home}/wbe\n  did you mean {home}/web?\n"


def test_what_runs_is_entered_read_and_stopped(running: Path) -> None:
    done = run(running, "exec", "web", "echo", "inside")
    assert (done.returncode, done.stdout) == (0, "inside\n"), done.stderr
    deadline = time.monotonic() + 60
    while (shown := run(running, "logs", "web").stdout) != "started\n" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert shown == "started\n"
    done = run(running, "stop", "web")
    assert done.returncode == 0, done.stderr
    assert "running" not in run(running, "list", "--json").stdout.replace('"processes": []', "")
    assert run(running, "exec", "web", "echo").returncode == 125


def test_a_setting_counts_from_the_next_start_on(running: Path) -> None:
    done = run(running, "config", "web", "--set", "env=A=1")
    assert done.returncode == 0
    assert "start.sh changed: env\nthis runs, and goes on as it was started: " in done.stderr
    assert "this runs" not in run(running, "config", "web", "--set", "env=A=1").stderr
    assert "A=1" in run(running, "start", "web", "env").stdout


def test_a_log_is_followed_until_ctrl_c(running: Path) -> None:
    command, options = provision_command("logs", "-f", "web", cache=running / "cache", **as_user())
    options["env"] |= {"HOME": str(running), "XDG_STATE_HOME": str(running / "state")}
    with subprocess.Popen(command, **options) as process:
        assert process.stdout
        assert process.stdout.readline() == "started\n"
        with open(running / "web/.provision/log", "a") as log:
            log.write("more\n")
        assert process.stdout.readline() == "more\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130


def test_a_link_starts_the_container_from_anywhere(home: Path) -> None:
    done = run(home, "link", "web")
    assert done.returncode == 0, done.stderr
    script = home / ".local/bin/web"
    assert f"{script} starts {home}/web" in done.stderr
    assert "is not on PATH" in done.stderr
    assert stat.S_IMODE(script.stat().st_mode) == 0o755
    started = subprocess.run([script, "echo", "a  b"], capture_output=True, text=True, check=False, **as_user())
    assert (started.returncode, started.stdout) == (0, "a  b\n"), started.stderr
    assert run(home, "link", "web", "--remove").returncode == 0
    assert not script.exists()
    assert run(home, "link", "web", "--remove").returncode == 3


def test_entries_for_desktops_and_phones(home: Path) -> None:
    done = run(home, "link", "web", "site", "--desktop", "--widget")
    assert done.returncode == 0, done.stderr
    assert (home / ".shortcuts/site").read_text() == (home / ".local/bin/site").read_text()
    lines = (home / ".local/share/applications/provision-site.desktop").read_text().splitlines()
    assert lines[0] == "[Desktop Entry]"
    assert f'Exec="{home}/web/start.sh" --shell' in lines
    assert run(home, "link", "web", "--remove").returncode == 0
    assert not (home / ".shortcuts/site").exists()
    assert not list((home / ".local/share/applications").iterdir())


def test_only_the_program_that_is_named_is_removed(home: Path) -> None:
    for words in (["web", "--desktop"], ["site", "--desktop", "--widget"]):
        assert run(home, "link", "web", *words).returncode == 0
    assert run(home, "expose", "web", "wc", "pwd").returncode == 0
    folder = home / ".local/bin"
    own(folder)
    (folder / "mine").write_text("#!/bin/sh\necho mine\n")
    for name in ("mine", "wc", "nothing"):
        done = run(home, "link", "web", name, "--remove")
        assert (done.returncode, f"there is no program {name} that starts {home}/web" in done.stderr) == (3, True)
    assert run(home, "expose", "web", "site", "--remove").returncode == 3
    assert sorted(os.listdir(folder)) == ["mine", "pwd", "site", "wc", "web"]
    assert run(home, "link", "web", "site", "--remove").returncode == 0
    assert not (home / ".shortcuts/site").exists()
    assert os.listdir(home / ".local/share/applications") == ["provision-web.desktop"]
    assert run(home, "expose", "web", "--remove").returncode == 0
    assert sorted(os.listdir(folder)) == ["mine", "web"]
    assert run(home, "expose", "web", "wc").returncode == 0
    assert run(home, "link", "web", "--remove").returncode == 0
    assert sorted(os.listdir(folder)) == ["mine", "wc"]


def test_nothing_of_others_is_overwritten_or_removed(home: Path) -> None:
    folder = home / ".local/bin"
    folder.mkdir(parents=True)
    (folder / "web").write_text("#!/bin/sh\necho mine\n")
    (folder / "cat").symlink_to("/bin/cat")
    for path in (home / ".local", folder, folder / "web"):
        own(path)
    for words in (["link", "web"], ["expose", "web", "cat"]):
        done = run(home, *words)
        assert done.returncode == 8
        assert "is there, and provision didn't write it" in done.stderr
    assert run(home, "expose", "web", "--remove").returncode == 3
    assert (folder / "web").read_text() == "#!/bin/sh\necho mine\n"
    assert (folder / "cat").is_symlink()


def test_an_exposed_program_works_in_the_current_directory(home: Path) -> None:
    done = run(home, "expose", "web", "wc", "/bin/sh", "pwd")
    assert done.returncode == 0, done.stderr
    work = home / "a directory"
    work.mkdir()
    own(work)
    (work / "input").write_text("one\ntwo\n")
    bin_directory = home / ".local/bin"
    options = {**as_user(), "cwd": work, "text": True, "capture_output": True, "check": False}
    counted = subprocess.run([bin_directory / "wc", "-l", "input"], **options)
    assert (counted.returncode, counted.stdout) == (0, "2 input\n"), counted.stderr
    assert subprocess.run([bin_directory / "pwd"], **options).stdout == f"{work}\n"
    piped = subprocess.run([bin_directory / "wc", "-c"], input="1234", **options)
    assert piped.stdout == "4\n"
    status = subprocess.run([bin_directory / "sh", "-c", 'exit "$1"', "sh", "42"], **options)
    assert status.returncode == 42
    written = subprocess.run([bin_directory / "sh", "-c", "echo new >output"], **options)
    assert written.returncode == 0, written.stderr
    assert (work / "output").read_text() == "new\n"

    listed = json.loads(run(home, "expose", "--list", "--json").stdout)["programs"]
    assert [os.path.basename(entry["program"]) for entry in listed] == ["pwd", "sh", "wc"]
    assert run(home, "expose", "web", "pwd", "--remove").returncode == 0
    assert sorted(os.listdir(bin_directory)) == ["sh", "wc"]


@pytest.mark.parametrize("target", ["moved", """it's $a "dir" 100%"""])
def test_programs_and_entries_follow_a_move_and_go_with_the_container(home: Path, target: str) -> None:
    assert run(home, "link", "web", "--desktop", "--widget").returncode == 0
    assert run(home, "expose", "web", "pwd").returncode == 0
    done = run(home, "move", home / "web", home / target)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("starts it there now") == 4
    options = {**as_user(), "cwd": home, "text": True, "capture_output": True, "check": False}
    assert subprocess.run([home / ".local/bin/pwd"], **options).stdout == f"{home}\n"
    assert subprocess.run([home / ".local/bin/web", "echo", "a  b"], **options).stdout == "a  b\n"
    written = {path: path.read_text() for path in (home / ".local").rglob("*") if path.is_file()}
    assert len(written) == 3
    shutil.rmtree(home / ".local")
    assert run(home, "link", home / target, "web", "--desktop").returncode == 0
    assert run(home, "expose", home / target, "pwd").returncode == 0
    assert {path: path.read_text() for path in written} == written
    assert run(home, "remove", "--yes", home / target).returncode == 0
    assert not [path for path in (home / ".local").rglob("*") if path.is_file()]
    assert not list((home / ".shortcuts").iterdir())


def test_a_program_that_cannot_be_written_does_not_undo_a_move(home: Path) -> None:
    need_root()  # the unprivileged user is another one
    assert run(home, "link", "web").returncode == 0
    (home / ".local/bin").chmod(0o555)
    done = run(home, "move", home / "web", home / "moved")
    assert done.returncode == 0, done.stderr
    assert f"write {home}/.local/bin/web: Permission denied: it starts the container at the old place" in done.stderr
    assert (home / "moved/start.sh").exists()
    assert run(home, "link", "--remove", "moved").returncode == 3
    done = run(home, "remove", "--yes", home / "moved")
    assert done.returncode == 0, done.stderr
    assert not (home / "moved").exists()


def test_an_edited_program_is_named_after_a_move(home: Path) -> None:
    assert run(home, "link", "web").returncode == 0
    script = home / ".local/bin/web"
    edited = script.read_text().replace("exec ", "nice ")
    script.write_text(edited)
    done = run(home, "move", home / "web", home / "moved")
    assert f"{script} was edited, and starts it at the old place" in done.stderr
    assert f"provision link {home}/moved web" in done.stderr
    assert script.read_text() == edited


@pytest.mark.parametrize("program", ["gcc", "/etc/motd", "/bin", "../bin/sh/x", "/bin/loop"])
def test_what_the_container_lacks_is_not_exposed(program: str, home: Path) -> None:
    (home / "web/rootfs/bin/loop").symlink_to("loop")
    done = run(home, "expose", "web", "wc", program)
    assert done.returncode == 3
    assert f"{program} is not in {home}/web" in done.stderr
    assert not (home / ".local").exists()


def exposed(home: Path, *programs: str) -> dict[str, Any]:
    """Expose programs of `web`, and return options of subprocess.run to use them by PATH as the unprivileged user."""
    done = run(home, "expose", "web", *programs)
    assert done.returncode == 0, done.stderr
    options: dict[str, Any] = {**as_user(), "text": True, "capture_output": True, "check": False, "timeout": 60}
    options.pop("cwd", None)
    return {**options, "env": {**os.environ, "PATH": f"{home}/.local/bin:/usr/bin:/bin", "HOME": str(home)}}


def bin_directory(home: Path) -> Path:
    return home / ".local/bin"


def own_directory(path: Path) -> Path:
    """Make a directory, and those above it that are missing, of the unprivileged user."""
    missing = [parent for parent in (path, *path.parents) if not parent.exists()]
    path.mkdir(parents=True)
    for parent in missing:
        own(parent)
    return path


@pytest.mark.parametrize("runtime", ["proot", "userns"])
def test_an_exposed_program_keeps_the_umask_and_leaves_no_change_in_the_container(runtime: str, home: Path) -> None:
    if runtime == "userns":
        need_user_namespaces(by_root=os.geteuid() == 0)
    options = exposed(home, "sh")
    options["env"]["PROVISION_RUNTIME"] = runtime
    for name in ("one", "two/three", "two"):
        work = home / "work" / name
        work.is_dir() or own_directory(work)
        words = ["/bin/sh", "-c", f'umask 027; cd "$1" && exec {bin_directory(home)}/sh -c ">made"', "sh", str(work)]
        done = subprocess.run(words, **options)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert stat.S_IMODE((work / "made").stat().st_mode) == 0o640
    assert run(home, "diff", "web").stdout == ""
    kept = home / "web/rootfs" / str(home / "work/one/mine").lstrip("/")
    if kept.parent.is_dir():  # proot makes what it needs elsewhere
        kept.touch()
        assert f"A {home}/work/one/mine" in run(home, "diff", "web").stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_an_exposed_program_works_with_every_shell(shell: str, home: Path) -> None:
    """The program and start.sh are scripts, which /bin/sh runs, whichever shell that is."""
    need(SHELLS[shell][0])
    options = exposed(home, "sh")
    interpreter = " ".join([find_program(SHELLS[shell][0]) or "", *SHELLS[shell][1:]]).encode()
    for path in (home / "web/start.sh", bin_directory(home) / "sh"):
        head, _, rest = path.read_bytes().partition(b"\n")
        assert head.startswith(b"#!/bin/sh")
        path.write_bytes(b"#!" + interpreter + b"\n" + rest)
    work = own_directory(home / "a directory")
    script = f'umask 027; cd "$1" && exec {bin_directory(home)}/sh -c \'echo "$PWD|$1"; umask; >made\' sh "a  b"'
    done = subprocess.run(["/bin/sh", "-c", script, "sh", work], **options)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{work}|a  b\n0027\n", "")
    assert stat.S_IMODE((work / "made").stat().st_mode) == 0o640


@pytest.mark.parametrize("where", ["/", "/bin", "/etc", "/proc"])
def test_where_the_container_has_its_own_files_they_are_not_hidden(where: str, home: Path) -> None:
    options = exposed(home, "sh", "ls", "pwd")
    options["env"]["PWD"] = where  # as a shell has it, where /bin is a link
    shown = subprocess.run([bin_directory(home) / "pwd"], **options, cwd=where)
    assert (shown.returncode, shown.stdout) == (0, f"{where}\n"), shown.stderr
    assert f"{where} is not bound, because the container has files of its own there" in shown.stderr
    listed = subprocess.run([bin_directory(home) / "ls", "/etc"], **options, cwd=where)
    assert "motd" in listed.stdout


@pytest.mark.parametrize("where", ["/tmp", "HOME"])
def test_where_nothing_is_hidden_this_machines_files_are_seen(where: str, home: Path) -> None:
    options = exposed(home, "cat")
    folder = home if where == "HOME" else Path(where)
    file = folder / f"of-this-machine-{os.getpid()}"
    file.write_text("here")
    try:
        done = subprocess.run([bin_directory(home) / "cat", file.name], **options, cwd=folder)
        assert (done.returncode, done.stdout, done.stderr) == (0, "here", "")
    finally:
        file.unlink()


def test_a_program_that_start_sh_needs_itself_can_be_exposed(home: Path) -> None:
    """Else it would start itself for ever."""
    options = exposed(home, "sh", "readlink", "cat", "env", "ls")
    link = home / "by a link"
    link.symlink_to(home / "web")
    assert subprocess.run(["readlink", link], **options, cwd=home).stdout == f"{home}/web\n"
    assert subprocess.run([link / "start.sh", "echo", "started"], **options).stdout == "started\n"
    options["env"]["PROVISION_WRAPPER"] = "yes"
    refused = subprocess.run([bin_directory(home) / "cat"], **options)
    assert refused.returncode == 125
    assert refused.stderr == "cat: start.sh needs this machine's own cat, and found the container's\n"


def test_arguments_signals_and_statuses_pass_through(home: Path) -> None:
    options = exposed(home, "sh", "echo", "sleep")
    words = ["a  b", "", "new\nline", "*", "--help", "'\"$x`"]
    script = 'for word; do echo "<$word>"; done'
    done = subprocess.run([bin_directory(home) / "sh", "-c", script, "sh", *words], **options, cwd=home)
    assert done.stdout == "".join(f"<{word}>\n" for word in words)
    options.pop("timeout"), options.pop("check"), options.pop("capture_output")
    with subprocess.Popen(
        [bin_directory(home) / "sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done"],
        **options,
        cwd=home,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 9


def test_several_programs_are_written_all_or_none(home: Path) -> None:
    (home / ".local/bin").mkdir(parents=True)
    (home / ".local/bin/ls").write_text("#!/bin/sh\n")
    for path in (home / ".local", home / ".local/bin", home / ".local/bin/ls"):
        own(path)
    for programs in (("wc", "ls"), ("wc", "none"), ("wc", "sh", "/usr/../bin/sh")):
        assert run(home, "expose", "web", *programs).returncode in (2, 3, 8)
        assert sorted(os.listdir(home / ".local/bin")) == ["ls"]


def test_a_program_of_another_container_is_not_taken_over(home: Path) -> None:
    assert run(home, "copy", home / "web", home / "other").returncode == 0
    exposed(home, "wc")
    script = bin_directory(home) / "wc"
    for words in (["expose", "other", "wc"], ["link", "other", "wc"]):
        done = run(home, *words)
        assert done.returncode == 8
        assert f"{script} starts {home}/web\n" in done.stderr
        assert f"provision expose {home}/web wc --remove" in done.stderr
    assert run(home, "link", "web", "site").returncode == 0
    assert f"provision link {home}/web site --remove" in run(home, "link", "other", "site").stderr
    assert run(home, "remove", "--yes", "web").returncode == 0
    assert not script.exists()
    assert run(home, "expose", "other", "wc").returncode == 0


def test_programs_are_removed_by_names_or_paths(home: Path) -> None:
    exposed(home, "wc", "bin/sh", "/bin/ls")
    assert "--entrypoint /bin/sh " in (bin_directory(home) / "sh").read_text()
    done = run(home, "expose", "web", "--remove", "wc", "cat")
    assert done.returncode == 3
    assert "cat of " in done.stderr
    assert sorted(os.listdir(bin_directory(home))) == ["ls", "sh", "wc"]
    assert run(home, "expose", "web", "--remove", "/bin/ls", "wc").returncode == 0
    assert os.listdir(bin_directory(home)) == ["sh"]


def test_programs_go_into_a_folder_that_is_a_link(home: Path) -> None:
    own_directory(home / "dotfiles/bin")
    own_directory(home / ".local")
    (home / ".local/bin").symlink_to("../dotfiles/bin")
    exposed(home, "wc")
    assert os.listdir(home / "dotfiles/bin") == ["wc"]
