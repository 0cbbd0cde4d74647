"""Whom a registry's certificate is checked against: the places of OpenSSL, Go, Docker and podman."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provisioner.errors import NetworkError, NotAllowed, ProvisionError, UsageError
from provisioner.image.reference import Reference
from provisioner.registry import certificates
from provisioner.registry.address import Address
from provisioner.registry.certificates import Certificates
from provisioner.registry.client import RegistryClient
from scripts.loopback_registry import Response
from tests.support import builders
from tests.support.authorities import Authority
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import as_user, own, provision

IMAGE = builders.small()
UNKNOWN = "has a certificate that can't be verified"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that has nothing to do with it."""
    return Authority.create(tmp_path_factory.mktemp("other"), "others")


@pytest.fixture
def registry(authority: Authority, tmp_path: Path) -> Iterator[ScriptedRegistry]:
    """A registry in https, whose certificate is of the tests' authority."""
    with ScriptedRegistry(authority.issue("127.0.0.1", tmp_path / "server")) as served:
        served.push("x", IMAGE)
        yield served


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of the user, who has nothing there."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("PREFIX", raising=False)
    return tmp_path


def read(registry: ScriptedRegistry, *, insecure: bool = False) -> bytes:
    return RegistryClient(Reference.parse(f"{registry.host}/x"), insecure=insecure).manifest("latest").data


def assert_refused(registry: ScriptedRegistry, error: type[ProvisionError] = NetworkError, why: str = UNKNOWN) -> None:
    with pytest.raises(error, match=why) as caught:
        read(registry)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_file_that_the_environment_names(
    registry: ScriptedRegistry, authority: Authority, home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert_refused(registry)
    monkeypatch.setenv(name, str(authority.certificate))
    assert read(registry) == IMAGE.manifest


@pytest.mark.parametrize("name", ["SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"])
@pytest.mark.parametrize("hashed", [True, False])
def test_a_directory_that_the_environment_names(
    registry: ScriptedRegistry,
    authority: Authority,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    hashed: bool,
) -> None:
    """With names by hash, as OpenSSL wants them, or any others, as Go takes them; some of the files are none."""
    folder = home / "authorities"
    if hashed:
        authority.hashed(folder)
    else:
        folder.mkdir()
        (folder / "README").write_text("not a certificate")
        (folder / "ours.crt").write_bytes(authority.certificate.read_bytes())
    monkeypatch.setenv(name, f"/nowhere:{folder}" if name == "SSL_CERT_DIR" else str(folder))
    assert read(registry) == IMAGE.manifest


def test_what_the_environment_names_counts_together(
    registry: ScriptedRegistry, authority: Authority, other: Authority, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other.certificate))
    assert_refused(registry)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    assert read(registry) == IMAGE.manifest


@pytest.mark.parametrize("content", [None, b"", b"rubbish"])
def test_a_bundle_for_this_program_has_to_be_one(
    registry: ScriptedRegistry, home: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    """Unlike a SSL_CERT_FILE, which OpenSSL and Go overlook where it isn't there."""
    if content is not None:
        (home / "bundle").write_bytes(content)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(home / "bundle"))
    assert_refused(registry, UsageError, "REQUESTS_CA_BUNDLE names .*/bundle, where no certificate can be read")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "")
    monkeypatch.setenv("SSL_CERT_FILE", str(home / "bundle"))
    assert_refused(registry)


@pytest.mark.parametrize("kind", ["file", "directory", "hashed directory", "behind a hashed directory", "Termux"])
def test_the_systems_authorities(
    registry: ScriptedRegistry,
    authority: Authority,
    other: Authority,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """Wherever the system has them, beside those that Python's package certifi brings."""
    files, directories, bundle, folder = [], [], home / "etc/tls/cert.pem", home / "folder"
    bundle.parent.mkdir(parents=True)
    bundle.write_bytes(other.certificate.read_bytes() + authority.certificate.read_bytes())
    if kind in ("file", "behind a hashed directory"):  # as where somebody has added to the bundle alone
        files = [str(bundle)]
    if kind != "file":
        directories = [str(folder)]
        (other if "behind" in kind else authority).hashed(folder)
        if kind == "directory":
            next(folder.iterdir()).rename(folder / "ours.pem")
    if kind == "Termux":
        monkeypatch.setenv("PREFIX", str(home))
        directories = []
    monkeypatch.setattr(certificates, "_FILES", tuple(files))
    monkeypatch.setattr(certificates, "_DIRECTORIES", tuple(directories))
    nowhere = ssl.get_default_verify_paths()._replace(openssl_cafile="/nowhere", openssl_capath="/nowhere")
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: nowhere)
    assert read(registry) == IMAGE.manifest


PLACES = [".config/containers", ".config/docker", "etc/containers", "etc/docker", "etc/containerd"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["ca.crt", "anything.crt"])
def test_authorities_for_one_registry(
    registry: ScriptedRegistry, authority: Authority, home: Path, monkeypatch: pytest.MonkeyPatch, place: str, name: str
) -> None:
    monkeypatch.setenv("PREFIX", str(home))  # in place of the real /etc
    folder = home / place / "certs.d" / registry.host
    folder.mkdir(parents=True)
    (folder / name).write_bytes(authority.certificate.read_bytes())
    (folder / "empty.crt").touch()
    assert read(registry) == IMAGE.manifest
    folder.rename(folder.with_name("127.0.0.1:1"))
    assert_refused(registry)


@pytest.mark.skipif(os.geteuid() != 0, reason="writes to /etc")
@pytest.mark.parametrize("place", ["/etc/docker", "/etc/containers"])
def test_the_real_etc(registry: ScriptedRegistry, authority: Authority, home: Path, place: str) -> None:
    folder = Path(place, "certs.d", registry.host)
    above = next(parent for parent in folder.parents if parent.exists())
    folder.mkdir(parents=True)
    try:
        (folder / "ca.crt").write_bytes(authority.certificate.read_bytes())
        assert read(registry) == IMAGE.manifest
    finally:
        (folder / "ca.crt").unlink(missing_ok=True)
        while folder != above:
            folder.rmdir()
            folder = folder.parent


def test_an_authority_for_a_registry_counts_where_it_leads_to(
    registry: ScriptedRegistry, authority: Authority, home: Path
) -> None:
    """As with Docker: the storage behind a registry mostly has the same authority."""
    folder = home / ".config/containers/certs.d" / registry.host
    folder.mkdir(parents=True)
    (folder / "ca.crt").write_bytes(authority.certificate.read_bytes())
    with ScriptedRegistry(authority.issue("127.0.0.1", home / "storage")) as storage:
        storage.push("x", IMAGE)
        registry.on("/v2/x/manifests/.*", Response(307, b"", {"Location": f"{storage.url}/v2/x/manifests/latest"}))
        assert read(registry) == IMAGE.manifest
        assert_refused(storage)


# Clients' own certificates


@pytest.fixture
def strict(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedRegistry]:
    """A registry that answers only clients with a certificate of the tests' authority."""
    certificate, key = authority.issue("127.0.0.1", tmp_path / "server")
    real: Any = ssl.SSLContext.load_cert_chain

    def and_ask(context: ssl.SSLContext, *paths: Path) -> None:
        real(context, *paths)
        context.load_verify_locations(authority.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # with 1.3 the refusal may be lost on the way

    with monkeypatch.context() as patch:
        patch.setattr(ssl.SSLContext, "load_cert_chain", and_ask)
        served = ScriptedRegistry((certificate, key))
    with served:
        served.push("x", IMAGE)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
        yield served


def test_a_registry_that_wants_a_certificate_of_the_client(
    strict: ScriptedRegistry, authority: Authority, home: Path
) -> None:
    assert_refused(strict, NotAllowed, "wants a certificate of yours")
    folder = home / ".config/containers/certs.d" / strict.host
    certificate, _ = authority.issue("client", folder)
    assert read(strict) == IMAGE.manifest
    assert read(strict, insecure=True) == IMAGE.manifest
    certificate.unlink()
    assert_refused(strict, NotAllowed, "wants a certificate of yours")


def test_a_certificate_of_the_client_is_shown_to_its_host_alone(
    strict: ScriptedRegistry, registry: ScriptedRegistry, authority: Authority, home: Path
) -> None:
    """Not to others that a registry leads to."""
    authority.issue("client", home / ".config/containers/certs.d" / registry.host)
    registry.on("/v2/x/manifests/.*", Response(307, b"", {"Location": f"{strict.url}/v2/x/manifests/latest"}))
    assert_refused(registry, NotAllowed, f"{strict.host} wants a certificate of yours")


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ("no key", "client.cert is a client's certificate without a key: client.key is missing"),
        ("another key", "can't be used: they are not a certificate and its key"),
        ("rubbish", "can't be used: they are not a certificate and its key"),
        ("encrypted", "can't be used"),
    ],
)
def test_a_certificate_of_the_client_that_cannot_be_used(
    strict: ScriptedRegistry, authority: Authority, home: Path, damage: str, why: str
) -> None:
    certificate, key = authority.issue("client", home / ".config/containers/certs.d" / strict.host)
    if damage == "no key":
        key.unlink()
    elif damage == "another key":
        key.write_bytes(authority.key.read_bytes())
    elif damage == "rubbish":
        certificate.write_text("rubbish")
    else:
        key.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n")
    assert_refused(strict, UsageError, why)


def test_a_directory_that_may_not_be_read_is_passed_over(
    registry: ScriptedRegistry, authority: Authority, place: Path, cache_dir: Path
) -> None:
    """As by podman: /etc/docker often is for root alone."""
    (place / "home").mkdir()
    home = own(place / "home")
    folder = home / ".config/docker/certs.d" / registry.host
    folder.mkdir(parents=True)
    folder.chmod(0)
    options = as_user(HOME=str(home), SSL_CERT_FILE=str(own_copy(authority.certificate, place / "ca.pem")))
    provision("inspect", f"{registry.host}/x", cache=cache_dir, **options, status=0)


def own_copy(path: Path, copy: Path) -> Path:
    copy.write_bytes(path.read_bytes())
    return own(copy)


def test_an_authority_that_newer_pythons_would_refuse(registry: ScriptedRegistry, authority: Authority) -> None:
    """Since 3.13 Python wants critical constraints and key usages, which Go and OpenSSL don't."""
    context = Certificates(environment={"SSL_CERT_FILE": str(authority.certificate)}).context(
        Address.parse(registry.url)
    )
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


def test_hosts_without_settings_of_their_own_share_a_context(home: Path) -> None:
    """Loading authorities takes longer than a request."""
    made = Certificates()
    contexts = {made.context(Address.parse(f"https://{host}/")) for host in ("a.example", "b.example:5000")}
    assert len(contexts) == 1
