"""Programs that archives go through: streamed, bounded, and gone in the end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from provisioner.archives.compressing import Compressor, compressor
from provisioner.archives.external_program import ProgramFailed, open_output, run_filter
from provisioner.errors import MachineError
from tests.support.processes import children_of
from tests.support.tools import need

NOISE = os.urandom(1 << 20)
CAT = shutil.which("cat") or "cat"


def python(code: str) -> tuple[str, str, str]:
    """Return the words that run a program of Python."""
    return sys.executable, "-c", code


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Look that no process, thread or open file is left. What an earlier test has left may end meanwhile."""
    before, files, threads = set(children_of(os.getpid())), len(os.listdir("/proc/self/fd")), set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - threads:
        thread.join(60)
        assert not thread.is_alive()
    assert set(children_of(os.getpid())) <= before
    assert len(os.listdir("/proc/self/fd")) <= files


def test_all_of_it_goes_through() -> None:
    assert b"".join(run_filter(CAT, chunks=iter([NOISE] * 20))) == NOISE * 20


def test_messages_are_read_to_their_end_and_kept_in_part() -> None:
    """A program that writes more of them than a pipe holds, without a newline, isn't stopped by that."""
    code = "import sys; sys.stderr.write('no ' * 1_000_000); sys.stdout.write(sys.stdin.read()); sys.exit(3)"
    pieces: list[bytes] = []
    with pytest.raises(ProgramFailed) as caught:
        pieces.extend(run_filter(*python(code), chunks=iter([b"content"])))
    assert pieces == [b"content"]
    assert caught.value.reason == "status 3"
    assert caught.value.messages.startswith("no no no")
    assert len(str(caught.value)) < 500


def test_messages_that_are_no_text() -> None:
    code = "import sys; sys.stderr.buffer.write(b'\\xff\\x1b[31m\\nline'); sys.exit(1)"
    with pytest.raises(ProgramFailed) as caught:
        list(run_filter(*python(code), chunks=iter([])))
    assert str(caught.value).isprintable()
    assert "line (status 1)" in str(caught.value)


def test_a_program_that_is_killed() -> None:
    with pytest.raises(ProgramFailed, match="signal 9"):
        list(run_filter(*python("import os; os.kill(os.getpid(), 9)"), chunks=iter([NOISE] * 20)))


def test_no_more_is_read_than_fits_into_pipes() -> None:
    taken: list[int] = []

    def chunks() -> Iterator[bytes]:
        for number in range(1000):
            taken.append(number)
            yield NOISE[: 1 << 16]

    with closing(run_filter(CAT, chunks=chunks())) as pieces:  # type: ignore[type-var]
        next(pieces)
        assert len(taken) < 100


def test_an_error_of_the_chunks_is_passed_on() -> None:
    def chunks() -> Iterator[bytes]:
        yield NOISE
        raise MachineError("the disk is gone")

    with pytest.raises(MachineError, match="the disk is gone"):
        list(run_filter(CAT, chunks=chunks()))


def test_a_program_that_is_stopped_while_it_waits() -> None:
    read, write = os.pipe()
    program, output = open_output(CAT, stdin=read)
    program.stop()
    assert os.read(output, 1) == b""
    program.stop()  # once more does nothing
    for number in (read, write, output):
        os.close(number)


def test_a_program_that_can_not_be_executed(tmp_path: Path) -> None:
    """In a process of its own: sh leaves open what it has opened for the program."""
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF of another machine")
    program.chmod(0o755)
    code = (
        "from provisioner.archives.external_program import run_filter\n"
        "from provisioner.errors import MachineError\n"
        f"try: list(run_filter({str(program)!r}, chunks=iter([b'x'])))\n"
        "except MachineError as error: print(error)\n"
    )
    done = subprocess.run([*python(code)], capture_output=True, text=True, check=True)
    assert done.stdout == f"run {program}: Exec format error\n"


@pytest.fixture
def zstd_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python without modules for zstd."""
    need("zstd")
    for module in ("compression", "compression.zstd", "backports", "backports.zstd"):
        monkeypatch.setitem(sys.modules, module, None)


def zstd(output: int) -> Compressor:
    return compressor("zstd", lambda data: None, output)


def test_zstd_by_the_program(zstd_program: None, tmp_path: Path) -> None:
    with open(tmp_path / "x", "wb") as file, closing(zstd(file.fileno())) as packer:
        for _ in range(20):
            packer.write(NOISE)
        packer.finish()
    program = shutil.which("zstd") or ""
    assert b"".join(run_filter(program, "-dcq", chunks=iter([(tmp_path / "x").read_bytes()]))) == NOISE * 20


def test_zstd_ends_when_it_is_closed_early(zstd_program: None, tmp_path: Path) -> None:
    """As where writing has failed. The fixture looks that nothing is left."""
    with open(tmp_path / "x", "wb") as file, closing(zstd(file.fileno())) as packer:
        packer.write(b"some")


def test_zstd_says_that_the_disk_is_full(zstd_program: None) -> None:
    def fill(packer: Compressor) -> None:
        for _ in range(20):
            packer.write(NOISE)

    with open("/dev/full", "wb") as file, closing(zstd(file.fileno())) as packer:
        with pytest.raises(MachineError, match=r"zstd failed: .*No space left") as caught:
            fill(packer)
        assert "free some space" in caught.value.hint
