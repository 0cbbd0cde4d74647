"""Pull, tags, inspect and login against real registries, each as it is set up by those who run one.

All are Debian's docker-registry (distribution 2.8).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import builders
from tests.support.registry_setups import (
    AMD,
    ARM,
    INDEX,
    PASSWORD,
    RegistrySetup,
    plain,
    with_client_certificates,
    with_password,
    with_tls,
    with_tokens,
    with_tokens_and_tls,
)
from tests.support.tools import need

SETUPS = [plain, with_password, with_tls, with_client_certificates, with_tokens, with_tokens_and_tls]


@pytest.fixture(scope="module", params=SETUPS, ids=lambda made: made.__name__)
def setup(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistrySetup]:
    """Each registry, with `owner/image` for two platforms."""
    need("skopeo", "docker-registry")
    with request.param(tmp_path_factory.mktemp(request.param.__name__)) as served:
        served.push("owner/image")
        yield served


def test_login_tags_inspect_pull_and_logout(setup: RegistrySetup, tmp_path: Path) -> None:
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
        assert (done.returncode, "asks for no" in done.stderr) == (0, True), done

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
