"""The environment of the guest: what it gets of the caller's, and which of several values counts."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.containers import ENVIRONMENT, SHELLS, Container, make_container, make_scratch, starter
from tests.support.processes import descendants_of
from tests.support.tools import as_user, need, provision, run, unavailable
from tests.support.waiting import wait_until

OWN = {b"HOSTNAME=container", b"HOME=/root", b"SHELL=/bin/sh", b"USER=root", b"PATH=/bin"}


def with_caller(runtime: str, **variables: str) -> dict[str, str]:
    """An environment of the caller that has these variables beside what starts programs."""
    env = {name: value for name, value in starter(runtime)["env"].items() if name not in ("LANG", "TERM", "LC_ALL")}
    return {**env, **variables}


def variables(container: Container, runtime: str, *options: str, **caller: str) -> list[bytes]:
    """What the guest has beside what every guest has, in its order."""
    env = with_caller(runtime, **caller)
    return [word for word in container.words(runtime, *options, *ENVIRONMENT, env=env) if word not in OWN]


# Each variable once


def test_the_last_value_counts_at_the_place_of_the_first(container: Container, runtime: str) -> None:
    container.set(image_env=("A=image", "B=image", "PATH=/bin", "HOME=/image"), default_env=("B=default", "C=default"))
    found = container.words(
        runtime, "--env=C=typed", "--env", "A=typed", "--env=D=", *ENVIRONMENT, env=with_caller(runtime)
    )
    assert found == [
        *(b"PATH=/bin", b"HOSTNAME=container", b"HOME=/image", b"SHELL=/bin/sh", b"USER=root"),
        *(b"A=typed", b"B=default", b"C=typed", b"D="),
    ]


def test_what_is_printed_names_each_variable_once(container: Container) -> None:
    container.set(image_env=("PATH=/image", "HOME=/image", "A=image"), default_env=("A=default",))
    shown = container.output("proot", "--print", "--env", "A=typed", "true").decode()
    assert [shown.count(f" {name}=") for name in ("PATH", "HOME", "A", "SHELL")] == [1, 1, 1, 1]


@pytest.mark.parametrize("shell", SHELLS)
def test_names_of_this_script_s_variables_are_no_matter(container: Container, shell: str) -> None:
    need(SHELLS[shell][0])
    names = ("variable_A", "environment", "names", "list", "IFS", "PPID", "OPTIND", "word", "known", "_")
    options = [word for name in names for word in ("--env", f"{name}=x y")]
    env = {**with_caller("proot"), "variable_B": "B=caller", "variable_A": "A=caller"}
    found = container.words(
        "proot", *options, "--env", "A=1", "--env", "B=2", *ENVIRONMENT, shell=SHELLS[shell], env=env
    )
    assert {*(f"{name}=x y".encode() for name in names), b"A=1", b"B=2"} <= set(found)


# --env NAME


@pytest.mark.parametrize("kind", ["container", "scratch"])
@pytest.mark.parametrize("shell", SHELLS)
def test_env_with_a_name_takes_the_caller_s_value(place: Path, runtime: str, shell: str, kind: str) -> None:
    need(SHELLS[shell][0])
    target = {"container": make_container, "scratch": make_scratch}[kind](place / kind)
    target.set(
        image_env=("PATH=/bin:/app", "GONE=image", "lower_gone=image", "KEPT=image"), default_env=("PASSED", "NOT")
    )
    caller = {"SECRET": "it's\n$x ", "user": "caller", "PASSED": "y", "runtime": "z", "EMPTY": "", "UNUSED": "x"}
    env = {**with_caller(runtime), **caller}
    names = ("SECRET", "GONE", "lower_gone", "user", "runtime", "EMPTY", "PATH")
    options = [word for name in names for word in ("--env", name)]
    found = target.words(runtime, *options, "--env", "PATH=/bin:/app", *ENVIRONMENT, env=env, shell=SHELLS[shell])
    expected = {b"SECRET=it's\n$x ", b"user=caller", b"runtime=z", b"EMPTY=", b"PASSED=y", b"KEPT=image"}
    assert expected <= set(found)
    assert {word.split(b"=")[0] for word in found} & {b"GONE", b"lower_gone", b"NOT", b"UNUSED"} == set()


def test_path_of_the_caller_is_what_it_was(container: Container) -> None:
    path = with_caller("proot")["PATH"] + ":relative"
    found = container.words(
        "proot", "--env", "PATH", "/bin/cat", "/proc/self/environ", env=with_caller("proot", PATH=path)
    )
    assert f"PATH={path}".encode() in found


def test_unsetenv_takes_a_variable_away(container: Container, runtime: str) -> None:
    container.set(image_env=("PATH=/bin", "A=1", "B=2"))
    assert variables(container, runtime, "--unsetenv", "A", "--unsetenv=USER") == [b"B=2"]


def test_a_file_of_variables_is_read_as_docker_does(container: Container, place: Path, runtime: str) -> None:
    (place / "file").write_text("# comment\n\n  A=1\nB=two words='\nPASSED\nNOT_SET\nC=")
    found = variables(container, runtime, "--env-file", f"{place}/file", "--env", "A=2", PASSED="x")
    assert sorted(found) == [b"A=2", b"B=two words='", b"C=", b"PASSED=x"]
    done = container.run(runtime, "--env-file", f"{place}/missing", "true")
    assert (done.returncode, done.stderr.decode()) == (125, f"start.sh: --env-file: can't read {place}/missing\n")
    (place / "file").write_text("=x\n")
    assert container.run(runtime, "--env-file", f"{place}/file", "true").returncode == 125


# Locales


def add_locale(container: Container, name: str) -> None:
    """Put a locale into the rootfs, as localedef does: start.sh looks whether it is there."""
    directory = container.rootfs / "usr/lib/locale" / name
    directory.mkdir(parents=True)
    (directory / "LC_CTYPE").write_text("")


@pytest.mark.parametrize(
    ("there", "caller", "expected"),
    [
        (["C.utf8"], "en_US.UTF-8", "C.UTF-8"),
        (["C.UTF-8"], "en_US.UTF-8", "C.UTF-8"),
        (["C.utf8", "en_US.utf8"], "en_US.UTF-8", "en_US.UTF-8"),
        (["C.utf8", "de_DE.iso885915@euro"], "de_DE.ISO-8859-15@euro", "de_DE.ISO-8859-15@euro"),
        (["C.utf8", "de_DE"], "de_DE", "de_DE"),
        (["C.utf8"], "C.UTF-8", "C.UTF-8"),
        (["C.utf8"], "POSIX", "POSIX"),
        ([], "C", "C"),
        ([], "en_US.UTF-8", None),
        (["C.utf8"], "", None),
        (["C.utf8"], "../../../etc", None),
    ],
)
def test_a_locale_is_passed_only_if_the_rootfs_has_it(
    container: Container, runtime: str, there: list[str], caller: str, expected: str | None
) -> None:
    for name in there:
        add_locale(container, name)
    assert variables(container, runtime, LANG=caller) == ([f"LANG={expected}".encode()] if expected else [])


@pytest.mark.parametrize("origin", ["image_env", "default_env", "option"])
def test_a_locale_of_the_settings_counts_for_more(container: Container, origin: str) -> None:
    add_locale(container, "C.utf8")
    options = ["--env", "LANG=xx"] if origin == "option" else []
    container.set(**({} if options else {origin: ("PATH=/bin", "LANG=xx")}))
    assert variables(container, "proot", *options, LANG="en_US.UTF-8") == [b"LANG=xx"]


@pytest.mark.parametrize("lib", ["lib", "usr/lib"])
def test_musl_has_every_locale(container: Container, lib: str) -> None:
    (container.rootfs / lib).mkdir(parents=True, exist_ok=True)
    (container.rootfs / lib / "ld-musl-x86_64.so.1").write_text("")
    if lib == "usr/lib":
        (container.rootfs / "lib").symlink_to("/usr/lib")
    assert variables(container, "proot", LANG="de_DE.UTF-8") == [b"LANG=de_DE.UTF-8"]


@pytest.fixture
def archive(container: Container) -> Container:
    """A container with an archive of locales that has en_US.UTF-8."""
    need("localedef")
    if not Path("/usr/share/i18n/charmaps").is_dir():
        unavailable("localedef has no sources here: apt-get install locales")
    (container.rootfs / "usr/lib/locale").mkdir(parents=True)
    run("localedef", f"--prefix={container.rootfs}", "-c", "-i", "en_US", "-f", "UTF-8", "en_US.UTF-8")
    (container.rootfs / "usr/lib/locale/locale-archive").chmod(0o644)
    return container


def test_locales_are_found_in_the_archive(archive: Container, runtime: str) -> None:
    assert variables(archive, runtime, LANG="en_US.UTF-8") == [b"LANG=en_US.UTF-8"]
    assert variables(archive, runtime, LANG="en_US.ISO-8859-1") == []


def test_small_tools_find_them_too(archive: Container, small_tools: dict[str, str]) -> None:
    has_tr = Path(small_tools["PATH"], "tr").exists()  # Android's toybox has it, Debian's hasn't
    for locale, expected in (("en_US.utf8", [b"LANG=en_US.utf8"] if has_tr else []), ("en_US", [])):
        env = {**small_tools, "TERM": "", "LANG": locale}
        found = archive.words("proot", *ENVIRONMENT, env=env)
        assert [word for word in found if word not in OWN] == expected


# Timezones


def add_zones(container: Container, *names: str, localtime: str = "") -> None:
    """Put timezones into the rootfs, and the link /etc/localtime."""
    for name in names:
        path = container.rootfs / "usr/share/zoneinfo" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    if localtime:
        (container.rootfs / "etc/localtime").symlink_to(localtime)


@pytest.mark.parametrize(
    ("caller", "expected"),
    [
        ("Europe/Berlin", "Europe/Berlin"),
        (":Europe/Berlin", "Europe/Berlin"),
        ("/usr/share/zoneinfo/Europe/Berlin", "Europe/Berlin"),
        ("CET-1CEST,M3.5.0,M10.5.0/3", "CET-1CEST,M3.5.0,M10.5.0/3"),
        ("<+03>-3", "<+03>-3"),
        ("Mars/Olympus", None),
        ("UTC", None),
        ("", None),
        ("../../../etc/passwd", None),
        ("/etc/localtime", None),
    ],
)
def test_timezone_of_the_caller(container: Container, runtime: str, caller: str, expected: str | None) -> None:
    add_zones(container, "Europe/Berlin")
    assert variables(container, runtime, TZ=caller) == ([f"TZ={expected}".encode()] if expected else [])


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("/usr/share/zoneinfo/Europe/Berlin", "Europe/Berlin"),
        ("../usr/share/zoneinfo/Europe/Berlin", "Europe/Berlin"),
        ("/usr/share/zoneinfo/Etc/UTC", None),
        ("/usr/share/zoneinfo/Asia/Tokyo", None),
    ],
)
def test_timezone_of_the_machine(container: Container, place: Path, host: str, expected: str | None) -> None:
    add_zones(container, "Europe/Berlin")
    (place / "localtime").symlink_to(host)
    found = variables(container, "proot", PROVISION_TEST_LOCALTIME=f"{place}/localtime")
    assert found == ([f"TZ={expected}".encode()] if expected else [])


@pytest.mark.parametrize(
    ("of_image", "now", "is_passed"),
    [
        ("/usr/share/zoneinfo/Etc/UTC", "/usr/share/zoneinfo/Etc/UTC", True),
        ("../usr/share/zoneinfo/UTC", "../usr/share/zoneinfo/UTC", True),
        ("", "", True),
        ("/usr/share/zoneinfo/Etc/UTC", "/usr/share/zoneinfo/UTC", False),  # the user's choice
        ("/usr/share/zoneinfo/Etc/UTC", "/usr/share/zoneinfo/Asia/Tokyo", False),
        ("", "/usr/share/zoneinfo/UTC", False),
        ("/usr/share/zoneinfo/Etc/UTC", "", False),
        ("/usr/share/zoneinfo/Asia/Tokyo", "/usr/share/zoneinfo/Asia/Tokyo", False),  # the image's
    ],
)
def test_a_timezone_that_somebody_has_chosen_stays(
    container: Container, of_image: str, now: str, is_passed: bool
) -> None:
    add_zones(container, "Europe/Berlin", localtime=now)
    container.set(image_localtime=of_image)
    assert variables(container, "proot", TZ="Europe/Berlin") == ([b"TZ=Europe/Berlin"] if is_passed else [])


def test_a_timezone_s_file_of_the_rootfs_stays(container: Container) -> None:
    add_zones(container, "Europe/Berlin")
    (container.rootfs / "etc/localtime").write_text("TZif")
    assert variables(container, "proot", TZ="Europe/Berlin") == []


# Proxies


PROXIES = {
    "HTTP_PROXY": "http://proxy:3128",
    "https_proxy": "http://proxy:3128",
    "no_proxy": "localhost,.example",
    "all_proxy": "socks5://proxy",
}


def test_proxies_are_passed_when_they_are_set(container: Container, runtime: str) -> None:
    found = variables(container, runtime, **PROXIES, FTP_PROXY="", OTHER_PROXY="x")
    assert sorted(found) == sorted(f"{name}={value}".encode() for name, value in PROXIES.items())
    assert variables(container, runtime, "--no-proxy-env", **PROXIES) == []
    assert b"no_proxy=typed" in variables(container, runtime, "--env", "no_proxy=typed", **PROXIES)


SECRET = "http://user:pass'word@proxy:3128"


@pytest.mark.parametrize("kind", ["container", "scratch"])
def test_a_password_is_in_no_word_of_a_program(place: Path, runtime: str, kind: str) -> None:
    target = {"container": make_container, "scratch": make_scratch}[kind](place / kind)
    options = ["--env", "TOKEN"]
    env = with_caller(runtime, http_proxy=SECRET, TOKEN="pass'word", HTTP_PROXY="http://other:1", ODD="x")
    shown = target.output(runtime, "--print", *options, *ENVIRONMENT, env=env)
    assert b"pass" not in shown
    done = subprocess.run([b"sh", b"-c", shown], capture_output=True, check=True, **{**starter(runtime), "env": env})
    expected = {f"http_proxy={SECRET}".encode(), b"TOKEN=pass'word", b"HTTP_PROXY=http://other:1"}
    assert expected <= set(done.stdout.split(b"\0"))
    # The guest is seen with all that stays above it: its words are /proc/PID/cmdline.
    with target.running(runtime, *options, "cat", env=env, stdin=subprocess.PIPE) as process:
        seen = _words_below(process.pid)
        process.communicate()
    assert b"cat" in seen
    assert b"pass" not in seen
    found = set(target.words(runtime, *options, *ENVIRONMENT, env=env))
    assert expected <= found
    assert not any(word.startswith(b"ODD=") for word in found)


def _words_below(pid: int) -> bytes:
    """The words of a process and of those below it, when a `cat` is among them."""
    words: list[bytes] = []

    def has_cat() -> bool:
        words.clear()
        for number in (pid, *descendants_of(pid)):
            with suppress(OSError):  # it has ended
                words.append(Path(f"/proc/{number}/cmdline").read_bytes())
        return not {b"cat\0", b"/app/cat\0"}.isdisjoint(words)

    wait_until(has_cat)
    return b"".join(words)


# A real Debian


@pytest.mark.slow
def test_programs_of_debian_have_no_complaint_about_the_locale(debian_container: Container) -> None:
    env = with_caller("proot", LANG="en_US.UTF-8")
    guest = "perl -e 'print qq(x)' && bash -c 'echo $LANG'"
    assert debian_container.output("proot", "sh", "-c", guest, env=env) == b"xC.UTF-8\n"


@pytest.fixture
def debian_container(debian: str, place: Path) -> Container:
    """A Debian, provisioned."""
    starter("proot")
    provision(debian, place / "debian", **as_user(), status=0)
    return Container(place / "debian")
