"""Debian packages made for tests, and repositories of them: small, but real ones."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.support.tools import need, run


def make_package(
    place: Path,
    name: str,
    version: str,
    files: Mapping[str, str],
    *,
    depends: str = "",
    configuration: tuple[str, ...] = (),
    scripts: Mapping[str, str] | None = None,
) -> Path:
    """Make `NAME_VERSION_all.deb` in the directory `place`, and return it.

    `files` are texts by path; `configuration` are the paths of those that dpkg treats as conffiles; `scripts` are those
    of the maintainer, such as `postinst`.
    """
    need("dpkg-deb")
    tree = place / f"{name}-{version}"
    (tree / "DEBIAN").mkdir(parents=True)
    control = {
        "Package": name,
        "Version": version,
        "Architecture": "all",
        "Maintainer": "Tests <tests@example.org>",
        "Description": f"test package {name}",
        **({"Depends": depends} if depends else {}),
    }
    (tree / "DEBIAN/control").write_text("".join(f"{key}: {value}\n" for key, value in control.items()))
    if configuration:
        (tree / "DEBIAN/conffiles").write_text("".join(f"/{path}\n" for path in configuration))
    for script, text in (scripts or {}).items():
        (tree / "DEBIAN" / script).write_text(text)
        (tree / "DEBIAN" / script).chmod(0o755)
    for path, text in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    package = place / f"{name}_{version}_all.deb"
    run("dpkg-deb", "--root-owner-group", "--build", tree, package)
    shutil.rmtree(tree)
    return package


def write_index(repository: Path) -> None:
    """Write the index `Packages` of a flat repository: all packages in the directory `repository`."""
    paragraphs = []
    for package in sorted(repository.glob("*.deb")):
        content = package.read_bytes()
        paragraphs.append(
            run("dpkg-deb", "--field", package)
            + f"Filename: ./{package.name}\nSize: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}\n"
        )
    (repository / "Packages").write_text("\n".join(paragraphs))
