"""Pull, tags, inspect and login against real registries, each as it is set up by those who run one.

docker-registry (distribution 2.8) is Debian's. Others are tried where they are installed: `crane registry serve` of
go-containerregistry, and zot.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from provisioner.registry.authfile import Login
from tests.support import builders
from tests.support.authorities import Authority
from tests.support.docker_registry import free_port, run_docker_registry
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.token_issuer import TokenIssuer, run_token_issuer
from tests.support.tools import clean_environment, need, provision, run

PASSWORD = "correct horse"
BASIC = Login("me", PASSWORD).basic
HTPASSWD = "me:$2b$04$BVDZ3x5aUWxUVQQWxmIHD.UZ4vvusJ/glWAX.WmFFttBS9XJkHz5q\n"
AMD = builders.image(
    builders.layer(("etc", None), ("etc/os-release", b"ID=tiny\n")),
    builders.layer(("data", builders.incompressible(3_000_000)), compression="zstd"),
    builders.layer(("last", b"uncompressed"), compression=""),
    run={"Cmd": ["/bin/true"], "Labels": {"of": "amd64"}},
)
ARM = builders.small(on="linux/arm64/v8")
INDEX = builders.index([("linux/amd64", AMD), ("linux/arm64/v8", ARM)])


@dataclass
class Setup:
    """A registry that is running, and how it is reached."""

    host: str
    home: Path
    """The home of the user, with the certificates that are needed."""
    is_private: bool = False
    """Whether it wants a password."""
    skopeo: tuple[str, ...] = ()
    """Options of skopeo to push there."""
    issuer: TokenIssuer | None = None
    names: dict[str, str] = field(default_factory=lambda: {"owner/image": ""})

    def provision(self, *words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run `provision WORDS` as a user with this home."""
        env = clean_environment(HOME=str(self.home), REGISTRY_AUTH_FILE=str(self.home / "auth.json"))
        return provision(*words, env=env, **options)

    def login(self, password: str = PASSWORD) -> subprocess.CompletedProcess[str]:
        """Log in there."""
        words = ("login", self.host, "--username=me", "--password-stdin")
        return self.provision(*words, input=f"{password}\n", stdin=None)

    def push(self, name: str) -> None:
        """Push the image for two platforms, and one tag more, as skopeo does it."""
        with ScriptedRegistry() as source:
            for image in (AMD, ARM):
                source.push(name, image, None)
            source.add_manifest(name, INDEX, builders.OCI_INDEX, "latest")
            source.push(name, ARM, "arm")
            for tag in ("latest", "arm"):
                places = (f"docker://{source.host}/{name}:{tag}", f"docker://{self.host}/{name}:{tag}")
                run("skopeo", "copy", "--all", "--preserve-digests", "--src-tls-verify=false", *self.skopeo, *places)


@contextmanager
def plain(directory: Path, more: str = "") -> Iterator[Setup]:
    with run_docker_registry(directory, directory / "storage", more=more) as served:
        yield Setup(served.host, directory, skopeo=("--dest-tls-verify=false",))


@contextmanager
def with_password(directory: Path) -> Iterator[Setup]:
    (directory / "htpasswd").write_text(HTPASSWD)
    with plain(directory, f"auth: {{htpasswd: {{realm: r, path: '{directory}/htpasswd'}}}}\n") as setup:
        setup.is_private, setup.skopeo = True, (*setup.skopeo, f"--dest-creds=me:{PASSWORD}")
        yield setup


@contextmanager
def with_tls(directory: Path, *, clients: bool = False, tokens: bool = False) -> Iterator[Setup]:
    """A registry in https, whose authority is known by the directory `certs.d` alone."""
    authority = Authority.create(directory / "authority")
    more, issuer = "", None
    with ExitStack() as stack:
        if tokens:
            certificate = authority.issue("127.0.0.1", directory / "tokens")
            issuer = stack.enter_context(run_token_issuer(directory, BASIC, certificate))
            more = issuer.configuration
        else:
            (directory / "htpasswd").write_text(HTPASSWD)
            more = f"auth: {{htpasswd: {{realm: r, path: '{directory}/htpasswd'}}}}\n"
        tls, asked = authority.issue("127.0.0.1", directory / "server"), authority.certificate if clients else None
        served = stack.enter_context(
            run_docker_registry(directory, directory / "storage", tls, "" if clients else more, asked)
        )
        folder = directory / ".config/containers/certs.d" / served.host
        folder.mkdir(parents=True)
        shutil.copy(authority.certificate, folder / "ca.crt")
        if clients:
            authority.issue("client", folder)
        credentials = () if clients else (f"--dest-creds=me:{PASSWORD}",)
        options = (f"--dest-cert-dir={folder}", *credentials)
        yield Setup(served.host, directory, not clients, options, issuer)


@contextmanager
def with_client_certificates(directory: Path) -> Iterator[Setup]:
    with with_tls(directory, clients=True) as setup:
        yield setup


@contextmanager
def with_tokens(directory: Path) -> Iterator[Setup]:
    with (
        run_token_issuer(directory, BASIC) as issuer,
        run_docker_registry(directory, directory / "storage", more=issuer.configuration) as served,
    ):
        yield Setup(served.host, directory, True, ("--dest-tls-verify=false", f"--dest-creds=me:{PASSWORD}"), issuer)


@contextmanager
def with_tokens_and_tls(directory: Path) -> Iterator[Setup]:
    with with_tls(directory, tokens=True) as setup:
        yield setup


@contextmanager
def _other(directory: Path, program: str, command: list[str], port: int) -> Iterator[Setup]:
    """Run another registry, if it is installed. CI doesn't have it: no package of Debian brings it."""
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                try:
                    requests.get(f"http://127.0.0.1:{port}/v2/", timeout=5)
                    break
                except requests.ConnectionError:
                    time.sleep(0.05)
            yield Setup(f"127.0.0.1:{port}", directory, skopeo=("--dest-tls-verify=false",))
        finally:
            process.terminate()


@contextmanager
def crane(directory: Path) -> Iterator[Setup]:
    port = free_port()
    with _other(directory, "crane", ["crane", "registry", "serve", "--address", f"127.0.0.1:{port}"], port) as setup:
        yield setup


@contextmanager
def zot(directory: Path) -> Iterator[Setup]:
    port = free_port()
    config = {
        "distSpecVersion": "1.1.0",
        "storage": {"rootDirectory": str(directory / "storage")},
        "http": {"address": "127.0.0.1", "port": str(port)},
        "log": {"level": "error"},
    }
    (directory / "zot.json").write_text(json.dumps(config))
    with _other(directory, "zot", ["zot", "serve", str(directory / "zot.json")], port) as setup:
        yield setup


SETUPS = [plain, with_password, with_tls, with_client_certificates, with_tokens, with_tokens_and_tls, crane, zot]


@pytest.fixture(scope="module", params=SETUPS, ids=lambda made: made.__name__)
def setup(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    """Each registry, with `owner/image` for two platforms."""
    need("skopeo", "docker-registry")
    with request.param(tmp_path_factory.mktemp(request.param.__name__)) as served:
        served.push("owner/image")
        yield served


def test_login_tags_inspect_pull_and_logout(setup: Setup, tmp_path: Path) -> None:
    image = f"{setup.host}/owner/image"
    if setup.is_private:
        for words in (("tags", image, "--all"), ("inspect", image), (image, tmp_path / "dir", "--platform=amd64")):
            done = setup.provision(*words)
            assert done.returncode in (3, 4), done.stderr  # a registry may hide what is private
            assert f"provision login {setup.host}" in done.stderr
        wrong = setup.login("wrong horse")
        assert wrong.returncode == 4, wrong.stderr
        assert f"{setup.host} refuses the credentials of me" in wrong.stderr
        done = setup.login()
        assert done.returncode == 0, done.stderr
        assert f"logged in to {setup.host} as me" in done.stderr
    else:
        done = setup.login()
        assert "asks for no" in done.stderr or done.returncode == 0

    tags = setup.provision("tags", image, "--platform=arm64", "--json")
    assert tags.returncode == 0, tags.stderr
    found = {tag["name"]: tag for tag in json.loads(tags.stdout)["tags"]}
    assert set(found) == {"latest", "arm"}
    assert {tag["platform"] for tag in found.values()} == {"linux/arm64/v8"}
    assert found["latest"]["size"] == sum(len(layer.blob) for layer in ARM.layers)

    inspected = setup.provision("inspect", image, "--platform=amd64", "--json")
    assert inspected.returncode == 0, inspected.stderr
    document = json.loads(inspected.stdout)
    assert document["index_digest"] == builders.digest_of(INDEX)
    assert document["manifest_digest"] == builders.digest_of(AMD.manifest)
    assert document["labels"] == {"of": "amd64"}
    assert setup.provision("inspect", f"{image}@{document['manifest_digest']}", "--raw").stdout == AMD.manifest.decode()

    for said in ("is ready", "is up to date"):
        done = setup.provision(image, tmp_path / "dir", "--platform=amd64")
        assert done.returncode == 0, done.stderr
        assert said in done.stderr
    assert (tmp_path / "dir/rootfs/last").read_bytes() == b"uncompressed"
    assert (tmp_path / "dir/rootfs/data").read_bytes() == builders.incompressible(3_000_000)

    missing = setup.provision(f"{image}:nowhere", tmp_path / "missing")
    assert (missing.returncode, "has no tag 'nowhere'" in missing.stderr) == (3, True), missing.stderr
    if setup.is_private:
        assert setup.provision("logout", setup.host).returncode == 0
        assert setup.provision(image, tmp_path / "out", "--platform=amd64").returncode in (3, 4)


def test_what_is_public_needs_no_login(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    """A token server gives everybody a token for it; the registry's ping wants one all the same."""
    need("skopeo", "docker-registry")
    with with_tokens(tmp_path_factory.mktemp("public")) as setup:
        setup.push("public/image")
        assert setup.issuer is not None
        setup.issuer.scopes.clear()
        done = setup.provision(f"{setup.host}/public/image", tmp_path / "dir", "--platform=amd64")
        assert done.returncode == 0, done.stderr
        assert set(setup.issuer.scopes) == {"repository:public/image:pull"}


def test_a_pull_through_cache_of_a_private_registry(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    need("skopeo", "docker-registry")
    with with_tokens(tmp_path_factory.mktemp("origin")) as origin:
        origin.push("owner/image")
        remote = f"remoteurl: 'http://{origin.host}', username: me, password: '{PASSWORD}'"
        with plain(tmp_path_factory.mktemp("cache"), f"proxy: {{{remote}}}\n") as setup:
            done = setup.provision(f"{setup.host}/owner/image", tmp_path / "dir", "--platform=arm64")
            assert done.returncode == 0, done.stderr
            assert (tmp_path / "dir/rootfs/etc/motd").read_bytes() == b"hello\n"
