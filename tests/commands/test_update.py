"""`provision update`: the new image comes, and what the user has made of the directory stays."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import builders
from tests.support.archives import Member, hard, special
from tests.support.disks import tmpfs
from tests.support.kills import kill_at_random, run_forked
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import as_user, clean_environment, need_root, provision, user_id
from tests.support.trees import tree_of

OLD: list[Member] = [
    ("bin/tool", b"tool 1"),
    hard("bin/same", "bin/tool"),
    ("etc/same", b"same"),
    ("etc/conf", b"conf 1"),
    ("etc/mine", b"mine 1"),
    ("etc/gone", b"gone 1"),
    ("etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:33:33::/:/bin/sh\n"),
    ("etc/group", b"root:x:0:\naudio:x:29:\n"),
    ("usr/lib/both", b"both 1"),
    ("usr/lib/deleted", b"deleted 1"),
    ("usr/lib/gone", b"gone 1"),
    ("usr/doc/a", b"a"),
    ("home/user/file", b"file 1"),
    ("link", "bin/tool"),
    special("usr/bin/su", tarfile.REGTYPE, mode=0o4755),
    special("usr/modes", tarfile.REGTYPE, mode=0o644),
    ("lib/x", b"x 1"),
]
NEW: list[Member] = [
    ("bin/tool", b"tool 2"),
    hard("bin/same", "bin/tool"),
    ("etc/same", b"same"),
    ("etc/conf", b"conf 2"),
    ("etc/mine", b"mine 1"),
    ("etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:33:33::/srv:/bin/sh\nnew:x:60:60::/:/bin/sh\n"),
    ("etc/group", b"root:x:0:\naudio:x:29:pulse\nnew:x:60:\n"),
    ("usr/lib/both", b"both 2"),
    ("usr/lib/deleted", b"deleted 2"),
    ("usr/doc/a", b"a"),
    ("usr/doc/b", b"b"),
    ("home/user/file", b"file 2"),
    ("link", "bin/same"),
    special("usr/bin/su", tarfile.REGTYPE, mode=0o4755),
    special("usr/modes", tarfile.REGTYPE, mode=0o600),
    ("usr/lib/x", b"x 1"),
    ("lib", "usr/lib"),
    ("usr/new", b"new 2"),
]
RUN = {"Cmd": ["/bin/tool"]}


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    with ScriptedRegistry() as running:
        push(running, OLD)
        yield running


def push(registry: ScriptedRegistry, members: list[Member]) -> None:
    registry.push("image", builders.image(builders.layer(*members), run=RUN))


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return clean_environment(XDG_STATE_HOME=str(tmp_path / "state"))


@pytest.fixture
def directory(registry: ScriptedRegistry, tmp_path: Path, env: dict[str, str]) -> Path:
    """A directory of the old image; the registry has the new one."""
    provision(f"{registry.host}/image", tmp_path / "dir", "--platform=linux/amd64", "--env", "A=1", env=env, status=0)
    push(registry, NEW)
    return tmp_path / "dir"


def update(directory: Path, env: dict[str, str], *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    return provision("update", directory, *words, env=env, status=status)


def kept(directory: Path) -> Path:
    (name,) = (name for name in os.listdir(directory.parent) if name.startswith("dir.before-"))
    return directory.parent / name


def change(rootfs: Path) -> None:
    """Change what a user might change."""
    (rootfs / "etc/conf").write_bytes(b"conf of mine")
    (rootfs / "etc/mine").write_bytes(b"mine of mine")
    (rootfs / "etc/gone").write_bytes(b"gone of mine")
    with (rootfs / "etc/passwd").open("ab") as file:
        file.write(b"me:x:1000:1000::/home/me:/bin/sh\n")
    (rootfs / "etc/group").write_bytes(b"root:x:0:\naudio:x:29:me\n")
    (rootfs / "usr/lib/both").write_bytes(b"both of mine")
    (rootfs / "usr/lib/deleted").unlink()
    shutil.rmtree(rootfs / "usr/doc")
    (rootfs / "home/user/file").write_bytes(b"file of mine")
    (rootfs / "usr/bin/su").chmod(0o755)
    (rootfs / "lib/added").write_bytes(b"added")
    (rootfs / "opt").mkdir()
    (rootfs / "opt/a").write_bytes(b"a")
    os.link(rootfs / "opt/a", rootfs / "opt/b")
    (rootfs / "opt/c").symlink_to("/nowhere")
    (rootfs / "opt/d").mkdir(mode=0o700)
    os.utime(rootfs / "opt/d", (5, 5))


def contents(rootfs: Path) -> dict[str, str]:
    return {
        str(path.relative_to(rootfs)): path.read_text()
        for path in sorted(rootfs.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


MERGED = {
    "bin/same": "tool 2",
    "bin/tool": "tool 2",
    "etc/conf": "conf of mine",
    "etc/conf.provision-new": "conf 2",
    "etc/gone": "gone of mine",
    "etc/group": "root:x:0:\naudio:x:29:me,pulse\nnew:x:60:\n",
    "etc/mine": "mine of mine",
    "etc/passwd": "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/srv:/bin/sh\nme:x:1000:1000::/home/me:/bin/sh\n"
    "new:x:60:60::/:/bin/sh\n",
    "etc/same": "same",
    "home/user/file": "file of mine",
    "opt/a": "a",
    "opt/b": "a",
    "usr/bin/su": "",
    "usr/lib/added": "added",
    "usr/lib/both": "both 2",
    "usr/lib/x": "x 1",
    "usr/modes": "",
    "usr/new": "new 2",
}
OWN = {"etc/hosts", "etc/hostname", "etc/resolv.conf"}


def test_both_sides_are_there_afterwards(directory: Path, env: dict[str, str]) -> None:
    change(directory / "rootfs")
    (directory / "notes").mkdir()
    (directory / "notes/todo").write_text("todo")
    old, before = contents(directory / "rootfs"), tree_of(directory)
    done = update(directory, env, "--yes")
    rootfs, where = directory / "rootfs", kept(directory)
    assert {path: text for path, text in contents(rootfs).items() if path not in OWN} == MERGED
    assert contents(rootfs).keys() >= OWN
    assert os.readlink(rootfs / "link") == "bin/same"
    assert os.readlink(rootfs / "lib") == "usr/lib"
    assert os.readlink(rootfs / "opt/c") == "/nowhere"
    assert (rootfs / "opt/a").samefile(rootfs / "opt/b")
    assert (rootfs / "bin/tool").samefile(rootfs / "bin/same")
    assert (rootfs / "usr/bin/su").stat().st_mode & 0o7777 == 0o755
    assert (rootfs / "usr/modes").stat().st_mode & 0o7777 == 0o600
    assert (rootfs / "opt/d").stat().st_mode & 0o7777 == 0o700
    assert (rootfs / "opt/d").stat().st_mtime == 5
    assert (directory / "notes/todo").read_text() == "todo"
    assert contents(where / "rootfs") == old
    own = ".provision/record.json"  # it has another id
    after = tree_of(where)
    assert {path: after[path] for path in after if path not in (own, ".provision")} == {
        path: before[path] for path in before if path not in (own, ".provision")
    }
    assert done.stdout.splitlines() == [
        "the image: 3 files added, 11 changed, 3 deleted",
        "yours: 10 changes stay",
        "/etc/conf: yours stays; the image's is /etc/conf.provision-new",
        "/etc/gone: yours stays; the image has changed it too",
        "/home/user/file: yours stays; the image has changed it too",
        "/usr/doc: stays deleted; the image has changed it",
        f"/usr/lib/both: the image's comes; yours is in {where}",
        "/usr/lib/deleted: stays deleted; the image has changed it",
    ]
    assert f"as it was: {where}" in done.stderr


def test_the_directory_is_one_of_the_new_image(directory: Path, env: dict[str, str]) -> None:
    change(directory / "rootfs")
    script = (directory / "start.sh").read_text()
    assert "\ndefault_env=A=1\n" in script
    update(directory, env, "--yes")
    record, former = (
        json.loads((path / ".provision/record.json").read_text()) for path in (directory, kept(directory))
    )
    assert record["manifest_digest"] != former["manifest_digest"]
    renewed = (directory / "start.sh").read_text()
    assert [line for line in renewed.splitlines() if line.startswith("default_")] == [
        line for line in script.splitlines() if line.startswith("default_")
    ]
    changes = provision("diff", directory, env=env).stdout.splitlines()
    assert "C /usr/lib/both" not in changes
    assert {"A /opt/a", "C /etc/conf", "A /etc/conf.provision-new", "D /usr/lib/deleted", "D /usr/doc"} <= set(changes)
    assert "up to date" in update(directory, env, "--yes").stderr


def test_users_that_both_sides_have_changed(directory: Path, registry: ScriptedRegistry, env: dict[str, str]) -> None:
    """Two users with one number stay, and are listed; a user of one file has a line in the other."""
    passwd, shadow = b"root:x:0:0::/:/bin/sh\nold:x:70:70::/:/bin/sh\n", b"root:*:1::::::\nold:*:1::::::\n"
    files = {"etc/passwd": passwd, "etc/shadow": shadow, "etc/subuid": b"root:100000:65536\n"}
    push(registry, [*files.items()])
    update(directory, env, "--yes", "--no-keep")
    rootfs = directory / "rootfs"
    (rootfs / "etc/passwd").write_bytes(passwd.replace(b"70::/:", b"70::/srv:") + b"me:x:1000:1000::/:/bin/sh\n")
    (rootfs / "etc/shadow").write_bytes(shadow + b"me:*:1::::::\n")
    (rootfs / "etc/subuid").write_bytes(files["etc/subuid"] + b"me:165536:65536\n")
    push(
        registry,
        [
            ("etc/passwd", b"root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/false\n"),
            ("etc/shadow", b"root:*:1::::::\napp:!:1::::::\n"),
            ("etc/subuid", files["etc/subuid"] + b"app:200000:10\n"),
        ],
    )
    done = update(directory, env, "--yes", "--no-keep")
    assert "/etc/passwd: both changed the line of old: yours stays" in done.stderr
    assert "/etc/passwd: me and app have the same number" in done.stderr
    assert "/etc/subuid: me and app have the same number" in done.stderr
    assert (rootfs / "etc/passwd").read_text().splitlines() == [
        "root:x:0:0::/:/bin/sh",
        "old:x:70:70::/srv:/bin/sh",
        "me:x:1000:1000::/:/bin/sh",
        "app:x:1000:1000::/:/bin/false",
    ]
    assert (rootfs / "etc/shadow").read_text().splitlines() == [
        "root:*:1::::::",
        "me:*:1::::::",
        "app:!:1::::::",
        "old:*:1::::::",
    ]


def test_the_directory_stays_the_same_container(directory: Path, env: dict[str, str]) -> None:
    """It has the id that it had; what is kept is another one, and isn't listed."""

    def id_of(path: Path) -> str:
        return str(json.loads((path / ".provision/record.json").read_text())["id"])

    before = id_of(directory)
    update(directory, env, "--yes")
    assert id_of(directory) == before
    assert len(id_of(kept(directory))) == len(before)
    assert id_of(kept(directory)) != before
    listed = [str(row["directory"]) for row in json.loads(provision("list", "--json", env=env).stdout)["directories"]]
    assert listed == [str(directory)]
    # Moved by hand, it is found by its id: the kept one isn't taken for it.
    directory.rename(directory.with_name("moved"))
    listed = [str(row["directory"]) for row in json.loads(provision("list", "--json", env=env).stdout)["directories"]]
    assert listed == [str(directory.with_name("moved"))]


def test_without_changes_it_is_the_new_image(directory: Path, env: dict[str, str], tmp_path: Path) -> None:
    done = update(directory, env, "--yes", "--no-keep")
    assert "yours: nothing was changed" in done.stdout.splitlines()
    reference = json.loads((directory / ".provision/record.json").read_text())["reference"]
    provision(reference, tmp_path / "fresh/dir", "--platform=linux/amd64", env=env, status=0)
    found, fresh = tree_of(directory / "rootfs"), tree_of(tmp_path / "fresh/dir/rootfs")
    others = {path for path, entry in fresh.items() if entry.type != "d" and path not in OWN | {"etc/mtab"}}
    assert {path: found[path] for path in others} == {path: fresh[path] for path in others}
    assert contents(directory / "rootfs") == contents(tmp_path / "fresh/dir/rootfs")
    assert provision("diff", directory, env=env).stdout == ""
    assert sorted(os.listdir(tmp_path)) == ["dir", "fresh", "state"]


def test_an_update_of_an_update(directory: Path, registry: ScriptedRegistry, env: dict[str, str]) -> None:
    """The base is the last image, and what came beside the user's file is replaced."""
    change(directory / "rootfs")
    update(directory, env, "--yes", "--no-keep")
    push(registry, [("etc/conf", b"conf 3"), *(member for member in NEW if not _is(member, "etc/conf"))])
    update(directory, env, "--yes", "--no-keep")
    found = contents(directory / "rootfs")
    assert {path: text for path, text in found.items() if path not in OWN} == {
        **MERGED,
        "etc/conf.provision-new": "conf 3",
    }


def _is(member: Member, name: str) -> bool:
    return not isinstance(member, tarfile.TarInfo) and member[0] == name


def test_check_only_looks(directory: Path, registry: ScriptedRegistry, env: dict[str, str]) -> None:
    before = tree_of(directory)
    assert update(directory, env, "--check", status=9).stdout == ""
    assert tree_of(directory) == before
    push(registry, OLD)
    update(directory, env, "--check")


@pytest.mark.parametrize(("words", "status"), [(["--dry-run"], 0), ([], 8)])
def test_the_plan_alone_changes_nothing(directory: Path, env: dict[str, str], words: list[str], status: int) -> None:
    """Without a terminal nobody can be asked."""
    change(directory / "rootfs")
    before = tree_of(directory)
    done = update(directory, env, *words, status=status)
    assert "yours stays; the image's is /etc/conf.provision-new" in done.stdout
    assert tree_of(directory) == before
    assert sorted(os.listdir(directory.parent)) == ["dir", "state"]


def test_conflicts_have_a_colour(directory: Path, env: dict[str, str]) -> None:
    change(directory / "rootfs")
    shown = update(directory, env, "--dry-run", "--color=always").stdout
    assert "\x1b[33m/etc/conf\x1b[0m: yours stays" in shown


def test_the_plan_as_json(directory: Path, env: dict[str, str]) -> None:
    change(directory / "rootfs")
    plan = json.loads(update(directory, env, "--dry-run", "--json").stdout)
    assert plan["image"] == {"added": 3, "changed": 11, "deleted": 3}
    (row,) = (row for row in plan["changes"] if row["path"] == "/lib/added")
    assert row == {
        "path": "/lib/added",
        "place": "/usr/lib/added",
        "content": "user",
        "mode": "user",
        "owner": "user",
        "is_deleted": False,
        "is_conflict": False,
    }


def test_to_another_image(directory: Path, registry: ScriptedRegistry, env: dict[str, str]) -> None:
    registry.push("other", builders.image(builders.layer(("etc/other", b"other"))))
    (directory / "rootfs/home/mine").write_bytes(b"mine")
    update(directory, env, "--yes", "--to", f"{registry.host}/other")
    found = {path: text for path, text in contents(directory / "rootfs").items() if path not in OWN}
    assert found == {"etc/other": "other", "home/mine": "mine"}
    listed = json.loads(provision("list", "--json", env=env).stdout)["directories"]
    assert [row["reference"] for row in listed] == [f"{registry.host}/other:latest"]


def test_all_that_are_known(directory: Path, registry: ScriptedRegistry, env: dict[str, str], tmp_path: Path) -> None:
    push(registry, OLD)
    provision(f"{registry.host}/image", tmp_path / "second", "--platform=linux/amd64", env=env, status=0)
    push(registry, NEW)
    shutil.rmtree(directory / ".provision")
    done = provision("update", "--all", "--yes", "--no-keep", env=env, status=8)
    assert "was not made by provision" in done.stderr
    assert (tmp_path / "second/rootfs/usr/new").exists()
    provision("update", "--all", "--check", tmp_path, env=env, status=2)


@pytest.mark.parametrize("name", [".rpm.lock", "__db.001", "rpmdb.sqlite-shm"])
def test_a_query_of_rpm_is_no_change_of_packages(
    directory: Path, registry: ScriptedRegistry, env: dict[str, str], name: str
) -> None:
    push(registry, [*NEW, ("var/lib/rpm/rpmdb.sqlite", b"a")])
    (directory / "rootfs/var/lib/rpm").mkdir(parents=True)
    (directory / "rootfs/var/lib/rpm" / name).write_bytes(b"b")
    update(directory, env, "--yes", "--no-keep")
    assert (directory / "rootfs/var/lib/rpm/rpmdb.sqlite").read_bytes() == b"a"


def test_only_new_layers_are_downloaded(registry: ScriptedRegistry, tmp_path: Path, env: dict[str, str]) -> None:
    lower, first, second = (builders.layer((name, name.encode())) for name in ("lower", "first", "second"))
    cache = tmp_path / "cache"
    registry.push("image", builders.image(lower, first))
    provision(f"{registry.host}/image", tmp_path / "dir", "--platform=linux/amd64", env=env, cache=cache, status=0)
    registry.push("image", builders.image(lower, second))
    before = len(registry.requests)
    provision("update", tmp_path / "dir", "--yes", "--no-keep", env=env, cache=cache, status=0)
    paths = " ".join(str(request) for request in registry.requests[before:])
    assert builders.digest_of(second.blob) in paths
    assert builders.digest_of(lower.blob) not in paths
    assert (tmp_path / "dir/rootfs/second").exists()


def test_packages_of_both_sides(directory: Path, registry: ScriptedRegistry, env: dict[str, str]) -> None:
    push(registry, [*NEW, ("var/lib/rpm/rpmdb.sqlite", b"a")])
    (directory / "rootfs/var/lib/rpm").mkdir(parents=True)
    (directory / "rootfs/var/lib/rpm/rpmdb.sqlite").write_bytes(b"b")
    before = tree_of(directory)
    done = update(directory, env, "--yes", status=8)
    assert "their databases can't be merged" in done.stderr
    assert tree_of(directory) == before


def test_what_runs_is_in_the_way(directory: Path, env: dict[str, str]) -> None:
    program = directory / "rootfs/bin/sleep"
    shutil.copy(shutil.which("sleep") or "", program)
    before = tree_of(directory)
    with subprocess.Popen([program, "60"]) as running:
        while os.readlink(f"/proc/{running.pid}/exe") != str(program):
            time.sleep(0.01)
        done = update(directory, env, "--yes", status=8)
        assert f": {running.pid} sleep\n  stop them first: " in done.stderr
        running.kill()
    assert tree_of(directory) == before


@pytest.mark.parametrize(
    ("record", "words", "status", "message"),
    [
        (b"#mtree\nnonsense\n", (), 7, "record is damaged"),
        (None, (), 7, "has no ownership record"),
        (b"", ("--to", "127.0.0.1:1/nothing"), 5, "127.0.0.1:1"),
    ],
    ids=["damaged record", "no record", "no registry"],
)
def test_what_can_not_be_updated(
    directory: Path, env: dict[str, str], record: bytes | None, words: tuple[str, ...], status: int, message: str
) -> None:
    path = directory / ".provision/ownership.mtree"
    if record is None:
        path.unlink()
    elif record:
        path.write_bytes(record)
    before = tree_of(directory)
    assert message in update(directory, env, "--yes", *words, status=status).stderr
    assert tree_of(directory) == before
    assert sorted(os.listdir(directory.parent)) == ["dir", "state"]


def test_wrong_words(env: dict[str, str]) -> None:
    provision("update", env=env, status=2)
    provision("update", "--all", "dir", env=env, status=2)


@pytest.mark.slow
def test_killed_at_a_hundred_moments_it_is_the_old_or_the_new(
    directory: Path, env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing above it, beside it and behind its links is touched, and the next run cleans up."""
    change(directory / "rootfs")
    (tmp_path / "outside").mkdir()
    canaries = [tmp_path / "canary", tmp_path / "outside/canary"]
    for canary in canaries:
        canary.write_text("alive")
    (directory / "rootfs/opt/above").symlink_to(tmp_path)
    (directory / "rootfs/usr/outside").symlink_to(tmp_path / "outside")
    os.link(canaries[0], directory / "rootfs/opt/canary")
    before = [(path.stat().st_ino, path.stat().st_mode, path.read_text()) for path in canaries]
    shutil.copytree(directory, tmp_path / "copy", symlinks=True)
    old, new = contents(directory / "rootfs"), dict[str, str]()
    for name, value in {**env, "PROVISION_CACHE_DIR": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)

    def prepare() -> list[str]:
        for name in os.listdir(tmp_path):
            if name in ("dir", ".dir.provision") or name.startswith("dir.before"):
                shutil.rmtree(tmp_path / name)
        shutil.copytree(tmp_path / "copy", directory, symlinks=True)
        return ["update", "--yes", "--no-sync", str(directory)]

    assert run_forked(prepare()) == 0
    new = contents(directory / "rootfs")
    assert new != old
    kills = news = 0
    for was_killed in kill_at_random(100, prepare, tmp_path):
        kills += was_killed
        if directory.exists():
            assert contents(directory / "rootfs") in (old, new)
        assert run_forked(["update", "--check", str(directory)]) in (0, 9)  # cleans up
        found = contents(directory / "rootfs")
        assert found in (old, new)
        news += found == new
        others = {name for name in os.listdir(tmp_path) if not name.startswith("dir.before-")}
        assert others == {"cache", "canary", "copy", "dir", "outside", "state", "steps"}
        if found == new:
            assert contents(kept(directory) / "rootfs") == old
        else:
            assert len(others) + 1 > len(os.listdir(tmp_path))
        assert [(path.stat().st_ino, path.stat().st_mode, path.read_text()) for path in canaries] == before
    assert kills > 80
    assert news < 100


@pytest.mark.parametrize("command", ["update", "repair"])
def test_what_a_killed_run_has_moved_away_is_put_back(directory: Path, env: dict[str, str], command: str) -> None:
    """It was killed between the two renames, so that nothing is in place."""
    before = tree_of(directory)
    staging = directory.with_name(".dir.provision")
    (staging / "new").mkdir(mode=0o700, parents=True)
    staging.chmod(0o700)
    directory.rename(staging / "old")
    done = provision(command, directory, "--check", env=env)
    assert done.returncode == (9 if command == "update" else 0), done.stderr
    assert tree_of(directory) == before
    assert sorted(os.listdir(directory.parent)) == ["dir", "state"]


@pytest.mark.parametrize("role", ["user", "root"])
def test_owners_and_modes(place: Path, registry: ScriptedRegistry, role: str) -> None:
    """Root's disk has the image's owners, and those of files that were changed, too."""
    options = as_user() if role == "user" else {"env": clean_environment()}
    if role == "root":
        need_root()
    owned: list[Member] = [
        special("usr/owned", tarfile.REGTYPE, mode=0o640, uid=5, gid=6),
        special("usr/given", tarfile.REGTYPE, mode=0o600, uid=5, gid=6),
        special("closed", tarfile.DIRTYPE, mode=0o500, uid=5, gid=6),
        ("closed/x", b"x"),
    ]
    push(registry, owned)
    directory = place / "dir"
    provision(f"{registry.host}/image", directory, "--platform=linux/amd64", cache=place / "cache", **options, status=0)
    options = as_user() if role == "user" else {"env": clean_environment()}
    (directory / "rootfs/usr/owned").chmod(0o600)
    (directory / "rootfs/closed/y").write_bytes(b"y")
    if os.geteuid() == 0:
        os.chown(directory / "rootfs/closed/y", *(((7, 8)) if role == "root" else (user_id(), user_id())))
    if role == "root":
        os.chown(directory / "rootfs/usr/given", 7, 8)
    push(registry, [*owned, ("usr/new", b"new"), special("usr/owned", tarfile.REGTYPE, mode=0o640, uid=9, gid=6)])
    provision("update", directory, "--yes", "--no-keep", cache=place / "cache", **options, status=0)
    rootfs = directory / "rootfs"
    found = {name: (rootfs / name).stat() for name in ("usr/owned", "usr/given", "closed", "closed/y", "usr/new")}
    assert found["usr/owned"].st_mode & 0o7777 == 0o600
    if role == "root":
        owners = {name: (state.st_uid, state.st_gid) for name, state in found.items()}
        assert owners == {
            "usr/owned": (9, 6),
            "usr/given": (7, 8),
            "closed": (5, 6),
            "closed/y": (7, 8),
            "usr/new": (0, 0),
        }
        assert found["closed"].st_mode & 0o7777 == 0o500
    else:
        assert {state.st_uid for state in found.values()} == {user_id() if os.geteuid() == 0 else os.geteuid()}


def test_what_is_mounted_is_in_the_way(directory: Path, env: dict[str, str]) -> None:
    place = directory / "rootfs/usr"
    with tmpfs(place):
        done = update(directory, env, "--yes", status=8)
        assert "something is mounted" in done.stderr
    assert (place / "doc/a").read_text() == "a"
    assert sorted(os.listdir(directory.parent)) == ["dir", "state"]


def test_hard_links_of_termux_proot_stay(directory: Path, env: dict[str, str]) -> None:
    """They are symlinks to the content in /.l2s, by absolute paths."""
    rootfs = directory / "rootfs"
    (rootfs / ".l2s").mkdir()
    for name in ("etc/passwd", "etc/same", "usr/lib/deleted"):
        base = rootfs / f".l2s/.l2s.{Path(name).name}0001"
        (rootfs / name).rename(f"{base}.0002")
        base.symlink_to(f"{base}.0002")
        (rootfs / name).symlink_to(base)
    with (rootfs / "etc/passwd").open("a") as passwd:
        passwd.write("me:x:1000:1000::/:/bin/sh\n")
    done = update(directory, env, "--yes", "--no-keep")
    assert "/etc/passwd could not be merged: yours stays" in done.stderr
    assert (rootfs / "etc/passwd").read_text().endswith("me:x:1000:1000::/:/bin/sh\n")
    assert not (rootfs / "usr/lib/deleted").is_symlink()
    assert (rootfs / "usr/lib/deleted").read_text() == "deleted 2"
    assert (rootfs / "etc/same").read_text() == "same"


def test_a_file_with_holes_takes_no_space(directory: Path, env: dict[str, str]) -> None:
    """As a disk of a virtual machine, which is larger than the real one."""
    with (directory / "rootfs/home/disk").open("wb") as disk:
        disk.truncate(1 << 42)
        disk.write(b"start")
    update(directory, env, "--yes", "--no-keep")
    state = (directory / "rootfs/home/disk").stat()
    assert (state.st_size, state.st_blocks * 512 < 1 << 20) == (1 << 42, True)
    with (directory / "rootfs/home/disk").open("rb") as disk:
        assert disk.read(6) == b"start\0"


def test_what_does_not_fit_is_refused_before_anything_is_done(place: Path, registry: ScriptedRegistry) -> None:
    point = place / "small"
    with tmpfs(point, "size=24m"):
        push(registry, OLD)
        env, cache = clean_environment(), place / "cache"
        provision(f"{registry.host}/image", point / "dir", "--platform=linux/amd64", env=env, cache=cache, status=0)
        push(registry, NEW)
        (point / "dir/rootfs/home/large").write_bytes(bytes(14 << 20))
        before = tree_of(point / "dir")
        done = provision("update", point / "dir", "--yes", cache=cache, status=7)
        assert "are free" in done.stderr
        assert tree_of(point / "dir") == before
        assert os.listdir(point) == ["dir"]
