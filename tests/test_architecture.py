"""The package's shape: which module may import which, and how large things may be."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

ROOMS = (
    "terminal sizes resources filesystem errors settings image registry store sources ownership profile rootfs layers"
    " container launch config inspection doctor"
)
MAY_IMPORT = {
    "terminal": "",
    "sizes": "",
    "resources": "",
    "filesystem": "",
    "errors": "terminal",
    "settings": "errors terminal",
    "image": "errors filesystem settings terminal",
    "registry": "errors filesystem image settings terminal",
    "store": "errors filesystem image registry terminal",
    "sources": "errors image registry store",
    "ownership": "errors filesystem",
    "profile": "errors resources settings terminal",
    "rootfs": "errors filesystem ownership profile terminal",
    "layers": "errors filesystem image ownership rootfs sizes sources store terminal",
    "container": "errors filesystem image terminal",
    "launch": "errors image resources",
    "config": "filesystem image settings sizes terminal",
    "inspection": "container errors image sources store terminal",
    "doctor": "container errors filesystem image launch registry terminal",
    "provision": ROOMS,
    "commands": f"{ROOMS} provision",
    "cli": f"{ROOMS} provision commands",
    "__main__": "cli",
}
"""The table of docs/architecture.md: what each room, a package or a module, may import. Each row names only
rooms of the rows above it, so that no imports run in a circle."""

MODULES = sorted((ROOT / "provisioner").rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
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
    rows = re.findall(r"^\| (`.+?) \|.*\| (.+?) \|$", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
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
