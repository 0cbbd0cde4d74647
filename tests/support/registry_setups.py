"""Real registries set up as those who run one do it: with passwords, TLS, client certificates and tokens."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provisioner.registry.authfile import Login
from tests.support import builders
from tests.support.authorities import Authority
from tests.support.docker_registry import run_docker_registry
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.token_issuer import TokenIssuer, run_token_issuer
from tests.support.tools import clean_environment, provision, run

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
class RegistrySetup:
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
def plain(directory: Path, more: str = "") -> Iterator[RegistrySetup]:
    with run_docker_registry(directory, directory / "storage", more=more) as served:
        yield RegistrySetup(served.host, directory, skopeo=("--dest-tls-verify=false",))


@contextmanager
def with_password(directory: Path) -> Iterator[RegistrySetup]:
    (directory / "htpasswd").write_text(HTPASSWD)
    with plain(directory, f"auth: {{htpasswd: {{realm: r, path: '{directory}/htpasswd'}}}}\n") as setup:
        setup.is_private, setup.skopeo = True, (*setup.skopeo, f"--dest-creds=me:{PASSWORD}")
        yield setup


@contextmanager
def with_tls(directory: Path, *, clients: bool = False, tokens: bool = False) -> Iterator[RegistrySetup]:
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
        yield RegistrySetup(served.host, directory, not clients, options, issuer)


@contextmanager
def with_client_certificates(directory: Path) -> Iterator[RegistrySetup]:
    with with_tls(directory, clients=True) as setup:
        yield setup


@contextmanager
def with_tokens(directory: Path) -> Iterator[RegistrySetup]:
    with (
        run_token_issuer(directory, BASIC) as issuer,
        run_docker_registry(directory, directory / "storage", more=issuer.configuration) as served,
    ):
        yield RegistrySetup(
            served.host, directory, True, ("--dest-tls-verify=false", f"--dest-creds=me:{PASSWORD}"), issuer
        )


@contextmanager
def with_tokens_and_tls(directory: Path) -> Iterator[RegistrySetup]:
    with with_tls(directory, tokens=True) as setup:
        yield setup
