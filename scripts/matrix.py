"""Runs real programs of Debian and Alpine in every runtime, and writes the results into docs/runtimes.md.

    python3 -m scripts.matrix [--only NAME]... [--work DIR] [--no-docs]

Each program is a row (matrix_rows.py, matrix_services.py), each runtime a column (matrix_columns.py). proot and user
namespaces run as a temporary user, chroot as root, who has to start this. --only takes a row, a column or a system, or
several with slashes between them (`su/userns`, `alpine/proot`), and adds what it sees to the results of earlier runs;
`--only none` runs nothing and writes the page from those.

The archives of the systems and the results are kept in build/matrix (--work); DIRs, the user, mounts and processes are
gone at the end. TERMUX_PROOT names a proot that was built from Termux's source; without it that column stays empty.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scripts.loopback_registry import LoopbackRegistry
from scripts.matrix_columns import COLUMNS, Column, versions_here, why_missing
from scripts.matrix_report import matrix, short, write_matrix
from scripts.matrix_rows import FILES, LANGUAGES, TOOLS, USERS, Row
from scripts.matrix_run import FIRST_PORT, Cell, Runner, as_json, from_json, publish, temporary_user, unpack_sid
from scripts.matrix_services import INSTALLS, REFUSED, SERVERS
from scripts.matrix_systems import System, Unavailable, make_system

ROOT = Path(__file__).resolve().parent.parent
ROWS: tuple[Row, ...] = (*FILES, *LANGUAGES, *TOOLS, *INSTALLS, *SERVERS, *USERS, *REFUSED)


def main(arguments: Sequence[str]) -> int:
    """Run the requested cells and return 0, or 1 if none could be run."""
    parser = argparse.ArgumentParser(prog="make matrix", description="Run real programs in every runtime.")
    parser.add_argument("--only", action="append", default=[], metavar="NAME[/NAME]", help="a row, column or system")
    parser.add_argument("--work", type=Path, default=ROOT / "build/matrix", help="where archives and results are kept")
    parser.add_argument("--no-docs", action="store_true", help="print the results and leave docs/runtimes.md alone")
    options = parser.parse_args(arguments)
    if os.geteuid() != 0:
        print("make matrix: root has to start this: sudo make matrix", file=sys.stderr)
        return 1
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    results = work / "results.json"
    seen = from_json(results.read_text()) if results.exists() else []
    wanted = [(column, row, system) for column in COLUMNS for row in ROWS for system in row.systems]
    wanted = [cell for cell in wanted if not options.only or any(is_named(only, *cell) for only in options.only)]
    cells, missing = run_cells(wanted, work) if wanted else ([], {})
    names = {(cell.row, cell.system, cell.column) for cell in cells}
    seen = [cell for cell in seen if (cell.row, cell.system, cell.column) not in names] + cells
    results.write_text(as_json(seen))
    if not options.no_docs:
        write_matrix(ROOT / "docs/runtimes.md", matrix(seen, ROWS, COLUMNS, read_versions(work)))
    for name, reason in missing.items():
        print(f"{name}: not seen: {reason}")
    return 0 if cells or options.only == ["none"] else 1


def read_versions(work: Path) -> dict[str, dict[str, str]]:
    """Return the versions of each system's packages and, as `columns`, of the programs that the runtimes use."""
    found = {path.stem: json.loads(path.read_text()) for path in work.glob("*.json") if path.stem != "results"}
    return {**found, "columns": {**versions_here(), "sid": short(found.get("sid", {}).get("proot", ""))}}


def is_named(only: str, column: Column, row: Row, system: str) -> bool:
    """Return whether each part of an --only names the row, the column or the system of a cell."""
    return all(
        part in (column.name, system) or part == row.name or row.name.startswith(f"{part} ") for part in only.split("/")
    )


def run_cells(wanted: Sequence[tuple[Column, Row, str]], work: Path) -> tuple[list[Cell], dict[str, str]]:
    """Run cells; return them, and why columns and systems are missing."""
    columns = list(dict.fromkeys(column for column, _, _ in wanted))
    names = list(dict.fromkeys(system for _, _, system in wanted))
    missing = {column.name: reason for column in columns if (reason := why_missing(column))}
    systems: dict[str, System] = {}
    for name in [*names, *(["sid"] if any(column.proot == "sid" for column in columns) else [])]:
        try:
            print(f"making {name}", flush=True)
            systems[name] = make_system(name, work)
        except Unavailable as reason:
            missing[name if name != "sid" else "proot-sid"] = str(reason)
    boxes = Path(tempfile.mkdtemp(prefix="provision-matrix-", dir="/var/tmp"))
    boxes.chmod(0o755)
    try:
        with temporary_user(boxes) as user, LoopbackRegistry() as registry:
            for name in set(names) & set(systems):
                publish(registry, name, systems[name].archive)
            sid = unpack_sid(systems["sid"].archive, boxes) if "sid" in systems else None
            runner = Runner(boxes, user, registry, sid)
            jobs = [
                (column, name, [row for other, row, its in wanted if (other, its) == (column, name)])
                for column in columns
                for name in names
                if column.name not in missing and name in systems
            ]
            ports = range(FIRST_PORT, 65536, 100)
            with ThreadPoolExecutor(2) as pool:
                found = [pool.submit(run_rows, runner, *job, port) for job, port in zip(jobs, ports, strict=False)]
                try:
                    cells = [cell for future in found for cell in future.result()]
                finally:
                    runner.stopped = True
                    pool.shutdown(cancel_futures=True)
            return cells, missing
    finally:
        shutil.rmtree(boxes, ignore_errors=True)


def run_rows(runner: Runner, column: Column, system: str, rows: Sequence[Row], port: int) -> list[Cell]:
    """Run rows one after another in one DIR, print a line for each, and return their cells."""
    if not rows:
        return []
    try:
        directory = runner.provision(column, system)
    except Unavailable as reason:
        return [Cell(row.name, system, column.name, False, str(reason), 0.0) for row in rows]
    cells = []
    try:
        for number, row in enumerate(rows):
            if runner.stopped:
                break
            cell = runner.run(column, row, system, directory, port + number)
            answer = "yes" if cell.works else f"no: {cell.reason}"
            sys.stdout.write(f"{column.name:13} {system:13} {row.name:32} {cell.seconds:6.1f} s  {answer}\n")
            sys.stdout.flush()
            cells.append(cell)
    finally:
        runner.remove(directory)
    return cells


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
