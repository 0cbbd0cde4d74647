"""The package's files are found from wherever it lies: a wheel, an sdist, an editable installation, a bare checkout."""

from __future__ import annotations

import configparser
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest

from provisioner import __version__
from provisioner.resources import read_resource, resource_names

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = ("LICENSE", "MANIFEST.in", "README.md", "profiles", "provisioner", "pyproject.toml", "scripts", "setup.cfg")

INSTALLS = re.compile(r"^(?:    |.*`).*\b(?:pip|pipx) install .*\./provisioner.*$", re.MULTILINE)
"""Lines that install the package."""

PROBE = """
import hashlib, json, provisioner
from provisioner.resources import read_resource, resource_names
folders = {"profiles": ".toml", "scripts/start": ".sh", "scripts/share": ""}
names = [(folder, name) for folder, suffix in folders.items() for name in resource_names(folder, suffix)]
files = {f"{folder}/{name}": hashlib.sha256(read_resource(folder, name)).hexdigest() for folder, name in names}
print(json.dumps({"package": provisioner.__path__[0], "files": files}))
"""


def test_install_lines_name_the_extra_that_makes_it_fast() -> None:
    """All but those for Termux, where there are no wheels of it."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]
    lines = [(page, found) for page in pages for found in INSTALLS.findall(page.read_text())]
    slow = [(page.name, line) for page, line in lines if "./provisioner[fast]" not in line]
    assert len(slow) < len(lines)
    assert {name for name, _ in slow} == {"README.md", "termux.md"}
    readme = (ROOT / "README.md").read_text()
    termux = readme.partition("**In Termux**")[2].partition("\n**")[0]
    assert all(line in termux for name, line in slow if name == "README.md")


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command without what tells this Python where to look, and return its standard output."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | environment
    done = subprocess.run(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def check(python: str | Path, package: Path, cwd: Path, **environment: str) -> None:
    """Assert that a Python finds our files, whole, through the `package` that is meant, and that the command starts."""
    shipped = [*ROOT.glob("profiles/*.toml"), *ROOT.glob("scripts/start/*.sh"), *ROOT.glob("scripts/share/*")]
    found = json.loads(run(python, "-c", PROBE, cwd=cwd, **environment))
    assert Path(found["package"]).resolve() == package.resolve()
    assert found["files"] == {
        str(path.relative_to(ROOT)): hashlib.sha256(path.read_bytes()).hexdigest() for path in shipped
    }
    assert "SOURCE" in run(python, "-m", "provisioner", "help", "install", cwd=cwd, **environment)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what git has of the package: building leaves files behind."""
    copy = tmp_path / "checkout"
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy)
    return copy


def wheel_of(source: Path, directory: Path) -> Path:
    """Build a wheel of a source tree or an sdist as pip does, with the setuptools of this environment."""
    options = ("--quiet", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", directory)
    run(sys.executable, "-m", "pip", "wheel", *options, source, cwd=directory)
    (wheel,) = directory.glob("*.whl")
    return wheel


def make_venv(directory: Path) -> tuple[Path, Path]:
    """Make an empty environment and return its Python and its site-packages."""
    venv.create(directory, symlinks=True)
    (site,) = directory.glob("lib/python*/site-packages")
    return directory / "bin/python", site


def install(python: Path, *what: str | Path, **environment: str) -> None:
    """Install into an environment what needs no download."""
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", *what, cwd=python.parent, **environment)


def test_no_line_to_type_installs_a_strangers_package() -> None:
    """The names `provisioner` and `provision` on the package index belong to others."""
    files = [*ROOT.glob("provisioner/**/*.py"), *ROOT.glob("docs/*.md"), *ROOT.glob("scripts/start/*.sh")]
    texts = "".join(path.read_text() for path in (*files, ROOT / "README.md", ROOT / "CONTRIBUTING.md"))
    named = re.findall(r"pipx? install '?([^\s`'\",;)]+)", texts)
    assert set(named) == {"./provisioner", "./provisioner[fast]", "isal", "PySocks", "{package}"}
    assert set(re.findall(r'package = "(.+)" if name == "zstd" else name', texts)) == {"backports.zstd"}


def test_every_package_is_listed() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    listed = set(settings["options"]["packages"].split())
    found = {f"provisioner.{path.parent.name}" for path in ROOT.glob("provisioner/*/__init__.py")}
    assert found <= listed


@pytest.mark.slow
def test_a_wheel_has_all_and_nothing_else(checkout: Path, tmp_path: Path) -> None:
    python, site = make_venv(tmp_path / "venv")
    install(python, wheel_of(checkout, tmp_path))
    check(python, site / "provisioner", cwd=tmp_path)
    assert {path.name for path in site.iterdir()} == {"provisioner", f"provision_container-{__version__}.dist-info"}
    modules = {path.relative_to(checkout / "provisioner") for path in checkout.glob("provisioner/**/*.py")}
    modules |= {path.relative_to(checkout) for path in checkout.glob("profiles/*.py")}
    assert {path.relative_to(site / "provisioner") for path in site.glob("provisioner/**/*.py")} == modules
    assert "SOURCE" in run(python.with_name("provision"), "help", "install", cwd=tmp_path)
    share = tmp_path / "venv/share"
    assert (share / "bash-completion/completions/provision").exists()
    assert (share / "zsh/site-functions/_provision").exists()
    assert (share / "fish/vendor_completions.d/provision.fish").exists()
    assert sorted(path.name for path in (share / "man/man1").iterdir()) == ["provision.1", "start.sh.1"]


@pytest.mark.slow
def test_an_sdist_makes_the_same(checkout: Path, tmp_path: Path) -> None:
    (checkout / "tests").mkdir()
    (checkout / "tests/test_cli.py").touch()  # setuptools finds files of that name
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path, checkout, cwd=tmp_path)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "scripts/share/provision.1", "scripts/start/main.sh"} <= names
    assert not [name for name in names if name.startswith(("tests", "docs")) or re.fullmatch(r"scripts/\w+\.py", name)]
    python, site = make_venv(tmp_path / "venv")
    install(python, wheel_of(sdist, tmp_path))
    check(python, site / "provisioner", cwd=tmp_path)


@pytest.mark.slow
def test_an_editable_installation_reads_the_checkout(checkout: Path, tmp_path: Path) -> None:
    python, _ = make_venv(tmp_path / "venv")
    # The build runs in that environment, which gets to see the setuptools of this one and nothing more.
    tools = tmp_path / "tools"
    tools.mkdir()
    found = importlib.util.find_spec("setuptools")
    assert found is not None
    assert found.origin is not None
    for path in Path(found.origin).parent.parent.glob("*"):
        if path.name.startswith(("setuptools", "_distutils_hack", "pkg_resources")):
            (tools / path.name).symlink_to(path)
    install(python, "--no-build-isolation", "--editable", checkout, PYTHONPATH=str(tools))
    check(python, checkout / "provisioner", cwd=tmp_path)


@pytest.mark.parametrize("where", ["at its top", "by PYTHONPATH"])
def test_a_bare_checkout_needs_no_installation(checkout: Path, tmp_path: Path, where: str) -> None:
    python, _ = make_venv(tmp_path / "venv")
    if where == "at its top":
        check(python, checkout / "provisioner", cwd=checkout)
    else:
        check(python, checkout / "provisioner", cwd=tmp_path, PYTHONPATH=str(checkout))


def test_a_folder_inside_of_the_package_comes_before_one_beside_it(checkout: Path, tmp_path: Path) -> None:
    (checkout / "provisioner/profiles").mkdir()
    (checkout / "provisioner/profiles/inner.toml").touch()
    probe = "from provisioner.resources import resource_names; print(*resource_names('profiles', '.toml'))"
    assert run(sys.executable, "-c", probe, cwd=checkout).split() == ["inner.toml"]


@pytest.mark.parametrize("name", ["../setup.cfg", "/etc/passwd", "", "..", "none.toml"])
def test_a_name_that_is_no_file_there_is_not_found(name: str) -> None:
    with pytest.raises(FileNotFoundError):
        read_resource("profiles", name)


def test_names_are_sorted_and_by_suffix() -> None:
    names = resource_names("scripts", ".py")
    assert names == sorted(names)
    assert {"demo.py", "develop.py"} <= set(names)
    assert "start" not in resource_names("scripts", "")
