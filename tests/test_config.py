"""`config.toml`: its keys, errors about mistakes in it, and runs that use it."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.catalogue import Catalogue
from provisioner.config import KEYS, Config, LxcServers
from provisioner.errors import UsageError
from provisioner.image.platform import Platform
from provisioner.image.reference import Reference
from provisioner.image.source_name import Lxc, RegistryName
from tests.support import builders
from tests.support.scripted_registry import ScriptedRegistry, json_response
from tests.support.tools import CHECKOUT, clean_environment, provision

FULL = """\
platform = "arm64"
profile = "debian"
jobs = 8
dns = ["9.9.9.9", "2620:fe::fe"]
proot-options = ["-k", "6.1"]
insecure = ["nas.lan:5000"]
cache-limit = "4 GB"

[mirrors]
"docker.io" = ["mirror.gcr.io", "http://nas.lan:5000/hub"]
"ghcr.io" = []

[lxc]
server = "https://images.example/lxc"
mirrors = ["http://nas.lan/lxc"]

[catalogue.mine]
"linux/arm64" = "lxc:a/b"
"*" = "docker://ghcr.io/me/mine"

[known-mirrors]
"docker.io" = ["m.example"]
lxc = []
"""


def test_all_keys() -> None:
    config = Config.parse(FULL, "f")
    assert config == Config(
        platform=Platform("linux", "arm64"),
        profile="debian",
        jobs=8,
        dns=("9.9.9.9", "2620:fe::fe"),
        proot_options=("-k", "6.1"),
        insecure=("nas.lan:5000",),
        cache_limit=4 * 10**9,
        mirrors={"docker.io": ("mirror.gcr.io", "http://nas.lan:5000/hub"), "ghcr.io": ()},
        lxc=LxcServers("https://images.example/lxc", ("http://nas.lan/lxc",)),
        catalogue=Catalogue(
            {
                "mine": {
                    Platform("linux", "arm64"): Lxc("a", "b"),
                    None: RegistryName(Reference.parse("ghcr.io/me/mine")),
                }
            }
        ),
        known_mirrors={"docker.io": ("m.example",), "lxc": ()},
    )
    assert config.mirrors_for("docker.io") == ("mirror.gcr.io", "http://nas.lan:5000/hub")
    assert config.mirrors_for("quay.io") == ()
    assert config.is_insecure("nas.lan:5000")
    assert not config.is_insecure("nas.lan")


def test_every_key_is_a_field_with_a_default_and_documented() -> None:
    assert [key.replace("-", "_") for key in KEYS] == [field.name for field in fields(Config)]
    assert Config.parse("", "f") == Config()
    page = (CHECKOUT / "docs/config.md").read_text()
    assert re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE)[: len(KEYS)] == list(KEYS)


def test_the_example_of_the_documentation_is_good() -> None:
    page = (CHECKOUT / "docs/config.md").read_text()
    example = re.search(r"\n\n((?:    .*\n|\n)*?    \[mirrors\]\n(?:    .*\n)+)", page)
    assert example
    Config.parse("\n".join(line[4:] for line in example[1].splitlines()), "docs/config.md")


def test_registries_have_one_name() -> None:
    config = Config.parse('insecure = ["R.example"]\n[mirrors]\n"index.docker.io" = ["m.example"]', "f")
    assert config.is_insecure("r.example")
    assert config.mirrors_for("docker.io") == ("m.example",)


def test_where_the_file_is(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert Config.load(home) == Config()
    for folder, environment in ((".config", home), ("xdg", {**home, "XDG_CONFIG_HOME": str(tmp_path / "xdg")})):
        path = tmp_path / folder / "provision/config.toml"
        path.parent.mkdir(parents=True)
        path.write_text(f"profile = '{folder}'")
        assert Config.load(environment).profile == folder
    assert Config.load({**home, "XDG_CONFIG_HOME": "xdg"}).profile == ".config"  # relative: ignored
    own = tmp_path / "own.toml"
    with pytest.raises(UsageError, match=r"read .*own\.toml: No such file"):
        Config.load({**home, "PROVISION_CONFIG": str(own)})
    own.write_text("profile = 'own'")
    assert Config.load({**home, "PROVISION_CONFIG": str(own)}).profile == "own"
    assert Config.load({**home, "PROVISION_CONFIG": "/dev/null"}) == Config()


def test_a_file_that_may_not_be_looked_at_is_not_missing(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match=r"^read .*loop/provision/config\.toml: Too many levels of symbolic links$"):
        Config.load({"XDG_CONFIG_HOME": f"{tmp_path}/loop"})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\nmirors = {}", "f has an unknown key 'mirors'; did you mean mirrors? (line 2)"),
        ("platform = 'linux'", "f: platform: 'linux' is not a platform (line 1)"),
        ("platform = 5", "f: platform: not a text (line 1)"),
        ("profile = ''", "f: profile: not a text (line 1)"),
        ("\n\njobs = 0", "f: jobs: not a number from 1 to 64 (line 3)"),
        ("jobs = 65", "f: jobs: not a number"),
        ("jobs = true", "f: jobs: not a number"),
        ("jobs = '4'", "f: jobs: not a number"),
        ("dns = '9.9.9.9'", "f: dns: not a list of texts"),
        ("dns = ['one.one']", "f: dns: 'one.one' does not appear to be an IPv4 or IPv6 address"),
        ("insecure = ['http://nas']", "f: insecure: 'http://nas' is not a registry"),
        ("insecure = true", "f: insecure: not a list of texts"),
        ("cache-limit = 'much'", "f: cache-limit: not a size"),
        ("mirrors = ['a']", "f: mirrors: not a table of lists"),
        ("[mirrors]\n'docker.io' = 'a.example'", "f: mirrors: not a list of texts (line 1)"),
        ("[mirrors]\n'a b' = []", "f: mirrors: 'a b' is not a registry"),
        ("[mirrors]\n'docker.io' = [\"\\u001b[31m\"]", "f: mirrors: "),
        ("[mirrors]\n'docker.io' = ['http://me:secret@nas']", "f: mirrors: a mirror's address can't have credentials"),
        ("jobs = 1\njobs = 2", "f is not TOML: "),
        ("lxc = 'x'", "f: lxc: not a table (line 1)"),
        ("[lxc]\nmirors = []", "f: lxc: unknown key 'mirors'; known keys: server, mirrors (line 1)"),
        ("[lxc]\nserver = 5", "f: lxc: not a text (line 1)"),
        (
            "[lxc]\nserver = 'ftp://x'",
            "f: lxc: 'ftp://x' is not an LXC image server: 'ftp' is not http or https (line 1)",
        ),
        ("[lxc]\nmirrors = ['https://me:secret@x.example']", "f: lxc: the address of an LXC image server can't have"),
        ("[catalogue]\nx = 'y'", "f: catalogue: 'x' is not a table of platform to source (line 1)"),
        ("[catalogue.x]\n'*' = 'lxc:y'", "f: catalogue: 'lxc:y' is not DISTRIBUTION/RELEASE"),
        ("[known-mirrors]\nlxc = 'x'", "f: known-mirrors: not a list of texts (line 1)"),
    ],
)
def test_mistakes_are_named_with_line_and_key(text: str, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        Config.parse(text, "f")
    assert raised.value.message.startswith(says)
    assert raised.value.message.isprintable()
    assert "secret" not in raised.value.message
    assert raised.value.hint


values = st.recursive(
    st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=6,
)


def toml(value: Any) -> str:
    """Return a value as TOML in one line. Texts are written as in JSON, which TOML reads alike."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    return "[" + ", ".join(map(toml, value)) + "]" if isinstance(value, list) else json.dumps(value, ensure_ascii=False)


@given(st.dictionaries(st.sampled_from(list(KEYS)), values))
def test_hostile_values(settings: dict[str, Any]) -> None:
    try:
        Config.parse("\n".join(f"{key} = {toml(value)}" for key, value in settings.items()), "f")
    except UsageError as error:
        assert error.message.isprintable()  # noqa: PT017  most are wrong, some are not


@pytest.fixture
def registry(registry: ScriptedRegistry) -> ScriptedRegistry:
    images = [(f"linux/{name}", builders.small(on=f"linux/{name}")) for name in ("amd64", "s390x")]
    for _, image in images:
        registry.push("x", image, tag=None)
    registry.add_manifest("x", builders.index(images), builders.OCI_INDEX, "latest")
    return registry


def test_a_run_uses_it_and_options_override_it(registry: ScriptedRegistry, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('platform = "s390x"\nprofile = "alpine"\ndns = ["192.0.2.1"]\n')
    options: dict[str, Any] = {"cache": tmp_path / "cache", "env": clean_environment(PROVISION_CONFIG=str(path))}

    def provisioned(name: str, *words: str) -> tuple[str, str, str]:
        done = provision(*words, "--json", f"{registry.host}/x", tmp_path / name, **options, status=0)
        record = json.loads(done.stdout)
        return record["platform"], record["profile"], (tmp_path / name / "rootfs/etc/resolv.conf").read_text()

    platform, profile, resolv = provisioned("by config")
    assert (platform, profile) == ("linux/s390x", "alpine")
    assert "nameserver 192.0.2.1\n" in resolv
    platform, profile, resolv = provisioned("by option", "--platform=amd64", "--profile=debian", "--dns=192.0.2.2")
    assert (platform, profile) == ("linux/amd64", "debian")
    assert "192.0.2.1" not in resolv


def test_inspect_and_tags_use_its_platform(registry: ScriptedRegistry, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('platform = "s390x"\n')
    registry.on("/v2/x/tags/list", json_response({"tags": ["latest"]}))
    options: dict[str, Any] = {"cache": tmp_path / "cache", "env": clean_environment(PROVISION_CONFIG=str(path))}
    for words, platform in (([], "linux/s390x"), (["--platform=amd64"], "linux/amd64")):
        shown = json.loads(provision("inspect", "--json", f"{registry.host}/x", *words, **options).stdout)
        [tag] = json.loads(provision("tags", "--json", f"{registry.host}/x", *words, **options).stdout)["tags"]
        assert shown["platform"] == tag["platform"] == platform
    path.write_text('platform = "riscv64"\n')
    done = provision("inspect", "--json", f"{registry.host}/x", **options)
    assert json.loads(done.stdout)["platform"] == "linux/amd64"
    assert "there is nothing for linux/riscv64" in done.stderr


def test_a_run_asks_the_mirrors_that_it_names(registry: ScriptedRegistry, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    image = builders.small(on="linux/amd64")
    with ScriptedRegistry() as mirror:
        mirror.push("x", image, tag=None)
        path.write_text(f'[mirrors]\n"{registry.host}" = ["{mirror.host}"]\n')
        env = clean_environment(PROVISION_CONFIG=str(path))
        provision("--platform=amd64", f"{registry.host}/x", tmp_path / "dir", env=env, status=0)
        assert len(mirror.asked("/v2/x/blobs/.*")) == 3
    assert registry.asked("/v2/x/blobs/.*") == []


def test_a_mistake_in_it_ends_a_run(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("\njob = 4\n")
    done = provision("ubuntu", tmp_path / "dir", env=clean_environment(PROVISION_CONFIG=str(path)), status=2)
    assert f"{path} has an unknown key 'job'; did you mean jobs? (line 2)" in done.stderr
    assert "known keys: platform, profile, jobs, dns" in done.stderr
