"""start.sh --bind, and the binds of provision time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.containers import Container

NAMES = ["plain", "two words", "co:lon", "co:/lon", "quo'te", "new\nline", "-dash", "é", "not\udcffutf8\udc81", "$(x)*"]


@pytest.mark.parametrize("name", NAMES)
def test_directories_and_files_are_bound(container: Container, place: Path, runtime: str, name: str) -> None:
    source = place / "bound" / name
    source.mkdir(parents=True)
    (source / "file").write_text("content")
    binds = ["--bind", f"{source}:/mnt/deep dir", "--bind", f"{source}/file:/etc/file"]
    assert container.output(runtime, *binds, "cat", "/mnt/deep dir/file", "/etc/file") == b"contentcontent"


@pytest.mark.parametrize("name", [name for name in NAMES if "/" not in name])
@pytest.mark.parametrize("origin", ["option", "default"])
def test_the_place_inside_may_have_any_name(
    container: Container, place: Path, runtime: str, name: str, origin: str
) -> None:
    (place / name).mkdir()
    (place / name / "file").write_text("content")
    bind = f"{place}/{name}/file:/mnt/{name}/{name}"
    container.set(default_binds=(bind,) if origin == "default" else ())
    options = ["--bind", bind] if origin == "option" else []
    assert container.output(runtime, *options, "cat", f"/mnt/{name}/{name}") == b"content"


def test_a_destination_may_end_like_an_order_to_proot(container: Container, place: Path, runtime: str) -> None:
    (place / "file").write_text("content")
    for name in ("now!", "now!!", "co:lon"):
        assert container.output(runtime, "--bind", f"{place}/file:/mnt/{name}", "cat", f"/mnt/{name}") == b"content"


def test_bind_alone_keeps_its_path_and_is_relative_to_where_one_is(
    container: Container, place: Path, runtime: str
) -> None:
    (place / "data").mkdir()
    (place / "data/file").write_text("content")
    assert container.output(runtime, "--bind", "data", "cat", f"{place}/data/file", cwd=place) == b"content"


def test_binds_from_provision_time_may_be_missing(container: Container, place: Path, runtime: str) -> None:
    (place / "file").write_text("content")
    container.set(default_binds=(f"{place}/gone:/gone", f"{place}/file:/file"))
    done = container.run(runtime, "cat", "/file")
    assert (done.returncode, done.stdout) == (0, b"content")
    assert done.stderr.decode() == f"start.sh: not bound, because it doesn't exist: {place}/gone\n"


@pytest.mark.parametrize(
    ("bind", "complaint"),
    [
        ("", "--bind needs SRC or SRC:DST, not an empty word"),
        (":/mnt", "--bind needs SRC or SRC:DST, not :/mnt"),
    ],
)
def test_what_other_tools_take_for_something_else_is_refused(container: Container, bind: str, complaint: str) -> None:
    done = container.run("", "--bind", bind, "true")
    assert (done.returncode, done.stderr.decode()) == (125, f"start.sh: {complaint}\n")


@pytest.mark.parametrize("destination", ["/", "/..", "/home/root"])
def test_nothing_takes_the_place_of_the_root(container: Container, place: Path, runtime: str, destination: str) -> None:
    """Not even where the image has a link for it: its command would run in there, with files made for it."""
    source = place / "source"
    source.mkdir()
    source.chmod(0o777)
    (container.rootfs / "home/root").symlink_to("/")
    done = container.run(runtime, "--bind", f"{source}:{destination}", "--workdir", "/made", "true")
    assert done.returncode == 125
    assert done.stderr.decode() == (
        f"start.sh: can't bind {source} on the container's root, {destination}: name a directory below it\n"
    )
    assert list(source.iterdir()) == []
    assert container.run(runtime, "--bind", "/", "true").returncode == 125


def test_a_bind_never_leaves_the_rootfs(container: Container, place: Path, runtime: str) -> None:
    (place / "outside").mkdir()
    (place / "file").write_text("content")
    (container.rootfs / "away").symlink_to(place / "outside")
    container.run(runtime, "--bind", f"{place}/file:/away/new/file", "true")
    assert list((place / "outside").iterdir()) == []


def test_working_directory_below_a_bind_is_made_there(container: Container, place: Path, runtime: str) -> None:
    source = place / "source"
    source.mkdir()
    source.chmod(0o777)
    container.output(runtime, "--bind", f"{source}:/src", "--workdir", "/src/build", "touch", "here")
    assert (source / "build/here").exists()
