"""Logins: where they are looked for, which one wins, and where they go, with real registries and real helpers."""

from __future__ import annotations

import base64
import json
import logging
import os
import stat
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from provisioner.cli import main
from provisioner.errors import MachineError, NetworkError, NotAllowed, NotFound, ProvisionError, UsageError
from provisioner.image.digest import Digest
from provisioner.image.manifest import OCI_MANIFEST, Descriptor
from provisioner.image.reference import Reference
from provisioner.registry.authfile import AuthFile, Login
from provisioner.registry.client import RegistryClient
from provisioner.registry.credentials import Credentials
from scripts.loopback_registry import Response
from tests.support import builders
from tests.support.credential_helpers import KEEPER, MakeHelper
from tests.support.docker_registry import DockerRegistry
from tests.support.scripted_registry import (
    PrivateTokens,
    ScriptedRegistry,
    TokenServer,
    certificate_for,
    challenge,
    json_response,
)

IMAGE = builders.small()
LAYER = IMAGE.layers[0].blob
ME = Login("me", "hunter2")
OTHER = Login("somebody", "else")


def write(path: Path, **auths: Login | dict[str, str]) -> Path:
    """A file of credentials; `__` in a name is a slash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = {
        key.replace("__", "/"): login if isinstance(login, dict) else {"auth": login.basic.removeprefix("Basic ")}
        for key, login in auths.items()
    }
    path.write_text(json.dumps({"auths": {name.replace("_", "."): entry for name, entry in entries.items()}}))
    return path


@pytest.fixture
def registry(registry: ScriptedRegistry) -> ScriptedRegistry:
    registry.push("user/x", IMAGE)
    return registry


def client(
    registry: ScriptedRegistry | DockerRegistry, login: Login | None = ME, name: str = "user/x"
) -> RegistryClient:
    return RegistryClient(Reference.parse(f"{registry.host}/{name}"), credentials=Credentials((), login))


def blob(client: RegistryClient) -> bytes:
    return b"".join(client.blob(Descriptor(OCI_MANIFEST, Digest.of(LAYER), len(LAYER))))


# Which login


def test_the_files_of_podman_then_docker(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert Credentials.of_environment(home).files == (
        tmp_path / ".config/containers/auth.json",
        tmp_path / ".docker/config.json",
    )
    named = {**home, "XDG_RUNTIME_DIR": "/run/u", "XDG_CONFIG_HOME": "/etc/me", "DOCKER_CONFIG": "/docker"}
    assert list(map(str, Credentials.of_environment(named).files)) == [
        "/run/u/containers/auth.json",
        "/etc/me/containers/auth.json",
        "/docker/config.json",
    ]
    assert Credentials.of_environment({**named, "REGISTRY_AUTH_FILE": "/one"}).files == (Path("/one"),)
    assert len(Credentials.of_environment({**named, "REGISTRY_AUTH_FILE": "", "XDG_RUNTIME_DIR": "x"}).files) == 2


def test_the_first_file_with_a_login_decides(tmp_path: Path) -> None:
    podman, docker = tmp_path / "auth.json", tmp_path / "config.json"
    credentials = Credentials((podman, docker))
    assert credentials.find("r.example", "a") is None
    write(docker, r_example=OTHER)
    assert credentials.find("r.example", "a") == OTHER
    write(podman, r_example={})
    assert credentials.find("r.example", "a") == OTHER
    write(podman, r_example=ME)
    assert credentials.find("r.example", "a") == ME


@pytest.mark.parametrize(
    ("repository", "who"),
    [("owner/image", "image"), ("owner/image/deep", "image"), ("owner/other", "owner"), ("owners/image", "host")],
)
def test_the_most_specific_entry_wins(tmp_path: Path, repository: str, who: str) -> None:
    entries = {"r_example": "host", "r_example__owner": "owner", "r_example__owner__image": "image"}
    path = write(tmp_path / "auth.json", **{key: Login(name, "x") for key, name in entries.items()})
    found = Credentials((path,)).find("r.example", repository)
    assert found == Login(who, "x")


def test_docker_hub_is_found_by_dockers_key(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"auths": {"https://index.docker.io/v1/": {"username": "me", "password": "hunter2"}}}))
    assert Credentials((path,)).find("docker.io", "library/ubuntu") == ME
    assert Credentials((path,)).find("r.example", "library/ubuntu") is None


@pytest.fixture
def keeper(make_helper: MakeHelper, tmp_path: Path) -> Path:
    """A helper that holds our login for every server; the file that it keeps it in."""
    make_helper(KEEPER)
    kept = tmp_path / "kept/given"
    kept.parent.mkdir()
    kept.write_text(json.dumps({"ServerURL": "{}", "Username": "me", "Secret": "hunter2"}))
    return kept


@pytest.mark.parametrize(
    "value",
    [
        {"credHelpers": {"r.example": "test"}},
        {"credsStore": "test"},
        {"credsStore": "absent", "credHelpers": {"r.example": "test"}, "auths": {"r.example": {"auth": "eDp5"}}},
        {"credsStore": "test", "auths": {"r.example": {}}},
    ],
)
def test_helpers_are_asked(tmp_path: Path, keeper: Path, value: object) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(value))
    assert Credentials((path,)).find("r.example", "a") == ME


def test_a_helper_is_asked_for_docker_hub_by_dockers_name(tmp_path: Path, make_helper: MakeHelper) -> None:
    make_helper('read -r server; echo "{\\"Username\\": \\"$server\\", \\"Secret\\": \\"x\\"}"')
    path = tmp_path / "config.json"
    path.write_text('{"credsStore": "test"}')
    assert Credentials((path,)).find("docker.io", "a") == Login("https://index.docker.io/v1/", "x")
    assert Credentials((path,)).find("r.example", "a") == Login("r.example", "x")


def test_an_entry_is_more_specific_than_a_helper_for_all(tmp_path: Path, keeper: Path) -> None:
    path = write(tmp_path / "config.json", r_example__owner=OTHER)
    path.write_text(json.dumps({**json.loads(path.read_text()), "credHelpers": {"r.example": "test"}}))
    assert Credentials((path,)).find("r.example", "owner/a") == OTHER
    assert Credentials((path,)).find("r.example", "a") == ME


def test_a_helper_that_holds_nothing_leaves_it_to_the_next_file(tmp_path: Path, keeper: Path) -> None:
    keeper.unlink()
    first, second = tmp_path / "first.json", write(tmp_path / "second.json", r_example=OTHER)
    first.write_text('{"credHelpers": {"r.example": "test"}, "credsStore": "test"}')
    assert Credentials((first, second)).find("r.example", "a") == OTHER


def test_a_token_user_means_an_identity_token(tmp_path: Path, keeper: Path) -> None:
    keeper.write_text(json.dumps({"ServerURL": "{}", "Username": "<token>", "Secret": "refresh"}))
    path = tmp_path / "config.json"
    path.write_text('{"credsStore": "test"}')
    assert Credentials((path,)).find("r.example", "a") == Login("", "", "refresh")


def test_a_store_that_isnt_installed_matters_where_it_holds_something(tmp_path: Path) -> None:
    """Docker Desktop's configuration, mounted into another system."""
    path = tmp_path / "config.json"
    path.write_text('{"credsStore": "absent", "auths": {"r.example": {}}}')
    assert Credentials((path,)).find("docker.io", "library/ubuntu") is None
    with pytest.raises(NotAllowed, match="docker-credential-absent is not installed"):
        Credentials((path,)).find("r.example", "a")


# Where a login goes


def test_a_password_goes_to_the_token_server(registry: ScriptedRegistry) -> None:
    PrivateTokens(registry, basic=ME.basic)
    assert client(registry).manifest("latest").data == IMAGE.manifest
    assert [request.headers["Authorization"] for request in registry.asked("/token")] == [ME.basic]
    assert {request.headers["Authorization"] for request in registry.asked("/v2/.+")} == {"Bearer good"}


def test_an_identity_token_goes_there_in_a_form(registry: ScriptedRegistry) -> None:
    PrivateTokens(registry, identity_token="refresh me")
    assert client(registry, Login("", "", "refresh me")).manifest("latest").data == IMAGE.manifest
    [asked] = registry.asked("/token")
    assert (asked.method, asked.query) == ("POST", {})
    assert asked.form["scope"] == ["repository:user/x:pull"]
    assert asked.form["client_id"] == ["provisioner"]


def test_a_password_goes_to_a_registry_without_tokens(registry: ScriptedRegistry) -> None:
    registry.on(
        "/v2/.*",
        lambda request: None if request.headers.get("Authorization") == ME.basic else challenge('Basic realm="x"'),
    )
    assert client(registry).manifest("latest").data == IMAGE.manifest
    assert blob(client(registry)) == LAYER
    with pytest.raises(NotAllowed, match="refuses the credentials of somebody") as raised:
        client(registry, OTHER).manifest("latest")
    assert raised.value.hint == f"log in again: provision login {registry.host}"


def test_a_registry_that_asks_for_a_password_only_below_the_ping(registry: ScriptedRegistry) -> None:
    registry.on(
        "/v2/.+",
        lambda request: None if request.headers.get("Authorization") == ME.basic else challenge('Basic realm="x"'),
    )
    assert client(registry).manifest("latest").data == IMAGE.manifest
    with pytest.raises(NotFound, match="not found, or it is private"):
        client(registry, None).manifest("latest")


def test_nobody_is_asked_where_the_registry_asks_for_nothing(registry: ScriptedRegistry, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("not JSON")
    credentials = Credentials((tmp_path / "config.json",))
    reference = Reference.parse(f"{registry.host}/user/x")
    assert RegistryClient(reference, credentials=credentials).manifest("latest").data == IMAGE.manifest
    PrivateTokens(registry)
    with pytest.raises(UsageError, match="is not JSON"):
        RegistryClient(reference, credentials=credentials).manifest("latest")


def test_a_user_who_may_not_read_gets_an_error(registry: ScriptedRegistry) -> None:
    PrivateTokens(registry, basic=ME.basic)
    registry.on("/v2/user/x/manifests/.*", Response.error(403, "DENIED", "requested access is denied"))
    with pytest.raises(NotAllowed, match=r"user/x is not found, or me may not read it \(requested access"):
        client(registry).manifest("latest")


SECRETS = ("hunter2", base64.b64encode(b"me:hunter2").decode(), "refresh")


def assert_no_secret(text: str) -> None:
    assert not [secret for secret in SECRETS if secret in text]


@pytest.mark.parametrize("login", [ME, Login("", "", "refresh")], ids=["password", "identity token"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_takes_a_login_to_another_host(registry: ScriptedRegistry, login: Login, status: int) -> None:
    with ScriptedRegistry() as elsewhere:
        elsewhere.on(".*", json_response({"token": "good"}))
        PrivateTokens(registry)
        registry.on("/token", Response(status, b"", {"Location": f"{elsewhere.url}/token"}))
        with suppress(ProvisionError):
            client(registry, login).manifest("latest")
        assert len(elsewhere.requests) == bool(login.password)
        for request in elsewhere.requests:
            assert "Authorization" not in request.headers
            assert not request.form
            assert_no_secret(str(request))


def test_no_redirect_of_a_blob_takes_a_password_to_another_host(registry: ScriptedRegistry) -> None:
    with ScriptedRegistry() as storage:
        storage.on("/there", Response(200, LAYER))
        registry.on("/v2/", challenge('Basic realm="x"'), times=1)
        registry.on("/v2/user/x/blobs/.*", Response(307, b"", {"Location": f"{storage.url}/there"}))
        assert blob(client(registry)) == LAYER
        assert registry.asked("/v2/user/x/blobs/.*")[0].headers["Authorization"] == ME.basic
        assert "Authorization" not in storage.requests[0].headers


def test_no_login_in_an_address_or_a_log(
    registry: ScriptedRegistry, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    for login in (ME, Login("", "", "refresh")):
        PrivateTokens(registry, basic=login.basic, identity_token=login.identity_token)
        assert blob(client(registry, login)) == LAYER
    assert "/token" in caplog.text  # urllib3 logs each request
    assert_no_secret(caplog.text + "".join(capfd.readouterr()))
    for request in registry.requests:
        assert_no_secret(request.path + str(request.query))


@pytest.mark.parametrize("login", [ME, Login("", "", "refresh")], ids=["password", "identity token"])
@pytest.mark.parametrize("path", ["/token", "/v2/user/x/manifests/latest"])
@pytest.mark.parametrize("status", [401, 403, 429, 500])
def test_no_login_in_an_error_whatever_the_registry_says(
    registry: ScriptedRegistry, login: Login, path: str, status: int
) -> None:
    PrivateTokens(registry, basic=login.basic, identity_token=login.identity_token)
    said = f"hunter2 and {login.basic} and refresh are wrong"
    echo = {"WWW-Authenticate": f'Bearer realm="{registry.url}/token",service="scripted"'} if status == 401 else {}
    registry.on(path, Response.error(status, "DENIED", said, echo))
    with pytest.raises(ProvisionError) as raised:
        client(registry, login).manifest("latest")
    assert ("are wrong" in raised.value.message) == ((path, status) != ("/token", 500))
    for secret in [login.identity_token] if login != ME else [login.password, login.basic.removeprefix("Basic ")]:
        assert secret not in raised.value.message + raised.value.hint


def test_no_password_in_plain_http_beyond_this_machine(
    registry: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.on("/v2/.*", challenge('Bearer realm="http://tokens.example/token"'))
    with pytest.raises(NetworkError, match=r"wants a token from plain http of another host, tokens\.example"):
        client(registry).manifest("latest")


# Token servers on other hosts


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is trusted."""
    made = certificate_for("127.0.0.1", tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(made[0]))
    return made


@pytest.mark.parametrize("login", [ME, Login("", "", "refresh")], ids=["password", "identity token"])
def test_a_password_for_another_host_is_announced_before_it_goes(
    certificate: tuple[Path, Path], names: dict[str, str], login: Login
) -> None:
    names |= {"registry.example": "127.0.0.1", "tokens.example": "127.0.0.1"}
    with ScriptedRegistry(certificate) as registry:
        registry.push("user/x", IMAGE)
        PrivateTokens(registry, basic=login.basic, identity_token=login.identity_token)
        port = registry.host.rpartition(":")[2]
        realm = f"https://tokens.example:{port}/token"
        wants_token = challenge(f'Bearer realm="{realm}",service="scripted"')
        registry.on("/v2/", wants_token)
        said: list[tuple[str, int]] = []
        pulled = RegistryClient(
            Reference.parse(f"registry.example:{port}/user/x"),
            credentials=Credentials((), login),
            insecure=True,  # the certificate has another name
            warn=lambda line: said.append((line, len(registry.asked("/token")))),
        )
        assert pulled.manifest("latest").data == IMAGE.manifest
        line = f"the password for registry.example:{port} goes to the token server that it names, tokens.example:{port}"
        assert said == [(line, 0)]
        assert len(registry.asked("/token")) == 1


def test_it_is_said_on_standard_error_once_even_where_only_errors_are_wanted(
    certificate: tuple[Path, Path], names: dict[str, str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    names |= {"registry.example": "127.0.0.1", "tokens.example": "127.0.0.1"}
    with ScriptedRegistry(certificate) as registry:
        port = registry.host.rpartition(":")[2]
        registry.push("user/x", IMAGE)
        registry.on("/token", json_response({"token": "good", "expires_in": 1}))
        wants_token = challenge(f'Bearer realm="https://tokens.example:{port}/token",service="scripted"')
        registry.on(
            "/v2/.*", lambda request: None if request.headers.get("Authorization") == "Bearer good" else wants_token
        )
        auth = write(tmp_path / "auth.json")
        auth.write_text(json.dumps({"auths": {f"registry.example:{port}": {"username": "me", "password": "hunter2"}}}))
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(auth))
        monkeypatch.setenv("PROVISION_CACHE_DIR", str(tmp_path / "cache"))
        image = f"registry.example:{port}/user/x"
        assert main(["--quiet", "--insecure", "--platform", "linux/amd64", image, str(tmp_path / "container")]) == 0
        assert registry.asked("/token")[0].headers["Authorization"] == ME.basic
        said = capsys.readouterr().err
        assert said.splitlines() == [
            f"provision: the password for registry.example:{port} goes to the token server that it names,"
            f" tokens.example:{port}"
        ]


@pytest.mark.parametrize(
    ("registry", "server"),
    [
        ("registry.example", "registry.example"),
        ("registry.example", "auth.registry.example"),
        ("registry.gitlab.example", "gitlab.example"),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
def test_nothing_is_said_of_a_token_server_in_the_registrys_domain(
    certificate: tuple[Path, Path], names: dict[str, str], registry: str, server: str
) -> None:
    names |= {registry: "127.0.0.1", server: "127.0.0.1"}
    with ScriptedRegistry(certificate) as served:
        served.push("user/x", IMAGE)
        PrivateTokens(served, basic=ME.basic)
        port = served.host.rpartition(":")[2]
        served.on("/v2/", challenge(f'Bearer realm="https://{server}:{port}/token",service="scripted"'))
        said: list[str] = []
        reference = Reference.parse(f"{registry}:{port}/user/x")
        RegistryClient(reference, credentials=Credentials((), ME), insecure=True, warn=said.append).manifest("latest")
        assert said == []


def test_nothing_is_said_without_a_login(
    certificate: tuple[Path, Path], names: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    names |= {"registry.example": "127.0.0.1", "tokens.example": "127.0.0.1"}
    with ScriptedRegistry(certificate) as served:
        served.push("user/x", IMAGE)
        server = TokenServer(served)
        port = served.host.rpartition(":")[2]
        served.on("/v2/", challenge(f'Bearer realm="https://tokens.example:{port}/token",service="scripted"'))
        RegistryClient(Reference.parse(f"registry.example:{port}/user/x"), insecure=True).manifest("latest")
        assert server.issued == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("login", [ME, Login("", "", "refresh")], ids=["password", "identity token"])
def test_a_plain_registry_has_no_password_sent_to_another_host(
    certificate: tuple[Path, Path], names: dict[str, str], login: Login
) -> None:
    """Its token server may be spoken to in https, for what everybody may have."""
    names |= {"tokens.example": "127.0.0.1"}
    with ScriptedRegistry() as registry, ScriptedRegistry(certificate) as tokens:
        registry.push("user/x", IMAGE)
        tokens.on("/token", json_response({"token": "anonymous"}))
        port = tokens.host.rpartition(":")[2]
        wants_token = challenge(f'Bearer realm="https://tokens.example:{port}/token",service="scripted"')
        registry.on(
            "/v2/.*",
            lambda request: None if request.headers.get("Authorization") == "Bearer anonymous" else wants_token,
        )
        said: list[str] = []

        def pulled() -> RegistryClient:
            return RegistryClient(
                Reference.parse(f"{registry.host}/user/x"),
                credentials=Credentials((), login),
                insecure=True,
                warn=said.append,
            )

        assert pulled().manifest("latest").data == IMAGE.manifest
        [line] = said
        assert line.endswith(f"so its token server tokens.example:{port} doesn't get your password")
        assert tokens.requests
        for request in tokens.requests:
            assert "Authorization" not in request.headers
            assert not request.form
        with pytest.raises(NotAllowed, match="token server on another host, which gets no password"):
            pulled().check_login()


# Adding and taking away


def test_a_login_is_kept_where_podman_or_docker_would(tmp_path: Path) -> None:
    runtime, config, docker = (tmp_path / name for name in ("run/auth.json", "config/auth.json", "docker/config.json"))
    credentials = Credentials((runtime, config, docker))
    assert credentials.add("r.example", ME) == str(config)  # nothing is there: podman's that outlives a restart
    config.unlink()
    write(docker, other_example=OTHER)
    assert credentials.add("r.example", ME) == str(docker)
    write(runtime, other_example=OTHER)
    assert credentials.add("x.example", ME) == str(runtime)
    assert credentials.add("r.example", OTHER) == str(docker)  # where it is already: no second one hides it
    assert credentials.find("r.example", "a") == OTHER
    assert credentials.find("other.example", "a") == OTHER
    for path in (runtime, docker):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "config").stat().st_mode) == 0o700


def test_docker_hub_is_kept_by_dockers_key_in_dockers_file(tmp_path: Path) -> None:
    docker = tmp_path / "config.json"
    Credentials((docker,)).add("docker.io", ME)
    assert list(json.loads(docker.read_text())["auths"]) == ["https://index.docker.io/v1/"]
    podman = tmp_path / "auth.json"
    Credentials((podman,)).add("docker.io", ME)
    assert list(json.loads(podman.read_text())["auths"]) == ["docker.io"]


def test_a_login_for_an_owner_stays_apart(tmp_path: Path) -> None:
    credentials = Credentials((tmp_path / "auth.json",))
    credentials.add("r.example", ME)
    credentials.add("r.example/owner", OTHER)
    assert credentials.find("r.example", "owner/a") == OTHER
    assert credentials.find("r.example", "a") == ME
    assert credentials.remove("r.example/owner") == [str(tmp_path / "auth.json")]
    assert credentials.find("r.example", "owner/a") == ME


def test_a_helper_keeps_it_where_the_file_names_one(tmp_path: Path, keeper: Path) -> None:
    keeper.unlink()
    path = tmp_path / "config.json"
    path.write_text('{"credsStore": "test"}')
    credentials = Credentials((path,))
    assert credentials.add("r.example", ME) == "docker-credential-test"
    assert json.loads(path.read_text()) == {"credsStore": "test", "auths": {"r.example": {}}}
    assert json.loads(keeper.read_text())["Secret"] == "hunter2"
    assert credentials.find("r.example", "a") == ME
    assert credentials.remove("r.example") == ["docker-credential-test"]
    assert not keeper.exists()
    assert json.loads(path.read_text()) == {"credsStore": "test", "auths": {}}


def test_forgetting_is_thorough(tmp_path: Path) -> None:
    first, second = write(tmp_path / "1.json", r_example=ME, x_example=ME), write(tmp_path / "2.json", r_example=OTHER)
    credentials = Credentials((first, second, tmp_path / "none.json"))
    assert credentials.remove("r.example") == [str(first), str(second)]
    assert credentials.find("r.example", "a") is None
    assert credentials.find("x.example", "a") == ME
    assert credentials.remove("r.example") == []
    assert not (tmp_path / "none.json").exists()


def test_two_at_once_lose_nothing(tmp_path: Path) -> None:
    credentials = Credentials((tmp_path / "auth.json",))
    threads = [threading.Thread(target=credentials.add, args=(f"r{n}.example", ME)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(AuthFile.read(tmp_path / "auth.json").value["auths"])) == 8
    assert os.listdir(tmp_path) == ["auth.json"]


def test_a_user_without_a_home_has_no_logins_and_can_save_none() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pwd.getpwuid", {}.__getitem__)
        credentials = Credentials.of_environment({})
    assert credentials.files == ()
    assert credentials.find("r.example", "x") is None
    with pytest.raises(MachineError, match="no home"):
        credentials.add("r.example", Login("me", "secret"))
