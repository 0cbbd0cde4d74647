"""`provision login` and `logout` on a terminal and in scripts, with a real registry that requires a password."""

from __future__ import annotations

import json
import os
import select
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from provisioner.commands.login import registry_and_name
from provisioner.errors import UsageError
from provisioner.registry.authfile import Login
from scripts.loopback_registry import Response
from tests.support import builders
from tests.support.docker_registry import DockerRegistry, run_docker_registry
from tests.support.scripted_registry import PrivateTokens, Request, ScriptedRegistry, json_response
from tests.support.tools import clean_environment, need, open_terminal, provision, provision_command, run

PASSWORD = "correct horse"
HTPASSWD = "me:$2b$04$BVDZ3x5aUWxUVQQWxmIHD.UZ4vvusJ/glWAX.WmFFttBS9XJkHz5q"
IMAGE = builders.small()


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """A docker-registry that requires a password for everything, with the image `owner/image`."""
    need("skopeo")
    directory = tmp_path_factory.mktemp("private")
    passwords = directory / "htpasswd"
    passwords.write_text(f"{HTPASSWD}\n")
    wanted = f"auth: {{htpasswd: {{realm: private, path: '{passwords}'}}}}\n"
    with run_docker_registry(directory, directory / "storage", more=wanted) as served:
        with ScriptedRegistry() as source:
            source.push("owner/image", IMAGE)
            options = ("--src-tls-verify=false", "--dest-tls-verify=false", f"--dest-creds=me:{PASSWORD}")
            name = "owner/image:latest"
            run("skopeo", "copy", *options, f"docker://{source.host}/{name}", f"docker://{served.host}/{name}")
        yield served


@pytest.fixture
def auth_file(tmp_path: Path) -> Path:
    return tmp_path / "containers/auth.json"


def ask(auth_file: Path, *words: str | Path, stdin_text: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    """Run provision with this file of credentials, `stdin_text` on its standard input."""
    env = clean_environment(REGISTRY_AUTH_FILE=str(auth_file))
    return provision(*words, env=env, input=stdin_text, stdin=None, **options)


def login(auth_file: Path, host: str, password: str = PASSWORD, *words: str) -> subprocess.CompletedProcess[str]:
    return ask(auth_file, "login", host, "--username=me", "--password-stdin", *words, stdin_text=f"{password}\n")


def test_in_pull_and_out(private: DockerRegistry, auth_file: Path, tmp_path: Path) -> None:
    image, platform = f"{private.host}/owner/image", "--platform=amd64"
    before = ask(auth_file, image, tmp_path / "dir", platform)
    assert before.returncode == 4
    assert f"log in: provision login {private.host}" in before.stderr

    done = login(auth_file, private.host)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"logged in to {private.host} as me; saved in {auth_file}\n"
    assert stat.S_IMODE(auth_file.stat().st_mode) == 0o600
    assert ask(auth_file, image, tmp_path / "dir", platform).returncode == 0
    # It is podman's form: skopeo, of the same family, goes by it.
    skopeo = ("skopeo", "inspect", "--tls-verify=false", f"--authfile={auth_file}", f"docker://{image}")
    assert json.loads(run(*skopeo))["Name"] == image

    assert f"removed from {auth_file}" in ask(auth_file, "logout", private.host).stderr
    assert ask(auth_file, image, tmp_path / "other", platform).returncode == 4
    again = ask(auth_file, "logout", private.host)
    assert (again.returncode, again.stderr) == (0, f"there is no login for {private.host}\n")


def test_tags_and_inspect_use_the_login(private: DockerRegistry, auth_file: Path) -> None:
    image = f"{private.host}/owner/image"
    looks = (("tags", image, "--all"), ("inspect", image, "--platform=amd64", "--json"))
    assert [ask(auth_file, *words).returncode for words in looks] == [4, 4]
    assert login(auth_file, private.host).returncode == 0
    tags, inspected = (ask(auth_file, *words) for words in looks)
    assert tags.stdout == "latest\n", tags.stderr
    assert inspected.returncode == 0, inspected.stderr


def test_a_login_of_skopeo_is_used(private: DockerRegistry, auth_file: Path, tmp_path: Path) -> None:
    auth_file.parent.mkdir()
    run("skopeo", "login", "--tls-verify=false", f"--authfile={auth_file}", "-u=me", f"-p={PASSWORD}", private.host)
    assert ask(auth_file, f"{private.host}/owner/image", tmp_path / "dir", "--platform=amd64").returncode == 0
    run("skopeo", "logout", f"--authfile={auth_file}", private.host)


def test_a_wrong_password_is_not_saved(private: DockerRegistry, auth_file: Path) -> None:
    done = login(auth_file, private.host, "wrong horse")
    assert done.returncode == 4
    assert f"{private.host} refuses the credentials of me" in done.stderr
    assert "wrong horse" not in done.stderr
    assert not auth_file.exists()


def test_a_wrong_password_does_not_replace_the_right_one(private: DockerRegistry, auth_file: Path) -> None:
    login(auth_file, private.host)
    before = auth_file.read_bytes()
    assert login(auth_file, private.host, "wrong horse").returncode == 4
    assert auth_file.read_bytes() == before


def test_a_token_server_checks_it(auth_file: Path, tmp_path: Path) -> None:
    with ScriptedRegistry() as registry:
        registry.push("owner/image", IMAGE)
        PrivateTokens(registry, basic=Login("me", PASSWORD).basic)
        assert login(auth_file, registry.host, "wrong").returncode == 4
        assert not auth_file.exists()
        assert login(auth_file, registry.host).returncode == 0
        assert registry.asked("/token")[0].query == {"service": ["scripted"]}
        assert ask(auth_file, f"{registry.host}/owner/image", tmp_path / "dir", "--platform=amd64").returncode == 0


def test_a_mirror_gets_its_own_login(private: DockerRegistry, auth_file: Path, tmp_path: Path) -> None:
    assert login(auth_file, private.host).returncode == 0
    image = f"{private.host}/owner/image"
    with ScriptedRegistry() as mirror:
        mirror.push("owner/image", IMAGE, tag=None)
        PrivateTokens(mirror, basic=Login("me", "of the mirror").basic)
        words = ("--platform=amd64", f"--mirror={mirror.host}")
        assert ask(auth_file, *words, image, tmp_path / "first").returncode == 0
        assert mirror.asked("/token")
        assert not [request for request in mirror.requests if "Authorization" in request.headers]
        assert login(auth_file, mirror.host, "of the mirror").returncode == 0
        assert ask(auth_file, *words, image, tmp_path / "second").returncode == 0
        assert len(mirror.asked("/v2/owner/image/blobs/.*")) == 3


def test_a_login_for_an_owner(private: DockerRegistry, auth_file: Path, tmp_path: Path) -> None:
    assert login(auth_file, f"{private.host}/owner").returncode == 0
    assert list(json.loads(auth_file.read_text())["auths"]) == [f"{private.host}/owner"]
    assert ask(auth_file, f"{private.host}/owner/image", tmp_path / "dir", "--platform=amd64").returncode == 0
    assert ask(auth_file, f"{private.host}/other/image", tmp_path / "no", "--platform=amd64").returncode == 4


def test_a_registry_that_asks_for_nothing(auth_file: Path) -> None:
    with ScriptedRegistry() as registry:
        done = login(auth_file, registry.host)
        assert done.returncode == 0
        assert "asks for no credentials" in done.stderr
        assert not auth_file.exists()


@pytest.mark.parametrize(
    ("words", "stdin_text", "says"),
    [
        (["--password-stdin"], "x\n", "--password-stdin needs a name as well"),
        (["--username=me"], "", "there is no terminal to ask for a password on"),
        (["--username=me", "--password-stdin"], "", "the password is empty"),
        (["--username=me", "--password-stdin"], "\n", "the password is empty"),
        (["--username=a:b", "--password-stdin"], "x\n", "'a:b' can't be a user name"),
        (["--username=\x1b[31m", "--password-stdin"], "x\n", r"'\x1b[31m' can't be a user name"),
        (["--username=me", "--password-stdin"], "a\0b\n", "the password has characters that can't be printed"),
        (["--password=hunter2"], "", "--password"),
    ],
)
def test_usage(auth_file: Path, words: list[str], stdin_text: str, says: str) -> None:
    done = ask(auth_file, "login", "r.invalid", *words, stdin_text=stdin_text)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize("language", ["C", "C.UTF-8"])
def test_a_password_that_is_no_text(auth_file: Path, language: str) -> None:
    env = {**clean_environment(REGISTRY_AUTH_FILE=str(auth_file)), "LC_ALL": language}
    words = ("login", "r.invalid", "--username=me", "--password-stdin")
    command, options = provision_command(*words, cache=auth_file, env=env, text=False)
    del options["stdin"]
    done = subprocess.run(command, input=b"a\xffb\n", check=False, **options)
    assert (done.returncode, b"the password has characters" in done.stderr) == (2, True), done.stderr


def test_a_malformed_file_is_named_and_left_alone(private: DockerRegistry, auth_file: Path) -> None:
    auth_file.parent.mkdir()
    auth_file.write_text('{\n"auths": secret}')
    done = login(auth_file, private.host)
    assert done.returncode == 2
    assert f"{auth_file} is not JSON: Expecting value (line 2)" in done.stderr
    assert auth_file.read_text() == '{\n"auths": secret}'


@pytest.mark.parametrize(
    ("answer", "status", "is_saved"), [(b"correct horse\n", 0, True), (b"\x04", 2, False), (b"\x03", 130, False)]
)
def test_a_name_and_a_password_are_asked_for_on_a_terminal(
    private: DockerRegistry, auth_file: Path, tmp_path: Path, answer: bytes, status: int, is_saved: bool
) -> None:
    env = clean_environment(REGISTRY_AUTH_FILE=str(auth_file))
    command, options = provision_command("login", private.host, cache=tmp_path, env=env)
    terminal, theirs = open_terminal()
    pipes = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": True}
    # The new session's first terminal that is opened becomes its own, as getpass needs it.
    command = ["setsid", "--ctty", "--wait", *command]
    need("setsid")
    with subprocess.Popen(command, **{**options, **pipes, "text": False}) as process:
        os.close(theirs)
        shown = _answered(terminal, b"Username: ", b"me\n") + _answered(terminal, b"Password: ", answer)
        shown += _answered(terminal, b"\n", b"") + _rest(terminal)
        assert process.wait(60) == status, shown
    os.close(terminal)
    assert PASSWORD.encode() not in shown
    assert b"unexpected" not in shown
    assert auth_file.exists() == is_saved
    assert not is_saved or json.loads(auth_file.read_text())["auths"].keys() == {private.host}


def _answered(terminal: int, question: bytes, answer: bytes) -> bytes:
    shown = b""
    while question not in shown:
        assert select.select([terminal], [], [], 60)[0], shown
        shown += os.read(terminal, 1024)
    os.write(terminal, answer)
    return shown


def _rest(terminal: int) -> bytes:
    shown = b""
    while True:
        try:
            more = os.read(terminal, 1024)
        except OSError:  # the other end is closed
            return shown
        if not more:
            return shown
        shown += more


def test_no_password_in_the_list_of_processes(auth_file: Path, tmp_path: Path) -> None:
    seen: list[bytes] = []

    def look(request: Request) -> Response:
        assert request.headers["Authorization"] == Login("me", "hunter2-in-ps").basic
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                seen.append((process / "cmdline").read_bytes() + (process / "environ").read_bytes())
        return json_response({"token": "good"})

    with ScriptedRegistry() as registry:
        PrivateTokens(registry)
        registry.on("/token", look)
        done = login(auth_file, registry.host, "hunter2-in-ps")
    assert done.returncode == 0, done.stderr
    assert any(b"login" in line and registry.host.encode() in line for line in seen)
    assert not [line for line in seen if b"hunter2-in-ps" in line]


@pytest.mark.parametrize(
    ("text", "registry", "name"),
    [
        ("docker.io", "docker.io", "docker.io"),
        ("https://index.docker.io/v1/", "docker.io", "docker.io"),
        ("ghcr.io/owner", "ghcr.io", "ghcr.io/owner"),
        ("docker.io/owner", "docker.io", "docker.io/owner"),
        ("R.example:5000/", "r.example:5000", "r.example:5000"),
    ],
)
def test_names_that_can_be_logged_in_to(text: str, registry: str, name: str) -> None:
    assert registry_and_name(text) == (registry, name)


@pytest.mark.parametrize("text", ["", "a b", "r.example:99999", "r.example/Owner", "https://", "\x1b[31m"])
def test_names_that_are_no_registry(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        registry_and_name(text)
    assert raised.value.message.isprintable()
