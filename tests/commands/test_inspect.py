"""`provision inspect` of images in real and scripted registries, and of provisioned directories."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from provisioner.image.manifest import OCI_INDEX
from provisioner.sizes import size_text
from scripts.loopback_registry import Response
from tests.support import builders, realimages
from tests.support.local_archives import PLAIN, docker_members, write_archive
from tests.support.scripted_registry import Broken, Request, ScriptedRegistry, json_response
from tests.support.terminal import on_terminal, plain
from tests.support.tools import clean_environment, provision, provision_command, run

RUN: dict[str, Any] = {
    "Entrypoint": ["/bin/entry", "two words"],
    "Cmd": ["--serve", "$HOME"],
    "Env": [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "SPACES=  two  spaces ",
        "EVIL=\x1b[2J",
    ],
    "User": "app:mail",
    "WorkingDir": "/srv/app",
    "ExposedPorts": {"8080/tcp": {}, "53/udp": {}},
    "Volumes": {"/var/lib/data": {}},
    "Labels": {"org.opencontainers.image.version": "24.04", "a": "\x1b]0;owned\x07"},
    "StopSignal": "SIGQUIT",
}
AMD = builders.small(run=RUN, config={"created": "2024-09-16T06:23:59.011017704Z"})
ARM = builders.small(on="linux/arm64/v8")
INDEX = builders.index([("linux/amd64", AMD), ("linux/arm64/v8", ARM), ("unknown/unknown", ARM)])
SIZES = [len(layer.blob) for layer in AMD.layers]


@pytest.fixture
def registry(registry: ScriptedRegistry) -> ScriptedRegistry:
    """A registry with `x:latest` for two platforms and `x:amd` for one."""
    registry.push("x", AMD, "amd")
    registry.push("x", ARM, None)
    registry.add_manifest("x", INDEX, OCI_INDEX, "latest")
    return registry


def inspected(*args: str | Path, cache: Path, **options: Any) -> Any:
    """Return the output of `provision inspect --json ARGS`; assert that it succeeds with nothing on standard error."""
    done = provision("inspect", "--json", *args, cache=cache, **options)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_a_layer_that_occurs_twice_is_downloaded_once(registry: ScriptedRegistry, tmp_path: Path) -> None:
    large, small = builders.layer(("usr/large", bytes(range(256)) * 40)), builders.layer(("usr/small", b"x"))
    image = builders.image(large, small, large)
    registry.push("twice", image)
    name, size = f"{registry.host}/twice", len(large.blob) + len(small.blob)
    environment = clean_environment(XDG_STATE_HOME=str(tmp_path / "state"))
    options: dict[str, Any] = {"cache": tmp_path / "cache", "env": environment}
    assert inspected(name, **options)["size"] == size
    done = provision(name, tmp_path / "dir", **options)
    assert f"dir is ready: {size_text(size)} in" in done.stderr
    assert inspected(tmp_path / "dir", **options)["size"] == size
    [directory] = json.loads(provision("list", "--json", **options).stdout)["directories"]
    assert directory["download_size"] == size


@pytest.mark.parametrize("status", [403, 404, 405, 501])
def test_inspect_and_tags_where_head_is_refused(registry: ScriptedRegistry, tmp_path: Path, status: int) -> None:
    registry.on("/v2/x/manifests/.*", lambda request: Response(status) if request.method == "HEAD" else None)
    registry.on("/v2/", Response(status)).on("/v2/x/tags/list", json_response({"name": "x", "tags": ["latest", "amd"]}))
    name = f"{registry.host}/x"
    assert inspected(name, "--platform=amd64", cache=tmp_path)["labels"]
    tags = provision("tags", name, "--platform=arm64", "--json", cache=tmp_path)
    assert [tag["name"] for tag in json.loads(tags.stdout)["tags"]] == ["latest"], tags.stderr


def served(*args: str | Path, cache: Path) -> bytes:
    """Return the output of `provision inspect --raw ARGS`; assert that it succeeds."""
    command, options = provision_command("inspect", "--raw", *args, cache=cache, text=False)
    done: subprocess.CompletedProcess[bytes] = subprocess.run(command, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_a_connection(registry: ScriptedRegistry, tmp_path: Path) -> None:
    """It shows what the tag was in the last run that provisioned it: an image whose layers are there."""
    name = f"{registry.host}/x"
    assert provision("--platform=amd64", name, tmp_path / "dir", cache=tmp_path).returncode == 0
    online = inspected(name, "--platform=amd64", cache=tmp_path)
    document = served(name, cache=tmp_path)
    asked = len(registry.requests)
    offline = inspected(name, "--platform=amd64", "--offline", cache=tmp_path)
    assert {**offline, "platforms": online["platforms"]} == online
    assert served(name, "--offline", cache=tmp_path) == document
    assert len(registry.requests) == asked
    for words in ((f"{registry.host}/none",), (name, "--platform=s390x"), (f"{registry.host}/none", "--raw")):
        done = provision("inspect", *words, "--offline", cache=tmp_path)
        assert done.returncode in (3, 5), done.stderr
        assert len(done.stderr.splitlines()) == 2
    assert len(registry.requests) == asked


def test_the_digest_of_a_file(registry: ScriptedRegistry, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "x", docker_members(PLAIN))
    digest = builders.digest_of(archive.read_bytes()).removeprefix("sha256:")
    assert inspected(archive, f"--sha256={digest}", "--offline", cache=tmp_path)["config_digest"]
    wrong = provision("inspect", archive, f"--sha256={'0' * 64}", cache=tmp_path)
    assert wrong.returncode == 6
    assert f"--sha256 says {'0' * 64}" in wrong.stderr
    for words in ((f"{registry.host}/x",), (f"{registry.host}/x", "--raw"), ("lxc:debian/trixie",)):
        done = provision("inspect", *words, f"--sha256={digest}", cache=tmp_path)
        assert done.returncode == 2
        assert "--sha256 is for files" in done.stderr


def test_all_that_is_known(registry: ScriptedRegistry, tmp_path: Path) -> None:
    assert inspected("--platform=amd64", f"{registry.host}/x", cache=tmp_path) == {
        "format": 1,
        "reference": f"{registry.host}/x:latest",
        "index_digest": builders.digest_of(INDEX),
        "manifest_digest": builders.digest_of(AMD.manifest),
        "config_digest": builders.digest_of(AMD.config),
        "platform": "linux/amd64",
        "platforms": ["linux/amd64", "linux/arm64/v8"],
        "created": "2024-09-16T06:23:59.011017704Z",
        "size": sum(SIZES),
        "layers": [
            {
                "digest": builders.digest_of(layer.blob),
                "diff_id": layer.diff_id,
                "size": len(layer.blob),
                "media_type": layer.media_type,
                "created_by": None,
            }
            for layer in AMD.layers
        ],
        "entrypoint": ["/bin/entry", "two words"],
        "command": ["--serve", "$HOME"],
        "env": RUN["Env"],
        "user": "app:mail",
        "working_dir": "/srv/app",
        "stop_signal": "SIGQUIT",
        "ports": ["53/udp", "8080/tcp"],
        "volumes": ["/var/lib/data"],
        "labels": RUN["Labels"],
        "verified": None,
        "profile": None,
        "provision_version": None,
        "id": None,
        "provisioned": None,
        "unpacked_size": None,
        "files": None,
        "options": None,
        "run": None,
    }


def test_no_layer_is_downloaded_and_no_document_twice(registry: ScriptedRegistry, tmp_path: Path) -> None:
    for _ in range(2):
        inspected("--platform=arm64", f"{registry.host}/x", cache=tmp_path)
    fetched = [request.path for request in registry.requests if request.method == "GET" and request.path != "/v2/"]
    documents = [builders.digest_of(data) for data in (INDEX, ARM.manifest, ARM.config)]
    assert [path.rpartition("/")[2] for path in fetched] == documents


def test_the_platform(registry: ScriptedRegistry, tmp_path: Path) -> None:
    image = f"{registry.host}/x"
    assert inspected("--platform=arm64", image, cache=tmp_path)["platform"] == "linux/arm64/v8"
    missing = provision("inspect", "--platform=riscv64", image, cache=tmp_path)
    assert (missing.returncode, missing.stdout) == (3, "")
    assert "it has linux/amd64, linux/arm64/v8" in missing.stderr
    # Without being asked for one, it shows what there is.
    strange = builders.small(on="linux/s390x")
    registry.push("x", strange, "strange")
    done = provision("inspect", "--json", f"{image}:strange", cache=tmp_path)
    assert json.loads(done.stdout)["platform"] == "linux/s390x"
    assert "this is the image for linux/s390x" in done.stderr


def test_a_tag_that_moves_meanwhile(registry: ScriptedRegistry, tmp_path: Path) -> None:
    registry.push("x", builders.small(on="linux/s390x"), "latest")
    before = {"Content-Type": OCI_INDEX, "Docker-Content-Digest": builders.digest_of(INDEX)}
    registry.on("/v2/x/manifests/latest", Response(200, INDEX, before), times=1)
    ours = inspected("--platform=arm64", f"{registry.host}/x", cache=tmp_path)
    assert ours["manifest_digest"] == builders.digest_of(ARM.manifest)


def test_a_registry_that_fails_for_a_moment(registry: ScriptedRegistry, tmp_path: Path) -> None:
    registry.on("/v2/x/manifests/latest", Response(503), times=1)
    registry.on("/v2/x/blobs/.*", Broken(200, ARM.config, sent=20), times=1)
    done = provision("inspect", "--platform=arm64", f"{registry.host}/x", cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "503" in done.stderr
    assert "broke off" in done.stderr


def test_content_comes_from_the_mirrors(registry: ScriptedRegistry, tmp_path: Path) -> None:
    with ScriptedRegistry() as mirror:
        mirror.push("x", ARM, None)
        mirror.add_manifest("x", INDEX, OCI_INDEX)
        env = clean_environment(PROVISION_MIRRORS=mirror.host)
        done = provision("inspect", "--platform=arm64", f"{registry.host}/x", cache=tmp_path / "cache", env=env)
        assert done.returncode == 0, done.stderr
        assert len(mirror.asked("/v2/x/blobs/.*")) == 1
    assert [request.method for request in registry.asked("/v2/x/(manifests|blobs)/.*")] == ["HEAD"]


def test_the_bytes_as_they_are_served(registry: ScriptedRegistry, tmp_path: Path) -> None:
    def raw(*args: str) -> bytes:
        return served(*args, cache=tmp_path)

    assert raw(f"{registry.host}/x") == INDEX
    assert raw("--platform=arm64", f"{registry.host}/x") == ARM.manifest
    assert raw(f"{registry.host}/x@{builders.digest_of(AMD.manifest)}") == AMD.manifest
    both = provision("inspect", "--raw", "--json", f"{registry.host}/x", cache=tmp_path)
    assert both.returncode == 2


def test_raw_bytes_on_a_terminal_are_made_safe(registry: ScriptedRegistry, tmp_path: Path) -> None:
    evil = builders.small(manifest={"annotations": {"a": "\x9b2J"}})
    data = json.dumps(json.loads(evil.manifest), ensure_ascii=False, indent=1).encode()
    registry.add_manifest("x", data, tag="evil")
    _, text = on_terminal("inspect", "--raw", f"{registry.host}/x:evil", columns=80, cache=tmp_path)
    assert text.replace("\n", "").isprintable()
    assert r"\x9b2J" in text


def test_in_a_pipe_each_line_has_its_key(registry: ScriptedRegistry, tmp_path: Path) -> None:
    done = provision("inspect", "--platform=amd64", f"{registry.host}/x", cache=tmp_path)
    lines = done.stdout.splitlines()
    assert lines[0] == f"{registry.host}/x:latest"
    assert "entrypoint   /bin/entry 'two words'" in lines
    assert "command      --serve '$HOME'" in lines
    assert "env          SPACES=  two  spaces" in [line.rstrip() for line in lines]
    assert r"env          EVIL=\x1b[2J" in lines
    assert "ports        53/udp" in lines
    assert "ports        8080/tcp" in lines
    assert f"manifest     {builders.digest_of(AMD.manifest)}" in lines
    assert f"    2  {SIZES[1]} B" in lines[-1]
    assert lines[-1].endswith(builders.digest_of(AMD.layers[1].blob))
    assert done.stdout.replace("\n", "").isprintable()


@pytest.mark.parametrize("columns", [40, 80, 132])
def test_on_a_terminal(registry: ScriptedRegistry, tmp_path: Path, columns: int) -> None:
    image = f"{registry.host}/x"
    status, text = on_terminal("inspect", "--platform=amd64", image, columns=columns, cache=tmp_path)
    lines = plain(text).splitlines()
    assert status == 0
    assert all(len(line) <= columns and line.isprintable() for line in lines)
    unfolded = "".join(line.strip() for line in lines)
    for fact in ("app:mail", "/srv/app", "2024-09-16 06:23:59", builders.digest_of(AMD.config), *RUN["Env"][:1]):
        assert fact.replace(" ", "") in unfolded.replace(" ", "")
    # The largest layer has the longest bar.
    first, second = lines[-2:]
    assert first.count("█") > second.count("█") > 0
    assert "\033[1m" in text
    assert "\033[2m" in text


def test_what_is_not_there(registry: ScriptedRegistry, tmp_path: Path) -> None:
    done = provision("inspect", f"{registry.host}/x:nowhere", cache=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert "no tag 'nowhere'" in done.stderr
    assert done.stderr.endswith(f"check the spelling; tags that are there: provision tags {registry.host}/x\n")
    assert provision("inspect", tmp_path / "nothing", cache=tmp_path).returncode == 3


def test_fields_of_wrong_types(registry: ScriptedRegistry, tmp_path: Path) -> None:
    wrong: list[tuple[str, object]] = [
        ("ExposedPorts", ["80"]),
        ("Volumes", "x"),
        ("Labels", {"a": 1}),
        ("Labels", []),
        ("Volumes", {"a\0b": {}}),
    ]
    for field, value in wrong:
        registry.push("x", builders.small(run={field: value}), "wrong")
        done = provision("inspect", "--platform=amd64", f"{registry.host}/x:wrong", cache=tmp_path)
        assert (done.returncode, done.stdout) == (6, ""), (field, value)
        assert field in done.stderr
    registry.push("x", builders.small(run={"ExposedPorts": None, "Volumes": {}, "Labels": {"a": None}}), "fine")
    assert inspected("--platform=amd64", f"{registry.host}/x:fine", cache=tmp_path)["labels"] == {"a": ""}


HISTORY = [
    {"created_by": "/bin/sh -c #(nop) ADD file:0 in / "},
    {"created_by": "ENV A=B", "empty_layer": True},
    {"created_by": "RUN /bin/sh -c apt-get update \x1b[2J && " + "make " * 100 + "# buildkit"},
]


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_what_made_each_layer(registry: ScriptedRegistry, tmp_path: Path, columns: int) -> None:
    registry.push("x", builders.small(config={"history": HISTORY}), "history")
    words = ("--platform=amd64", f"{registry.host}/x:history")
    first, second = (layer["created_by"] for layer in inspected(*words, cache=tmp_path)["layers"])
    assert first == "ADD file:0 in /"
    assert second.startswith("apt-get update \x1b[2J && make make")
    lines = provision("inspect", *words, cache=tmp_path).stdout.splitlines()
    assert lines[-2].endswith("ADD file:0 in /")
    assert lines[-1].endswith(r"apt-get update \x1b[2J && " + " ".join(["make"] * 100))
    text = plain(on_terminal("inspect", *words, columns=columns, cache=tmp_path)[1])
    assert all(len(line) <= columns and line.isprintable() for line in text.splitlines())
    assert "ADD file:0 in /" in text
    assert "apt-get update" in text


# Directories


def test_a_directory_needs_no_registry(registry: ScriptedRegistry, place: Path, cache_dir: Path) -> None:
    directory = place / "container"
    options = ("--hostname=box", "--workdir=/tmp")
    done = provision("--platform=amd64", f"{registry.host}/x", directory, *options, cache=cache_dir)
    assert done.returncode == 0, done.stderr
    os.utime(directory / ".provision/record.json", (0, 86400))
    image = inspected("--platform=amd64", f"{registry.host}/x", cache=cache_dir)
    registry.requests.clear()
    inspection = inspected(directory, cache=place / "no-cache")
    assert registry.requests == []
    assert not (place / "no-cache").exists()
    record = json.loads((directory / ".provision/record.json").read_bytes())
    files = list((directory / "rootfs").rglob("*"))
    assert inspection == image | {
        "platforms": ["linux/amd64"],
        "profile": record["profile"],
        "provision_version": record["version"],
        "id": record["id"],
        "provisioned": "1970-01-02T00:00:00Z",
        "unpacked_size": sum(path.lstat().st_size for path in files if path.is_file() and not path.is_symlink()),
        "files": 1 + len(files),
        "options": record["options"],
        "run": record["run"],
        "working_dir": "/tmp",
    }
    assert (record["options"]["hostname"], record["run"]["working_dir"]) == ("box", "/tmp")
    lines = provision("inspect", directory, cache=cache_dir).stdout.splitlines()
    assert f"provisioned  1970-01-02 00:00 by provision {record['version']}" in lines
    assert "options      hostname=box" in lines
    assert "options      workdir=/tmp" in lines
    assert f"id           {record['id']}" in lines
    [unpacked] = [line for line in lines if line.startswith("unpacked ")]
    assert unpacked.endswith(f" in {sum(not path.is_dir() or path.is_symlink() for path in files)} files")
    assert served(directory, cache=cache_dir) == AMD.manifest
    status, text = on_terminal("inspect", directory, columns=40, cache=cache_dir)
    assert status == 0
    assert all(len(line) <= 40 for line in plain(text).splitlines())
    assert provision("inspect", "--platform=amd64", directory, cache=cache_dir).returncode == 2


def test_a_directory_by_a_bare_name(registry: ScriptedRegistry, place: Path, cache_dir: Path) -> None:
    provision("--platform=amd64", f"{registry.host}/x", place / "ubuntu", cache=cache_dir)
    done = provision("inspect", "--json", "ubuntu", cache=cache_dir, cwd=place)
    assert json.loads(done.stdout)["reference"] == f"{registry.host}/x:latest"
    assert "this is the directory ubuntu" in done.stderr
    done = provision("inspect", "--json", "./ubuntu", cache=cache_dir, cwd=place)
    assert (done.returncode, done.stderr) == (0, "")


def test_damaged_directories(registry: ScriptedRegistry, place: Path, cache_dir: Path) -> None:
    directory = place / "container"
    provision("--platform=amd64", f"{registry.host}/x", directory, cache=cache_dir)
    folder = directory / ".provision"

    def status() -> int:
        done = provision("inspect", directory, cache=cache_dir)
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) == 2
        return done.returncode

    (folder / "manifest.json").write_bytes(ARM.manifest)
    assert status() == 6
    (folder / "config.json").write_bytes(ARM.config)
    assert status() == 6
    (folder / "config.json").unlink()
    assert status() == 7
    (folder / "record.json").write_text("{}")
    assert status() == 7


# Real images


def test_a_real_image_as_skopeo_sees_it(application: str, tmp_path: Path) -> None:
    ours = inspected(application, cache=tmp_path)
    theirs = json.loads(run("skopeo", "inspect", "--tls-verify=false", f"docker://{application}"))
    assert ours["manifest_digest"] == theirs["Digest"]
    assert [layer["digest"] for layer in ours["layers"]] == theirs["Layers"]
    raw = json.loads(run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{application}"))
    assert [layer["size"] for layer in ours["layers"]] == [layer["size"] for layer in raw["layers"]]
    assert ours["env"] == theirs["Env"]
    assert ours["created"] == theirs["Created"]
    assert ours["labels"] == (theirs["Labels"] or {})
    config = json.loads(run("skopeo", "inspect", "--config", "--tls-verify=false", f"docker://{application}"))["config"]
    assert (ours["entrypoint"], ours["command"]) == (config["Entrypoint"], config["Cmd"])
    assert (ours["user"], ours["working_dir"]) == (config["User"], config["WorkingDir"])


def test_a_real_index(multiarch: str, tmp_path: Path) -> None:
    ours = inspected(multiarch, cache=tmp_path)
    assert {platform.split("/")[1] for platform in ours["platforms"]} == {realimages.NATIVE, realimages.FOREIGN}
    raw = served(multiarch, cache=tmp_path)
    assert raw == run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{multiarch}").encode()
    assert ours["index_digest"] == builders.digest_of(raw)


def test_the_recorded_image_of_docker_hub(registry: ScriptedRegistry, tmp_path: Path) -> None:
    """No layer is requested; the digests are those of the recorded bytes."""
    data = Path(__file__).parent.parent / "data"
    config = (data / "hub-ubuntu-config.json").read_bytes()
    manifest = json.loads((data / "hub-ubuntu-manifest.json").read_bytes())
    manifest["config"] = builders.descriptor(config, manifest["config"]["mediaType"])
    registry.add_blob("ubuntu", config)
    registry.add_manifest("ubuntu", json.dumps(manifest).encode(), tag="latest")
    registry.on("/v2/ubuntu/blobs/sha256:25a.*", _unwanted)
    ours = inspected("--platform=arm64", f"{registry.host}/ubuntu", cache=tmp_path)
    assert ours["labels"]["org.opencontainers.image.version"] == "24.04"
    assert (ours["size"], ours["command"], ours["volumes"]) == (28885430, ["/bin/bash"], [])


def _unwanted(request: Request) -> Any:
    return json_response({"unwanted": request.path}, 500)
