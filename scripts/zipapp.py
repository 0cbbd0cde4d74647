"""Writes dist/provision.pyz: one file that any Python 3.11 or later runs, with all pure Python dependencies (`make
zipapp`).

    python -m scripts.zipapp [FILE]

The same sources and the same versions of the dependencies give the same bytes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PURE = ("--only-binary=:all:", "--platform=any", "--implementation=py", "--abi=none", "--python-version=3.11")
"""The options with which pip accepts only wheels for any machine."""
LEFT_OUT = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}
"""Files about the installation, which differ from one to another."""
MAIN = b"import sys\n\nfrom provisioner.__main__ import main\n\nsys.exit(main())\n"
_DATE = (1980, 1, 1, 0, 0, 0)
"""The time of all files: the earliest time in a zip."""


def main(arguments: list[str]) -> int:
    """Write the file; return the exit status."""
    target = Path(arguments[0]) if arguments else ROOT / "dist/provision.pyz"
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        wheels, installed = Path(folder, "wheels"), Path(folder, "installed")
        _pip("wheel", "--no-deps", "--wheel-dir", wheels, ROOT)
        _pip("install", "--no-compile", "--target", installed, *PURE, *wheels.glob("*.whl"))
        write_zip(installed, target)
    print(target)
    return 0


def write_zip(folder: Path, target: Path) -> None:
    """Write the files in `folder` to `target`, a zip file that Python runs."""
    names = sorted((path.relative_to(folder) for path in folder.rglob("*") if path.is_file()), key=Path.as_posix)
    with open(target, "wb") as file:
        file.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            _add(archive, "__main__.py", MAIN)
            for name in names:
                if name.name not in LEFT_OUT and name.parts[0] != "bin" and name.suffix != ".pyc":
                    _add(archive, name.as_posix(), (folder / name).read_bytes())
    target.chmod(0o755)


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content, zipfile.ZIP_DEFLATED)


def _pip(*words: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words], check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
