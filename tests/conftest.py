"""Fixtures of many tests: registries, real images, small containers; and the check that nothing is left behind."""

from __future__ import annotations

import gc
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from provisioner.rootfs.tree import Tree
from tests.support import realimages
from tests.support.containers import RUNTIMES, Container, make_container, make_scratch
from tests.support.docker_registry import DockerRegistry, run_docker_registry
from tests.support.fork_server import close_servers
from tests.support.leftovers import clean_place, processes_left, staging_below
from tests.support.markers import markers_of
from tests.support.mounts import mounts_below
from tests.support.scripted_registry import ScriptedRegistry
from tests.support.tools import CHECKOUT, by_sudo, find_program, need, own, run

# Programs that tests start would ignore these under nohup or in a script's background.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test is about time, and others run beside it.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")
# Hypothesis fails where it can't save examples, as in another user's checkout.
_EXAMPLES = CHECKOUT / ".hypothesis"
if not os.access(_EXAMPLES if _EXAMPLES.exists() else CHECKOUT, os.W_OK):
    hypothesis.settings.register_profile("foreign checkout", database=None, deadline=None)
    hypothesis.settings.load_profile("foreign checkout")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test for what it needs (see markers.py). Where several processes run them, long files come first."""
    for item in items:
        if isinstance(item, pytest.Function):
            for marker in sorted(markers_of(item)):
                item.add_marker(marker)
    if hasattr(config, "workerinput"):
        in_file = Counter(item.path for item in items)
        long = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("real_image")}
        items.sort(key=lambda item: (item.path not in long, -in_file[item.path], item.path))


def pytest_collection_finish() -> None:
    """Leave the tests out of garbage collections, here and in forks, which would copy what a collection touches."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show how tests failed that have been run once more (see scripts/develop.py)."""
    for report in terminalreporter.getreports("rerun"):
        terminalreporter.section(f"{report.nodeid} failed at first")
        terminalreporter.write_line(report.longreprtext)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Let Ctrl-C end the tests again: a run of provision in this process has handled it in its way."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty directory to unpack into."""
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.fixture
def tree(root: Path) -> Iterator[Tree]:
    """The tree of `root`."""
    with Tree(root) as opened:
        yield opened


@pytest.fixture(scope="session")
def image_cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that caches images between test runs; a temporary one with `-p no:cacheprovider`."""
    cache: pytest.Cache | None = getattr(request.config, "cache", None)
    return cache.mkdir("images") if cache else tmp_path_factory.mktemp("images")


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    """An empty ScriptedRegistry. A test module that wants images in it defines a fixture of this name over it."""
    with ScriptedRegistry() as running:
        yield running


@pytest.fixture(scope="session")
def docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """A docker-registry with plain HTTP."""
    directory = tmp_path_factory.mktemp("registry")
    with run_docker_registry(directory, directory / "storage") as running:
        yield running


@pytest.fixture(scope="session")
def debian(docker_registry: DockerRegistry, image_cache: Path) -> str:
    """Debian in one gzip layer, in Docker's media types."""
    return docker_registry.push(realimages.layout("debian", image_cache), "debian:12", "--format=v2s2")


@pytest.fixture(scope="session")
def application(docker_registry: DockerRegistry, image_cache: Path) -> str:
    """An application image in several gzip layers, in OCI's media types."""
    return docker_registry.push(realimages.layout("application", image_cache), "user/application:1.0")


@pytest.fixture(scope="session")
def application_zstd(docker_registry: DockerRegistry, image_cache: Path) -> str:
    """The application with zstd layers."""
    layout = realimages.layout("application_zstd", image_cache)
    # Without the format, skopeo would compress them for the registry once more, as gzip.
    return docker_registry.push(layout, "user/application:1.0-zstd", "--preserve-digests")


@pytest.fixture(scope="session")
def multiarch(docker_registry: DockerRegistry, image_cache: Path) -> str:
    """An index of this machine's platform, a foreign one, and an attestation for each."""
    layout = realimages.layout("multiarch", image_cache)
    return docker_registry.push(layout, "user/multiarch", "--all", "--preserve-digests")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of the unprivileged user, checked afterwards for mounts, processes and staging directories."""
    with clean_place() as path:
        yield path


@pytest.fixture(scope="module")
def lasting_place() -> Iterator[Path]:
    """Like `place`, shared by the tests of one module."""
    with clean_place() as path:
        yield path


@pytest.fixture
def cache_dir(place: Path) -> Path:
    """A blob cache of the unprivileged user, empty at the start of each test."""
    path = place / "cache"
    path.mkdir()
    return own(path)


@pytest.fixture
def container(place: Path) -> Container:
    """A container with busybox, of the unprivileged user."""
    return make_container(place / "container")


@pytest.fixture
def scratch(place: Path) -> Container:
    """A container without env, shell or passwd."""
    return make_scratch(place / "scratch")


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    """Each runtime of start.sh."""
    return str(request.param)


@pytest.fixture(params=[("busybox", "busybox"), ("busybox", "bash"), ("toybox", "mksh")], ids=" and ".join)
def small_tools(request: pytest.FixtureRequest, place: Path) -> dict[str, str]:
    """An environment whose PATH has only the tools of busybox or toybox, a shell, and proot."""
    box, shell = request.param
    need(box, shell, "proot")
    tools = place / "tools"
    tools.mkdir()
    listing = ["--list"] if box == "busybox" else []
    for name in run(find_program(box) or "", *listing).split():
        (tools / name).symlink_to(find_program(box) or "")
    for name, other in {"sh": shell, "proot": "proot"}.items():
        (tools / name).unlink(missing_ok=True)
        (tools / name).symlink_to(find_program(other) or "")
    return {"PATH": str(tools), "TERM": "dumb", **by_sudo()}


@pytest.fixture(autouse=True)
def _no_user_settings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Hide the configuration, the logins and the certificate authorities of the user who runs the tests."""
    authorities = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
    for name in ("PROVISION_CONFIG", "REGISTRY_AUTH_FILE", *authorities):
        monkeypatch.delenv(name, raising=False)
    for name in ("XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path_factory.getbasetemp() / "nobody"))


@pytest.fixture(scope="session", autouse=True)
def _by_sudo() -> Iterator[None]:
    """Let root work for the unprivileged user, as after sudo."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in by_sudo().items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session", autouse=True)
def _separate_list(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep directories of tests out of the `provision list` of the user who runs them, and logins out of tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        # Without it skopeo looks for logins below /run/containers, which root may have closed.
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.getbasetemp() / "nobody"))
        yield


@pytest.fixture(scope="session", autouse=True)
def _nothing_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """At the end of the session: no process, mount or staging directory of the tests is left."""
    base = tmp_path_factory.getbasetemp()
    yield
    close_servers()
    assert not (processes := processes_left()), f"left running: {processes}"
    assert not (mounts := mounts_below(base)), f"left mounted: {mounts}"
    assert not (staging := staging_below(base)), f"left behind: {staging}"
