"""The command line: usage errors, help, output, signals and exit statuses."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import provisioner
from provisioner import __main__, __version__
from provisioner.cli import COMMANDS, GROUPS, SUMMARY, _parse, _parser, main
from provisioner.commands import install
from provisioner.commands.first_word import check_first_word
from provisioner.commands.foreign_words import INSTEAD, what_to_type
from provisioner.commands.similar import count_typos, nearest
from provisioner.commands.start_options import with_volume_options
from provisioner.container.record import Record
from provisioner.errors import MachineError, UsageError
from tests.support import builders
from tests.support.leftovers import clean_place
from tests.support.local_archives import PLAIN, docker_members, write_archive
from tests.support.scripted_registry import Broken, ScriptedRegistry
from tests.support.tools import as_user, clean_environment, provision, provision_command
from tests.support.waiting import wait_until


@pytest.fixture
def registry(registry: ScriptedRegistry) -> ScriptedRegistry:
    registry.push("image", builders.small(run={"Cmd": ["/bin/sh", "a b"]}))
    return registry


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PROVISION_CACHE_DIR", str(tmp_path / "cache"))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


Output = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["ubuntu\x1b[31m", "dir"], r"ubuntu\x1b[31m"),
        (["ubuntu", "dir", "\x1b[31m", "more"], r"\x1b[31m"),
        (["ubuntu", "dir", "--\x1b[31m"], r"\x1b[31m"),
        (["ubuntu", "dir", "--jobs", "\x1b[31m"], r"\x1b[31m"),
        (["ubuntu", "dir", "--runtime", "\x1b[31m"], r"\x1b[31m"),
        (["\x1b[31mlst"], r"\x1b[31m"),
    ],
)
def test_usage_errors_are_one_line_and_a_hint(words: list[str], says: str, capsys: Output) -> None:
    """docs/mistakes.md has many more, which test_mistakes.py tries."""
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.startswith("provision: ")
    assert len(err.splitlines()) == 2
    assert "\x1b" not in err


_NAMES = """
adminer aerospike almalinux alpine alt amazoncorretto amazonlinux api-firewall arangodb archlinux backdrop bash bonita
buildpack-deps busybox caddy cassandra celery centos chronograf cirros clearlinux clefos clickhouse clojure composer
consul convertigo couchbase couchdb crate crux dart debian django docker drupal eclipse-mosquitto eclipse-temurin
eggdrop elasticsearch elixir emqx erlang euleros express-gateway fedora flink fluentd friendica fsharp gazebo gcc
geonetwork ghost glassfish golang gradle groovy haproxy haskell haxe hello-seattle hello-world hipache hitch hola-mundo
httpd hylang ibm-semeru-runtimes ibmjava influxdb iojs irssi java jenkins jetty jobber joomla jruby julia
kaazing-gateway kapacitor kibana known kong krakend lightstreamer liquibase logstash mageia mariadb matomo maven
mediawiki memcached mongo mongo-express monica mono mysql nats nats-streaming neo4j neurodebian nextcloud nginx node
notary nuxeo odoo open-liberty openjdk opensuse oraclelinux orientdb owncloud percona perl photon php php-zendserver
phpmyadmin piwik plone postfixadmin postgres pypy python r-base rabbitmq rails rakudo-star rapidoid redis redmine
registry rethinkdb rocket.chat rockylinux ros ruby rust sapmachine satosa scratch sentry silverpeas sl solr sonarqube
sourcemage spark spiped storm swarm swift swipl teamspeak telegraf thrift tomcat tomee traefik ubuntu
ubuntu-debootstrap ubuntu-upstart unit valkey varnish vault websphere-liberty wordpress xwiki yourls znc zookeeper
void kali gentoo devuan manjaro arch
"""
OFFICIAL_IMAGES = frozenset(_NAMES.split())
"""Those of Docker Hub, and names of the catalogue."""


@pytest.mark.parametrize("words", [[], ["./there"], ["./there", "--quiet"]])
def test_images_of_docker_hub_are_not_taken_for_typos(words: list[str]) -> None:
    for name in OFFICIAL_IMAGES:
        positions = range(1 + min(len(words), 1))
        check_first_word([name, *words], positions, COMMANDS)


def test_names_of_the_user_s_own_catalogue_are_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError):
        check_first_word(["lsit"], [0], COMMANDS)
    (tmp_path / "provision").mkdir()
    (tmp_path / "provision/config.toml").write_text('[catalogue.lsit]\n"*" = "docker://quay.io/owner/lsit"\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    check_first_word(["lsit"], [0], COMMANDS)


@pytest.mark.parametrize("name", [*COMMANDS, *sorted(INSTEAD)[::10]])
def test_one_typo_in_a_subcommand_is_seen_before_any_request(name: str) -> None:
    """Whether a letter is left out, put in, changed or swapped with the next one."""
    for at in range(1, len(name)):
        rest = name[at + 1 :]
        for word in (name[:at] + rest, f"{name[:at]}q{name[at:]}", f"{name[:at]}q{rest}", swapped(name, at)):
            if word in (*OFFICIAL_IMAGES, *COMMANDS, *INSTEAD) or len(word.replace("q", "")) < 2:
                continue
            with pytest.raises(UsageError) as caught:
                check_first_word([word, *["web"] * (at % 3)], range(1 + at % 3), COMMANDS)
            assert caught.value.message == f"there is no subcommand {word}"


@pytest.mark.parametrize("word", ["lits", "rn", "strat", "inspct"])
def test_a_word_that_is_nearly_a_subcommand_is_an_image_where_dir_says_so(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path where nothing is can only be DIR, and so can what was made from that image: Make runs a line again."""
    monkeypatch.chdir(tmp_path)
    for directory in ("./new", f"{tmp_path}/new", "../new"):
        check_first_word([word, directory], range(2), COMMANDS)
    for others in (["new"], ["./new", "more"], ["."], []):
        assert_refused([word, *others])
    (tmp_path / "new").mkdir()
    assert_refused([word, "./new"])
    (tmp_path / "new/.provision").mkdir()
    assert_refused([word, "./new"])
    digest = f"sha256:{'0' * 64}"
    record = Record(f"docker.io/library/{word}:latest", "linux/amd64", digest, "", digest, (), "generic")
    (tmp_path / "new/.provision/record.json").write_text(record.to_json())
    check_first_word([word, "./new"], range(2), COMMANDS)
    assert_refused(["tgas", "./new"])


@pytest.mark.parametrize("word", ["docter", "creat", "pul"])
def test_what_takes_a_directory_that_is_not_there(word: str) -> None:
    """Also by the names that other tools have for it."""
    assert_refused([word, "./new"])


def test_a_path_behind_another_tool_s_word_is_a_directory_unless_an_archive_is_there(tmp_path: Path) -> None:
    assert what_to_type(["pull", "./new"], COMMANDS) == "provision IMAGE ./new"
    (tmp_path / "image.tar").touch()
    assert what_to_type(["pull", f"{tmp_path}/image.tar"], COMMANDS).startswith(f"provision {tmp_path}/image.tar ./")


def assert_refused(words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        check_first_word(words, range(len(words)), COMMANDS)
    assert caught.value.message == f"there is no subcommand {words[0]}"
    assert f"; an image of that name: provision install {' '.join(words)}" in caught.value.hint


def swapped(word: str, at: int) -> str:
    """Return a word with the letter `at` swapped with the one before it."""
    return word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :]


@pytest.mark.parametrize(
    ("one", "other", "count"),
    [("", "", 0), ("a", "", 1), ("ab", "ba", 1), ("rmeove", "remove", 1), ("docker", "doctor", 2), ("abc", "ca", 3)],
)
def test_typos_are_counted(one: str, other: str, count: int) -> None:
    assert count_typos(one, other) == count_typos(other, one) == count


def test_short_words_are_near_to_nothing() -> None:
    assert nearest("", ["run"]) == nearest("r", ["run"]) == nearest("rxx", ["run"]) == nearest("rx", ["run"]) == ""
    assert nearest("rnu", ["run"]) == nearest("rn", ["rm", "run"]) == "run"
    assert nearest("sl", ["ps", "ls"]) == "ls"


@pytest.mark.parametrize(
    ("words", "same"),
    [
        (["-q", "list"], ["list", "-q"]),
        (["--json", "list"], ["list", "--json"]),
        (["--color", "never", "list"], ["list", "--color", "never"]),
        (["--color=never", "-q", "list"], ["list", "--color=never", "-q"]),
        (["--help", "run"], ["help", "run"]),
        (["-h", "--verbose", "run"], ["help", "run"]),
        (["-q", "help", "run"], ["help", "run"]),
        (["help", "-q", "run"], ["help", "run"]),
        (["--limit", "5", "tags"], ["tags", "--limit", "5"]),
    ],
)
def test_options_may_precede_the_subcommand(words: list[str], same: list[str], capsys: Output) -> None:
    assert outcome(words, capsys) == outcome(same, capsys)


def outcome(words: list[str], capsys: Output) -> list[object]:
    """Return the exit status, standard output and standard error of `provision` with these words."""
    try:
        status: object = main(words)
    except SystemExit as ended:
        status = ended.code
    return [status, *capsys.readouterr()]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-v", "/a:/b", "x"], ["--volume", "/a:/b", "x"]),
        (["-v/a:/b", "x"], ["--volume", "/a:/b", "x"]),
        (["-v", "data:/b", "x"], ["--volume", "data:/b", "x"]),
        (["-v", "ubuntu", "x"], ["-v", "ubuntu", "x"]),
        (["-v", "oci:/a", "x"], ["-v", "oci:/a", "x"]),
        (["-v", "https://a", "x"], ["-v", "https://a", "x"]),
        (["-v", "./a.tar", "x"], ["-v", "./a.tar", "x"]),
    ],
)
def test_v_is_verbose_unless_it_is_docker_s(words: list[str], expected: list[str]) -> None:
    assert with_volume_options(words) == expected


@pytest.mark.parametrize("step", ["matching_profile", "launcher", "write_owners"])
def test_an_interrupted_run_says_what_is_kept(
    step: str, registry: ScriptedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    """Also when all is there, and only the rest isn't done yet."""

    def interrupted(*_: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"provisioner.provision.creation.{step}", interrupted)
    words = [f"{registry.host}/image", str(tmp_path / "dir"), "--platform=amd64", "-q"]
    assert main(words) == 130
    assert re.fullmatch(r"provision: interrupted\n  \d+ B are kept: run again to go on\n", capsys.readouterr().err)
    assert main([*words, "--no-cache"]) == 130
    assert capsys.readouterr().err == "provision: interrupted\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_common_options_are_everywhere(name: str, capsys: Output) -> None:
    text = help_of(["help", name], capsys)
    for option in ("-h, --help", "-V, --version", "-q, --quiet", "-v, --verbose"):
        assert option in text
    assert help_of([name, "-V"], capsys) == f"provision {__version__}\n"


def test_verbose_shows_each_request_without_secrets(registry: ScriptedRegistry, tmp_path: Path, capsys: Output) -> None:
    words = [f"{registry.host}/image", str(tmp_path / "dir"), "--platform=amd64"]
    assert main([*words, "-v"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert any(re.fullmatch(rf"GET {registry.host}/v2/image/manifests/latest: 200, .*, \d+ ms", line) for line in lines)
    decided = dict(line.split(": ", 1) for line in lines if ": " in line)
    assert decided["platform"] == "linux/amd64, by --platform"
    assert decided["profile"] == "default, by os-release"
    assert decided["owners"].startswith(("the image's, since", "all files are yours, since"))
    assert decided["cache"] == str(tmp_path / "cache")
    assert main([*words, "--force"]) == 0
    err = capsys.readouterr().err
    assert not any(
        word in err for word in ("GET ", *(f"{word}: " for word in ("platform", "profile", "owners", "cache")))
    )


def test_dir_is_the_image_s_name_where_none_is_given(
    registry: ScriptedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [f"{registry.host}/image:latest", "--platform=amd64"]
    assert main(words) == 0
    assert "DIR is ./image, by the image's name\n" in capsys.readouterr().err
    assert (tmp_path / "image/start.sh").exists()
    assert main(words) == 0
    assert "./image is up to date" in capsys.readouterr().err
    registry.push("other/image", builders.small(run={"Cmd": ["other"]}))
    assert main([f"{registry.host}/other/image", "--platform=amd64"]) == 2
    assert "start it: ./image/start.sh" in capsys.readouterr().err


def test_what_is_to_be_bound_and_is_not_there_is_said(
    registry: ScriptedRegistry, tmp_path: Path, capsys: Output
) -> None:
    words = [f"{registry.host}/image", str(tmp_path / "dir"), "--platform=amd64", "--quiet"]
    assert main([*words, "--bind", f"{tmp_path}/none:/x:ro", "-v", f"{tmp_path}:/y"]) == 0
    missing = f"{tmp_path}/none"
    assert capsys.readouterr().err == (
        f"provision: --bind {missing}:/x:ro: {missing} isn't there; starts go on without it\n"
    )


def test_a_lock_that_cant_be_written_ends_it_before_the_download(
    registry: ScriptedRegistry, tmp_path: Path, capsys: Output
) -> None:
    words = [f"{registry.host}/image", str(tmp_path / "dir"), "--platform=amd64"]
    assert main([*words, "--lock", str(tmp_path / "none/x.lock")]) == 7
    assert "write the lock" in capsys.readouterr().err
    assert not registry.asked(".*")
    assert os.listdir(tmp_path) == []


def test_a_user_who_may_have_no_more_threads(registry: ScriptedRegistry, tmp_path: Path) -> None:
    """The kernel's limit, which root doesn't have, leaves one thread, and the run starts more."""
    with clean_place() as place:
        words: list[str | Path] = [f"{registry.host}/image", place / "dir", "--platform=amd64", "--quiet"]
        command, options = provision_command(*words, cache=place / "cache", **as_user())
        done = subprocess.run(["prlimit", "--nproc=1", "--", *command], check=False, **options)
        assert done.returncode == 7, done.stderr
        assert os.listdir(place) == ["cache"]
        assert "may have no more processes and threads" in done.stderr


def test_an_image_that_is_too_large_leaves_nothing(registry: ScriptedRegistry, tmp_path: Path, capsys: Output) -> None:
    words = [f"{registry.host}/image", str(tmp_path / "dir"), "--platform=amd64"]
    assert main([*words, "--max-size", "30k"]) == 7
    message = "layer 2 of 2: the image takes more than the 30,000 bytes that are allowed"
    assert capsys.readouterr().err.splitlines()[-2:] == [
        f"provision: {message}",
        "  if you trust the image, allow more, as --max-size 100G; else free some space",
    ]
    assert os.listdir(tmp_path) == ["cache"]
    assert main([*words, "--max-size", "100k"]) == 0


@pytest.mark.parametrize(
    "words", [("list", "--json"), ("cache",), ("cache", "--json"), ("doctor", "--offline"), ("IMAGE", "DIR", "--json")]
)
def test_a_standard_output_that_is_full(words: tuple[str, ...], registry: ScriptedRegistry, tmp_path: Path) -> None:
    main([f"{registry.host}/image", str(tmp_path / "dir"), "--platform=amd64"])
    places = {"IMAGE": f"{registry.host}/image", "DIR": str(tmp_path / "dir")}
    with open("/dev/full", "w") as full:
        done = provision(*(places.get(word, word) for word in words), cache=tmp_path / "cache", stdout=full)
    assert done.returncode == 7
    assert "provision: write to standard output: No space left on device\n  free some space" in done.stderr
    assert "unexpected" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">&-", "2>&-"])
def test_standard_streams_that_are_closed(closed: str, registry: ScriptedRegistry, tmp_path: Path) -> None:
    words: list[str | Path] = [f"{registry.host}/image", tmp_path / "dir", "--platform=amd64", "--json"]
    command, options = provision_command(*words, cache=tmp_path / "cache")
    done = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *command], check=False, **options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "dir/start.sh").exists()
    assert ("dir is ready" in done.stderr) == ("2>" not in closed)


def test_ctrl_c_while_it_still_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "provisioner.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "provisioner.cli")
    monkeypatch.delattr(provisioner, "cli")
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    assert __main__.main() == 130


def test_a_user_without_a_home(
    registry: ScriptedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "PROVISION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # nobody that passwd knows
    monkeypatch.chdir(tmp_path)
    words = [f"{registry.host}/image", "dir", "--platform=amd64"]
    assert main(words) == 7
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "provision: this user has no home directory to keep a cache in",
        "  set HOME, or PROVISION_CACHE_DIR",
    ]
    assert main(["list"]) == 7
    message = "provision: read the list of directories: this user has no home directory: set HOME, or XDG_STATE_HOME"
    assert capsys.readouterr().err.splitlines() == [message]
    monkeypatch.setenv("PROVISION_CACHE_DIR", str(tmp_path / "cache"))
    assert main(words) == 0
    assert sorted(os.listdir(tmp_path)) == ["cache", "dir"]


def test_a_cache_that_cant_be_one(
    registry: ScriptedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setenv("PROVISION_CACHE_DIR", "/dev/null")
    words = [f"{registry.host}/image", str(tmp_path / "dir"), "--platform=amd64"]
    assert main(words) == 7
    hint = capsys.readouterr().err.splitlines()[-1]
    assert hint == "  name another directory in PROVISION_CACHE_DIR, or use none: --no-cache"
    assert main([*words, "--no-cache"]) == 0


def test_a_symlink_in_a_circle(registry: ScriptedRegistry, tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert main([f"{registry.host}/image", str(tmp_path / "loop"), "--platform=amd64"]) == 8
    assert "loop is a symlink that leads in a circle\n  remove it" in capsys.readouterr().err
    assert main(["doctor", "--offline", str(tmp_path / "loop")]) in (0, 7)
    assert set(os.listdir(tmp_path)) <= {"cache", "loop"}


def test_a_current_directory_that_is_gone(
    registry: ScriptedRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for words in (["dir"], [str(tmp_path / "dir"), "--bind", "x"]):
        assert main([f"{registry.host}/image", *words, "--platform=amd64"]) == 7
        assert "No such file or directory" in capsys.readouterr().err


def test_a_search_for_what_is_no_text(capsys: Output) -> None:
    assert main(["search", "a\udcff"]) == 2
    assert "can't be searched for" in capsys.readouterr().err


def test_an_image_may_be_called_like_a_command(registry: ScriptedRegistry, tmp_path: Path, capsys: Output) -> None:
    registry.push("install", builders.small())
    assert main(["install", f"{registry.host}/install", str(tmp_path / "dir"), "--platform=amd64"]) == 0
    assert (tmp_path / "dir/rootfs").is_dir()


def help_of(words: list[str], capsys: Output) -> str:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_lists_every_subcommand_in_its_group_on_a_line(capsys: Output) -> None:
    text = help_of(["--help"], capsys)
    for title, group in GROUPS.items():
        _, heading, lines = text.partition(f"\n{title}:\n")
        assert heading
        listed = [line.split(maxsplit=1) for line in lines.partition("\n\n")[0].splitlines()]
        assert listed == [[name, COMMANDS[name].HELP] for name in group]
    assert max(map(len, text[text.index(next(iter(GROUPS))) :].splitlines())) <= 80
    assert not any(f"{title}:" in help_of(["install", "--help"], capsys) for title in GROUPS)


def test_help_lists_every_subcommand_that_a_hint_names() -> None:
    texts = [
        node.value
        for path in Path(provisioner.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    names = {name for text in texts for name in re.findall(r"(?:: |`)provision ([a-z]+) ?(?:$|[A-Z;`])", text)}
    assert names >= {"login", "tags"}
    assert names <= {*COMMANDS, "help"}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_subcommand_has_help_with_an_example(name: str, capsys: Output) -> None:
    text = " ".join(help_of([name, "--help"], capsys).split())
    assert f"{COMMANDS[name].HELP}: {COMMANDS[name].EXAMPLE}" in text
    assert text.startswith(f"usage: provision {name} ")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_narrow_terminal(name: str, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    text = help_of(["help", name], capsys)
    assert max(map(len, text.splitlines())) <= 40


def test_usage_names_the_operands_and_which_of_them_may_be_left_out(capsys: Output) -> None:
    first = {name: help_of(["help", name], capsys).partition("\n")[0] for name in ("install", "expose", "run", "list")}
    assert first == {
        "install": "usage: provision install [OPTION]... SOURCE [DIR]",
        "expose": "usage: provision expose [OPTION]... [NAME|DIR] [PROGRAM]...",
        "run": "usage: provision run [OPTION]... SOURCE [WORD]...",
        "list": "usage: provision list [OPTION]...",
    }


def test_help_and_version(capsys: Output) -> None:
    for words, says in (
        (["--help"], install.EXAMPLE),
        (["help"], SUMMARY),
        (["-h"], SUMMARY),
        (["help", "help"], SUMMARY),
        (["help", "install"], "--platform"),
        (["install", "--help"], "Exit status"),
        (["--version"], __version__),
    ):
        assert says in help_of(words, capsys)


def test_a_worker_that_may_start_no_thread_ends_alike(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Output
) -> None:
    def broken(_: str) -> None:
        raise RuntimeError("RuntimeError: can't start new thread")  # as Workers raises the error of a worker

    monkeypatch.setattr("provisioner.image.reference.Reference.parse", broken)
    assert main(["ubuntu", str(tmp_path / "dir")]) == 7
    assert "may have no more processes and threads" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        *(["ubuntu", "new", f"{option}=~/x"] for option in ("--lock", "--locked", "--stamp", "--stamp-if-changed")),
        ["ubuntu", "new", "--profile=~/x"],
        ["ubuntu", "--", "~/x"],
        ["oci:~/x", "new"],
        ["run", "-v", "~/x:/y", "ubuntu"],
        ["run", "--env-file=~/x", "ubuntu"],
        ["run", "--device", "~/x", "ubuntu"],
        *([name, "~/x"] for name in ("start", "stop", "logs", "diff", "repair", "remove", "owners", "doctor")),
        *([name, "~/x", "y"] for name in ("copy", "move", "backup", "export", "exec", "expose", "restore")),
        *([name, "y", "~/x"] for name in ("copy", "move", "backup", "export", "restore")),
        ["config", "y", "--set", "bind=~/x:/y"],
    ],
    ids=" ".join,
)
def test_a_home_directory_that_the_shell_has_not_put_in(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setenv("HOME", "/home/you")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "y/.provision").mkdir(parents=True)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert ": the shell has left ~ as it is, in quotes or behind = or :\n" in said
    assert "/home/you/x" in said
    assert os.listdir(tmp_path) == ["y"]


@pytest.mark.parametrize("words", [["list", "--"], ["list", "-q", "--"], ["cache", "--"]])
def test_two_dashes_with_nothing_behind_them_are_left_out(words: list[str], capsys: Output) -> None:
    assert main(words) == 0


def test_a_tilde_for_the_container_or_in_a_name_is_no_home() -> None:
    words = ["--workdir", "~", "-e", "~=~", "-v", "./~:/~", "ubuntu", "echo", "~/x"]
    arguments = _parser("run").parse(with_volume_options(words))
    assert arguments.words == ["echo", "~/x"]
    assert arguments.start_words == ["--workdir", "~", "-e", "~=~", "--volume", "./~:/~"]
    assert _parser("install").parse(["ubuntu", "./~/new", "--env=A=~"]).directory == "./~/new"


def test_no_traceback_reaches_a_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Output) -> None:
    def broken(_: str) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("provisioner.image.reference.Reference.parse", broken)
    assert main(["ubuntu", str(tmp_path / "dir")]) == 1
    assert capsys.readouterr().err.startswith(
        "provision: unexpected: ZeroDivisionError: a bug\n  this is a bug in prov"
    )
    monkeypatch.setenv("PROVISION_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["ubuntu", str(tmp_path / "dir")])


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_end_it_at_once_and_leave_nothing(
    number: signal.Signals, status: int, registry: ScriptedRegistry, tmp_path: Path
) -> None:
    layer = builders.layer(("big", os.urandom(1 << 20)))
    registry.push("image", builders.image(layer))
    registry.on(f".*/{builders.digest_of(layer.blob)}", _silent(layer.blob))
    words: list[str | Path] = [f"{registry.host}/image", tmp_path / "new/dir", "--platform=amd64"]
    command, options = provision_command(*words, cache=tmp_path / "cache")
    with subprocess.Popen(command, **options) as process:
        wait_until(lambda: registry.asked(".*/blobs/" + builders.digest_of(layer.blob)))
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == ["cache"]


def _silent(blob: bytes) -> Broken:
    return Broken(200, blob, sent=len(blob) // 2, wait=threading.Event())


def test_a_reader_that_went_away_is_no_accident(registry: ScriptedRegistry, tmp_path: Path) -> None:
    words: list[str | Path] = [f"{registry.host}/image", tmp_path / "dir", "--platform=amd64", "--json", "--quiet"]
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as gone:
        done = provision(*words, cache=tmp_path / "cache", stdout=gone)
    assert done.returncode == 128 + signal.SIGPIPE
    assert done.stderr == ""
    assert (tmp_path / "dir/start.sh").exists()


def test_help_is_quick_and_needs_none_of_the_heavy_imports() -> None:
    script = (
        "import sys\nfrom provisioner.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(*sorted({'requests', 'tqdm', 'magic', 'sh', 'urllib3', 'tarfile', 'tomllib'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


def test_a_pull_imports_nothing_that_it_does_not_need(registry: ScriptedRegistry, tmp_path: Path) -> None:
    """Each module costs half a millisecond, on a phone a few of them."""
    registry.push("image", builders.image(builders.layer(("x", b"1"))))
    script = (
        "import sys\nfrom provisioner.cli import main\n"
        "status = main(sys.argv[1:])\nprint(*sorted(sys.modules))\nsys.exit(status)\n"
    )
    image = ("--platform=linux/amd64", "--no-sync", "--quiet", f"{registry.host}/image")
    command, options = provision_command(*image, tmp_path / "dir", cache=tmp_path / "cache")
    python, _, _, *arguments = command
    done = subprocess.run([python, "-c", script, *arguments], check=True, **options)
    modules = done.stdout.split()
    rooms = {name.split(".")[1] for name in modules if name.startswith("provisioner.")}
    assert "layers" in rooms
    assert not {"doctor", "exports", "maintenance"} & rooms
    assert not {f"provisioner.commands.{name}" for name in COMMANDS} - {"provisioner.commands.install"} & set(modules)
    assert not {"asyncio", "magic", "multiprocessing", "sh", "tarfile", "tqdm", "unittest", "xml"} & set(modules)


@pytest.mark.parametrize(
    "module", ["provisioner.cli", "provisioner.commands.install", "provisioner.provision", "requests", "urllib3"]
)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_during_an_import_is_not_lost(
    module: str, number: signal.Signals, status: int, registry: ScriptedRegistry, tmp_path: Path
) -> None:
    """Python ignores what is raised in a callback of a weak reference; the import system has such callbacks."""
    if number == signal.SIGTERM and module.startswith(("provisioner.cli", "provisioner.commands")):
        status = -signal.SIGTERM
    registry.on(".*", Broken(200, b"{", sent=0, wait=threading.Event()))
    script = (
        "import os, signal, sys, weakref\n"
        "class Finder:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        referent = type('Referent', (), {})()\n"
        f"        if name == {module!r}: self.found = weakref.ref(referent, self.interrupt)\n"
        f"    def interrupt(self, reference): os.kill(os.getpid(), {int(number)})\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from provisioner.__main__ import main\n"
        "sys.exit(main())\n"
    )
    command = [sys.executable, "-c", script, f"{registry.host}/image", str(tmp_path / "dir"), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    said = {130: "provision: interrupted\n", 143: "provision: ended by a signal\n"}
    assert (done.returncode, done.stdout, done.stderr) == (status, "", said.get(status, ""))
    assert not (tmp_path / "dir").exists()


SLOW_END = """
class Slow:
    def __del__(self, sleep=__import__("time").sleep): sleep(0.2)

slow = Slow()
"""
"""Lets Python take its time to clean up at its end."""


@pytest.mark.parametrize("call", ["interruptible(signalled)", "signalled()"])
def test_a_signal_at_the_end_of_a_process_leaves_it_its_status(call: str) -> None:
    """The exception of the first one has ended the run; the second one comes too late."""
    script = (
        f"{SLOW_END}import os, signal, sys\n"
        "from provisioner.signals import interruptible, raise_on\n"
        "raise_on(signal.SIGINT)\n"
        "def signalled(): os.kill(os.getpid(), signal.SIGINT)\n"
        f"try: {call}\n"
        "except KeyboardInterrupt: pass\n"
        "sys.exit(3)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 3


def test_a_second_signal_during_an_import_is_raised_at_once() -> None:
    script = (
        f"{SLOW_END}import os, signal, sys, time\n"
        "class Finder:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'provisioner.cli':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "            time.sleep(0.5)\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "            while True: pass\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from provisioner.__main__ import main\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "provision: interrupted\n")


def test_ctrl_c_is_not_hidden_by_what_fails_in_cleaning_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Output
) -> None:
    def interrupted(_: str) -> None:
        try:
            raise KeyboardInterrupt  # between os.close() and the next statement
        finally:
            raise MachineError("write x: Bad file descriptor")

    monkeypatch.setattr("provisioner.image.reference.Reference.parse", interrupted)
    assert main(["ubuntu", str(tmp_path / "dir")]) == 130
    assert capsys.readouterr().err == "provision: interrupted\n"


@pytest.mark.parametrize("path", ["", ":", ".", "bin", "::/nowhere:./bin"])
def test_programs_in_relative_directories_of_path_are_not_run(path: str, tmp_path: Path) -> None:
    """The current directory may be one that others, or an image, have put programs into."""
    (tmp_path / "bin").mkdir()
    for folder in (tmp_path, tmp_path / "bin"):
        program = folder / "docker-credential-x"
        program.write_text(f"#!/bin/sh\n: >{tmp_path}/was-run\nexit 1\n")
        program.chmod(0o755)
    (tmp_path / "auth.json").write_text('{"credsStore": "x"}')
    env = {**clean_environment(), "PATH": path, "REGISTRY_AUTH_FILE": str(tmp_path / "auth.json")}
    done = provision("logout", "registry.invalid", env=env, cwd=tmp_path)
    assert not (tmp_path / "was-run").exists(), done


def test_a_path_of_relative_directories_alone_is_the_system_s(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setenv("PATH", "bin::.")
    assert main(["list"]) == 0
    assert os.environ["PATH"] == os.defpath.strip(":")
    monkeypatch.setenv("PATH", ":/usr/bin:bin:/bin")
    assert main(["list"]) == 0
    assert os.environ["PATH"] == "/usr/bin:/bin"
    monkeypatch.delenv("PATH")
    assert main(["list"]) == 0
    assert "PATH" not in os.environ


def test_options_may_be_anywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = write_archive(tmp_path / "x", docker_members(PLAIN))
    for number, place in enumerate((0, 1, 2)):
        words = [str(archive), str(tmp_path / f"dir{number}")]
        words[place:place] = ["--no-sync"]
        assert main(words) == 0, capsys.readouterr().err
        assert (tmp_path / f"dir{number}/start.sh").exists()


@pytest.mark.parametrize(
    "words",
    [
        *("install image -- -x", "install -q -- image -x", "alpine -q -- -x", "inspect -- -x", "inspect --raw -- -x"),
        *("owners -- -x", "doctor --offline -- -x", "start -- -x", "shell -- -x", "exec -- -x ps", "stop -- -x"),
        *("logs -- -x", "logs -f -- -x", "config -- -x", "link -- -x", "link --remove -- -x p"),
        *("expose -- -x cat", "expose --list -- -x", "diff --stat -- -x", "update -- -x", "update --check -- -x"),
        *("backup -- -x b.tar", "backup b -- -x", "restore -- -x new", "restore - -- -x", "export -- -x -"),
        *("export --format tar d -- -x", "push -- -x host/y", "push --squash -- -x host/y", "copy -- -x new"),
        *(
            "copy d -- -x",
            "move -- -x new",
            "move d -- -x",
            "repair --check -- -x",
            "remove -- -x",
            "remove --yes d -- -x",
        ),
        *("run -- -x", "search -- -x", "tags -- -x"),
    ],
)
def test_operands_behind_two_dashes_may_begin_with_one(words: str) -> None:
    values: list[object] = []
    for value in vars(_parse(words.split())).values():
        values += value if isinstance(value, list) else [value]
    assert "-x" in values, values


def test_too_many_operands_are_shown_as_they_were_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "--", "-x", "-y"]) == 2
    assert capsys.readouterr().err.startswith("provision: too many words: -y\n")
