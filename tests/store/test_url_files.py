"""Files from URLs: resumed, cached by ETag, and checked."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.errors import MachineError, MalformedImage, NetworkError, NotAllowed, NotFound, UsageError
from provisioner.image.digest import Digest
from provisioner.registry.files import RemoteFile
from provisioner.registry.retry import Timing
from provisioner.store.blobs import BlobCache
from provisioner.store.known_files import NOT_VERIFIED, name_for_url
from provisioner.store.partial import PartialFile, write_all
from provisioner.store.prune import list_files
from provisioner.store.url_files import UrlFile, UrlFiles, find_sum
from provisioner.terminal.progress import Console
from tests.support.file_server import FileServer

CONTENT = os.urandom(1 << 20)
DIGEST = Digest.of(CONTENT)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as served:
        yield served


@pytest.fixture
def lines() -> list[str]:
    return []


class Machine:
    """One cache, and runs that use it."""

    def __init__(self, directory: Path, lines: list[str]) -> None:
        self.directory = directory
        self.lines = lines

    def remote(self, url: str, *, insecure: bool = False) -> RemoteFile:
        timing = Timing(sleep=lambda seconds: None, random=lambda: 0.0)
        return RemoteFile(url, say=self.lines.append, timing=timing, insecure=insecure)

    def fetch(self, url: str, expected: Digest | None = None, *, is_offline: bool = False) -> UrlFile:
        output = io.StringIO()
        files = UrlFiles(BlobCache(self.directory), Console(stream=output))
        try:
            found = (files.fetch_offline if is_offline else files.fetch)(self.remote(url), expected)
        finally:
            self.lines += output.getvalue().splitlines()
        with found.file as file:
            assert Digest.of(file.read()) == found.digest
            assert file.tell() == found.size
        return found


@pytest.fixture
def machine(tmp_path: Path, lines: list[str]) -> Machine:
    return Machine(tmp_path / "cache", lines)


def test_a_file_is_downloaded_once_as_long_as_its_etag_stays(server: FileServer, machine: Machine) -> None:
    url = server.add("/rootfs.tar", CONTENT)
    first = machine.fetch(url)
    assert (first.digest, first.size, first.verified) == (DIGEST, len(CONTENT), NOT_VERIFIED)
    assert "download rootfs.tar, 1.0 MB" in machine.lines
    assert machine.fetch(url).digest == DIGEST
    assert server.sent == len(CONTENT)
    server.add("/rootfs.tar", b"new")
    assert machine.fetch(url).digest == Digest.of(b"new")


def test_a_file_without_etag_is_asked_for_by_its_time(server: FileServer, machine: Machine) -> None:
    url = server.add("/x", CONTENT, etag="", modified="Wed, 21 Oct 2015 07:28:00 GMT", breaks=[400_000])
    machine.fetch(url)
    headers = [headers for path, headers in server.requests if path == "/x"]
    assert headers[1]["If-Range"] == "Wed, 21 Oct 2015 07:28:00 GMT"
    assert server.sent == len(CONTENT)
    machine.fetch(url)
    assert server.requests[-1][1]["If-Modified-Since"] == "Wed, 21 Oct 2015 07:28:00 GMT"


def test_a_download_that_breaks_off_goes_on_where_it_was(server: FileServer, machine: Machine) -> None:
    url = server.add("/rootfs.tar", CONTENT, breaks=[0, 300_000, 300_000, 10])
    assert machine.fetch(url).digest == DIGEST
    assert server.sent == len(CONTENT)
    assert sum("trying again" in line for line in machine.lines) == 4


def test_another_run_goes_on_where_one_gave_up(server: FileServer, machine: Machine) -> None:
    url = server.add("/rootfs.tar", CONTENT, breaks=[300_000, *([0] * 20)])
    with pytest.raises(NetworkError, match="broke off"):
        machine.fetch(url)
    server.files["/rootfs.tar"].breaks = []
    assert machine.fetch(url).digest == DIGEST
    assert server.sent == len(CONTENT)


def test_a_part_of_an_older_file_is_not_continued(server: FileServer, machine: Machine) -> None:
    url = server.add("/rootfs.tar", CONTENT, breaks=[300_000, *([0] * 20)])
    with pytest.raises(NetworkError):
        machine.fetch(url)
    new = CONTENT[::-1]
    server.add("/rootfs.tar", new)
    assert machine.fetch(url).digest == Digest.of(new)
    server.add("/short", CONTENT, breaks=[300_000, *([0] * 20)])
    with pytest.raises(NetworkError):
        machine.fetch(f"http://{server.host}/short")
    server.add("/short", b"short")  # 416
    assert machine.fetch(f"http://{server.host}/short").digest == Digest.of(b"short")


def test_a_server_without_ranges_or_validators_sends_all_again(server: FileServer, machine: Machine) -> None:
    urls = (
        server.add("/a", CONTENT, breaks=[300_000], has_ranges=False),
        server.add("/b", CONTENT, breaks=[300_000], etag=""),
    )
    for url in urls:
        assert machine.fetch(url).digest == DIGEST
    assert server.sent == 2 * (300_000 + len(CONTENT))


def test_one_that_always_breaks_off_is_given_up(server: FileServer, machine: Machine) -> None:
    url = server.add("/x", CONTENT, etag="", breaks=[300_000] * 50)
    with pytest.raises(NetworkError, match="broke off"):
        machine.fetch(url)
    assert server.sent < 10 * 300_000


def test_a_file_without_a_length_is_taken_to_its_end(server: FileServer, machine: Machine) -> None:
    url = server.add("/x", CONTENT, has_length=False)
    assert machine.fetch(url).digest == DIGEST


def test_an_empty_file(server: FileServer, machine: Machine) -> None:
    assert machine.fetch(server.add("/x", b"")).size == 0


def test_the_digest_that_the_user_gives_decides(server: FileServer, machine: Machine) -> None:
    url = server.add("/rootfs.tar", CONTENT)
    with pytest.raises(MalformedImage, match=rf"{DIGEST.hex}, --sha256 says {'0' * 64}"):
        machine.fetch(url, Digest("sha256", "0" * 64))
    assert list_files(machine.directory) == [file for file in list_files(machine.directory) if file.kind == "tag"]
    assert machine.fetch(url, DIGEST).verified == "by --sha256"
    count = len(server.requests)
    assert machine.fetch(url, DIGEST).verified == "by --sha256"
    assert len(server.requests) == count  # the cache has it


def test_a_file_that_the_cache_has_is_compared_with_the_digest_that_is_expected(
    server: FileServer, machine: Machine
) -> None:
    """Although the server says that it hasn't changed."""
    url = server.add("/rootfs.tar", CONTENT)
    assert machine.fetch(url).digest == DIGEST
    for _ in range(2):
        with pytest.raises(MalformedImage, match=rf"{DIGEST.hex}, --sha256 says {'0' * 64}"):
            machine.fetch(url, Digest("sha256", "0" * 64))
    server.add("/SHA256SUMS", f"{'1' * 64}  rootfs.tar\n".encode())
    with pytest.raises(MalformedImage, match=f"says {'1' * 64}"):
        machine.fetch(url)


def test_a_part_of_something_else_is_downloaded_again_where_the_digest_is_known(
    server: FileServer, machine: Machine
) -> None:
    url = server.add("/x", CONTENT[::-1], etag="", breaks=[300_000, *([0] * 20)])
    with pytest.raises(NetworkError):
        machine.fetch(url, DIGEST)
    cache = BlobCache(machine.directory)
    with cache.partial(name_for_url(url)) as partial:
        write_all(partial.file, CONTENT[::-1][:300_000])
    server.add("/x", CONTENT, etag="")
    assert machine.fetch(url, DIGEST).digest == DIGEST


@pytest.mark.parametrize("name", ["SHA256SUMS", "rootfs.tar.sha256"])
def test_a_list_of_checksums_beside_it_is_used(server: FileServer, machine: Machine, name: str) -> None:
    url = server.add("/a/rootfs.tar", CONTENT)
    server.add(f"/a/{name}", f"{'1' * 64}  other\n{DIGEST.hex} *rootfs.tar\n".encode())
    assert machine.fetch(f"{url}?x=1").verified == f"by {name} of {server.host}"
    assert machine.fetch(f"{url}?x=1").verified == f"by {name} of {server.host}"
    assert server.sent < 1.5 * len(CONTENT)
    server.add(f"/a/{name}", f"{'1' * 64}  rootfs.tar\n".encode())
    with pytest.raises(MalformedImage, match=f"{name} of .* says 1111"):
        machine.fetch(url)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("{0}  x\n", True),
        ("{0} *./x\r\n", True),
        ("SHA256 (x) = {0}\n", True),
        ("{0}\n", True),
        ("{0}  y\n", False),
        ("<html>{0}  x</html>", False),
        ("", False),
    ],
)
def test_lists_of_checksums(content: str, found: bool) -> None:
    assert find_sum(content.format(DIGEST.hex).encode(), "x") == (DIGEST if found else None)


def test_a_list_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(MalformedImage, match="name x twice"):
        find_sum(f"{DIGEST.hex}  x\n{'1' * 64}  x\n".encode(), "x")


def test_a_damaged_file_of_the_cache_is_downloaded_again(server: FileServer, machine: Machine) -> None:
    url = server.add("/x", CONTENT)
    machine.fetch(url)
    path = BlobCache(machine.directory).path(DIGEST)
    path.write_bytes(b"damaged")
    assert machine.fetch(url).digest == DIGEST


def test_offline_the_cache_alone_is_asked(server: FileServer, machine: Machine) -> None:
    url = server.add("/x", CONTENT)
    with pytest.raises(NetworkError, match="offline: the cache has no http"):
        machine.fetch(url, is_offline=True)
    machine.fetch(url)
    count = len(server.requests)
    assert machine.fetch(url, is_offline=True).digest == DIGEST
    assert machine.fetch(url, DIGEST, is_offline=True).verified == "by its digest"
    assert len(server.requests) == count


def test_redirects_are_followed_and_the_name_stays(server: FileServer, machine: Machine) -> None:
    server.add("/real", CONTENT)
    url = server.add("/rootfs.tar", b"", redirect="/real")
    assert machine.fetch(url).digest == DIGEST
    assert "download rootfs.tar, 1.0 MB" in machine.lines


@pytest.mark.parametrize(
    ("status", "error"),
    [(404, NotFound), (410, NotFound), (401, NotAllowed), (403, NotAllowed), (500, NetworkError), (418, NetworkError)],
)
def test_refusals(server: FileServer, machine: Machine, status: int, error: type[Exception]) -> None:
    url = server.add("/x", CONTENT, statuses=[status] * 10)
    with pytest.raises(error, match=str(status)):
        machine.fetch(url)


def test_a_server_that_has_a_bad_moment_is_asked_again(server: FileServer, machine: Machine) -> None:
    assert machine.fetch(server.add("/x", CONTENT, statuses=[503, 429])).digest == DIGEST


@pytest.mark.parametrize(
    "url", ["https://user:secret@host/x", "https://h\\x/", "ftp://host/x", "https://", "https://host:0/x", "http:///x"]
)
def test_addresses_that_cannot_be_used(machine: Machine, url: str) -> None:
    with pytest.raises(UsageError, match="can be used") as caught:
        machine.remote(url)
    assert "secret" not in str(caught.value)


def test_plain_http_needs_a_digest_or_a_word(machine: Machine) -> None:
    with pytest.raises(UsageError, match="plain http isn't safe"):
        machine.remote("http://example.invalid/x")
    machine.remote("http://example.invalid/x", insecure=True)
    RemoteFile("http://example.invalid/x", is_verified=True)


def test_a_file_that_does_not_fit_is_not_begun(
    server: FileServer, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs

    def small(file: int) -> os.statvfs_result:
        return os.statvfs_result([*list(real(file))[:4], 1, *list(real(file))[5:]])

    monkeypatch.setattr(os, "statvfs", small)
    with pytest.raises(MachineError, match="no room"):
        machine.fetch(server.add("/x", CONTENT))
    with pytest.raises(MachineError, match="no room"):
        machine.fetch(server.add("/y", CONTENT, has_length=False))
    assert not list(machine.directory.glob("partial/*"))


def test_two_runs_download_a_file_once(server: FileServer, tmp_path: Path) -> None:
    url = server.add("/x", CONTENT)
    runs = [threading.Thread(target=Machine(tmp_path / "cache", []).fetch, args=(url,)) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert server.sent == len(CONTENT)


def test_a_run_that_waited_finds_the_file_at_once(
    server: FileServer, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, complete = server.add("/x", CONTENT), BlobCache.complete

    def complete_and_continue(cache: BlobCache, partial: PartialFile, digest: Digest) -> None:
        complete(cache, partial, digest)
        monkeypatch.undo()
        assert machine.fetch(url).digest == DIGEST

    monkeypatch.setattr(BlobCache, "complete", complete_and_continue)
    machine.fetch(url)
    assert server.sent == len(CONTENT)


def test_what_the_record_of_a_url_holds_is_checked(server: FileServer, machine: Machine) -> None:
    url = server.add("/x", CONTENT)
    machine.fetch(url)
    (record,) = (machine.directory / "tags").iterdir()
    for text in ("", "[]", '{"version": 1}', record.read_text().replace(DIGEST.hex, "x"), "[" * 100_000):
        record.write_text(text)
        assert machine.fetch(url).digest == DIGEST


def test_the_cache_lists_what_a_url_had(server: FileServer, machine: Machine) -> None:
    url = server.add("/x", CONTENT)
    machine.fetch(url)
    assert f"{url} -> {DIGEST}" in [file.name for file in list_files(machine.directory)]
    assert hashlib.sha256(CONTENT).hexdigest() == DIGEST.hex
