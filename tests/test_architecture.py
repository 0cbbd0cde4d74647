"""The package's shape: which module may import which, and how large things may be."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner import container_files as files

ROOT = Path(__file__).resolve().parent.parent

ROOMS = (
    "sizes threads container_files terminal resources filesystem errors archives settings image catalogue registry"
    " store sources ownership profile rootfs layers container comparison launch exports reflinks config inspection"
    " start_files doctor"
)
MAY_IMPORT = {
    "sizes": "",
    "threads": "",
    "signals": "",
    "container_files": "",
    "terminal": "sizes threads",
    "resources": "",
    "filesystem": "sizes threads",
    "errors": "sizes terminal",
    "archives": "errors filesystem terminal threads",
    "settings": "errors filesystem terminal",
    "image": "errors filesystem settings terminal",
    "catalogue": "errors image resources",
    "registry": "errors filesystem image settings sizes terminal threads",
    "store": "errors filesystem image registry sizes terminal threads",
    "sources": "archives errors filesystem image registry sizes store terminal threads",
    "ownership": "container_files errors filesystem",
    "profile": "errors filesystem resources settings terminal",
    "rootfs": "errors filesystem ownership profile terminal",
    "layers": "archives container_files errors filesystem image ownership rootfs sizes sources store terminal threads",
    "container": "container_files errors filesystem image ownership sizes terminal",
    "comparison": "container container_files errors filesystem ownership rootfs terminal",
    "launch": "container_files errors filesystem image resources",
    "exports": "archives comparison container container_files errors filesystem image launch layers ownership rootfs"
    " sizes sources store terminal",
    "reflinks": "archives comparison container container_files errors filesystem image layers ownership rootfs sources"
    " store terminal",
    "config": "catalogue filesystem image settings sizes terminal",
    "inspection": "container container_files errors filesystem image ownership sources store terminal",
    "start_files": "container container_files errors filesystem image inspection launch ownership profile rootfs"
    " terminal",
    "doctor": "container container_files errors filesystem image launch ownership registry sizes terminal",
    "provision": ROOMS,
    "maintenance": f"{ROOMS} provision",
    "commands": f"{ROOMS} provision maintenance signals",
    "cli": f"{ROOMS} signals provision maintenance commands",
    "__main__": "cli signals",
}
"""The table of docs/architecture.md: what each room, a package or a module, may import. Each row names only
rooms of the rows above it, so that no imports run in a circle."""

PAGE = (ROOT / "docs/architecture.md").read_text()
MODULES = sorted((ROOT / "provisioner").rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
SHELL = sorted((ROOT / "scripts/start").glob("*.sh"))
MODULE_LINES = 400
FUNCTION_LINES = 60


def name_of(path: Path) -> str:
    """`provisioner.registry.client` for a file, `provisioner.registry.__init__` for a package's own."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def unit(module: str) -> str:
    """The table's row for a dotted module: `registry` for `provisioner.registry.client`."""
    return module.split(".")[1]


def imports(source: str, importer: str) -> Iterator[str]:
    """Yield the dotted names of the package that a module's source imports, at any depth and by any spelling."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = importer.split(".")[: -node.level] if node.level else []
            base += [node.module] if node.module else []
            # The name may be a module (`from provisioner import store`) or something in one.
            names = [".".join([*base, alias.name]) for alias in node.names]
        yield from (name for name in names if name.startswith("provisioner."))


@pytest.mark.parametrize(
    "source",
    [
        "import provisioner.store.blobs",
        "import os, provisioner.store.blobs as b",
        "from provisioner import store",
        "from provisioner.store.blobs import Blob",
        "from .. import store",
        "def late():\n    from ..store.blobs import Blob",
        "if TYPE_CHECKING:\n    from ..store.blobs import Blob",
    ],
)
def test_an_import_is_seen_in_any_spelling(source: str) -> None:
    assert [unit(name) for name in imports(source, "provisioner.registry.client")] == ["store"]
    assert [unit(name) for name in imports(source, "provisioner.registry.__init__")] == ["store"]


def test_the_table_has_a_row_for_every_module_and_no_other() -> None:
    assert sorted({unit(name_of(path)) for path in MODULES} - {"__init__"}) == sorted(MAY_IMPORT)


def test_the_architecture_page_shows_the_same_table() -> None:
    rows = re.findall(r"^\| (`.+?) \|.*\| (.+?) \|$", PAGE, re.MULTILINE)
    shown = {name: row[1] for row in rows for name in re.findall(r"`(\w+)/?`", row[0])}
    assert sorted(shown) == sorted(MAY_IMPORT.keys() - {"__main__"})
    precise = {name: cell for name, cell in shown.items() if not cell.startswith("all")}
    assert {name: set(re.findall(r"\w+", cell)) for name, cell in precise.items()} == {
        name: set(MAY_IMPORT[name].split()) for name in precise
    }


def test_rows_name_only_rooms_above_them() -> None:
    above: set[str] = set()
    for room, allowed in MAY_IMPORT.items():
        assert set(allowed.split()) <= above, room
        above.add(room)


def test_few_modules_lie_flat() -> None:
    assert len(list((ROOT / "provisioner").glob("*.py"))) <= 14


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_what_the_table_allows(path: Path) -> None:
    own = unit(name_of(path))
    allowed = {own, "__version__", *MAY_IMPORT.get(own, "").split()}
    imported = {unit(name) for name in imports(path.read_text(), name_of(path))}
    assert imported - allowed == set()


@pytest.mark.parametrize("path", MODULES + SCRIPTS, ids=name_of)
def test_a_module_says_what_it_is_for_and_stays_small(path: Path) -> None:
    source = path.read_text()
    tree = ast.parse(source)
    assert ast.get_docstring(tree), "no docstring"
    assert len(source.splitlines()) <= MODULE_LINES
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {
        node.name: lines for node in functions if (lines := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES
    }
    assert long == {}


STOPS = re.findall(r"`([\w/.]+\.(?:py|sh))`: `(\w+)`", PAGE)


@pytest.mark.parametrize(("file", "name"), STOPS)
def test_the_ways_on_the_page_stop_at_functions_that_exist(file: str, name: str) -> None:
    pattern = rf"^{name}\(\) \{{$" if file.endswith(".sh") else rf"^\s*(?:def|class) {name}\b"
    assert re.search(pattern, (ROOT / file).read_text(), re.MULTILINE)


def test_each_way_has_at_most_ten_stops() -> None:
    ways = [part.partition("\n## ")[0] for part in PAGE.split("## The way of ")[1:]]
    assert [len(re.findall(r"^\d+\. ", way, re.MULTILINE)) for way in ways] == [10, 10]
    assert len(STOPS) == 21


def test_the_page_has_a_glossary() -> None:
    rows = PAGE.partition("## Terms")[2].strip().splitlines()[2:]
    assert 20 <= len(rows) <= 45
    assert all(row.count("|") == 4 for row in rows)


@pytest.mark.parametrize(
    "room", sorted((ROOT / "provisioner").glob("*/__init__.py")), ids=lambda path: path.parent.name
)
def test_a_room_says_what_holds_in_it(room: Path) -> None:
    docstring = ast.get_docstring(ast.parse(room.read_text())) or ""
    assert 3 <= len(docstring.splitlines()) <= 10
    allowed = re.search(r"May import ([^.]+)\.", docstring)
    assert allowed
    rooms = set(re.findall(r"\w+", re.sub(r"\(.*?\)", "", allowed[1]))) - {"and"}
    assert rooms == set(MAY_IMPORT[room.parent.name].split()) or rooms & {"all", "everything"}


UNMISTAKABLE = (
    *(files.SCRIPT, files.OLD_SCRIPT, files.FOLDER, files.RECORD, files.OWNERSHIP_RECORD, files.FAKEROOT_STATE),
    *(files.MOUNT_POINTS, files.PROOT_FACTS, files.EMULATION_FILTER, files.CONTAINER_FILTER),
    f"../{files.ROOTFS}",
)
"""Names of files that are no words of something else."""


def test_names_of_a_containers_files_are_spelled_in_one_module() -> None:
    found = [
        f"{name_of(path)}: {node.value!r}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        if (node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value) in UNMISTAKABLE
    ]
    assert [line for line in found if not line.startswith("provisioner.container_files: ")] == []


RIDDLES = (  # noqa: SIM905
    "Manner Chunks Ahead Notes Said occupant Kept Documents Contents Arrival wrong Made Prepared dress give _own told"
    " mend MENDS mends doing InTheWay tether give_back"
).split()
"""Names that said nothing to those who know containers; the glossary has better ones."""


def test_names_are_those_of_the_glossary() -> None:
    found = [
        f"{name_of(path)}: {node.id if isinstance(node, ast.Name) else name}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        for name in [getattr(node, "name", None) or getattr(node, "arg", None) or getattr(node, "attr", None)]
        if {name, node.id if isinstance(node, ast.Name) else None} & set(RIDDLES)
    ]
    assert found == []
    for path in SHELL:
        assert not re.search(rf"\b({'|'.join(RIDDLES)})=", path.read_text()), path


@pytest.mark.parametrize("name", ["Entry", "Progress", "Kind", "Place"])
def test_one_class_has_the_name(name: str) -> None:
    definitions = [path for path in MODULES + SCRIPTS if re.search(rf"^class {name}\b", path.read_text(), re.MULTILINE)]
    assert len(definitions) == 1


def test_code_that_tests_share_is_in_support_and_listed_there() -> None:
    support = ROOT / "tests/support"
    rows = re.findall(r"^    (\w+(?:, \w+)*)  ", (support / "__init__.py").read_text(), re.MULTILINE)
    assert {name for row in rows for name in row.split(", ")} == {path.stem for path in support.glob("[!_]*")}
    tests = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "tests").rglob("*.py")}
    assert [
        path for path, text in tests.items() if re.search(r"^(from|import) tests\..*\btest_", text, re.MULTILINE)
    ] == []


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.stem)
def test_a_part_of_start_sh_is_small_and_says_what_it_sets(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= MODULE_LINES
    assert lines[0].startswith("# ")
    starts = [number for number, line in enumerate(lines) if re.match(r"\w+\(\) \{$", line)]
    ends = [number for number, line in enumerate(lines) if line == "}"]
    assert len(starts) == len(ends)
    assert all(end - start < FUNCTION_LINES for start, end in zip(starts, ends, strict=True))
