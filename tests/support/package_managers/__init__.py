"""Package managers for tests of updates: for each one, two versions of an image and a repository with newer packages.

A package NAME of any manager consists of usr/lib/NAME with the text "NAME VERSION", and of two configuration files,
etc/NAME.conf and etc/NAME.edited, with the text "default VERSION". `mine` depends on `helper`.
"""

from __future__ import annotations

import shutil
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path

from tests.support import builders
from tests.support.containers import starter

IMAGES = ({"base": "1", "dropped": "1"}, {"base": "2", "dropped": "1", "other": "1"})
"""The packages that both versions of the image have."""
REPOSITORIES = {
    "old": {"helper": "1", "mine": "1"},
    "new": {"helper": "1", "mine": "2"},
    "incomplete": {"helper": "1"},
}
"""The packages of a repository as it was when the user installed `mine`, as it is later, and without `mine`."""
DEPENDENCIES = {"mine": "helper"}


class PackageManager(ABC):
    """A package manager with its images and repositories. The test is skipped where its tools are missing."""

    install: str
    """The script with which the user adds the repository in /repository and installs `mine`."""
    remove: str
    """The script with which the user removes the package `dropped`."""
    add_user = "echo 'me:x:1000:1000::/:/bin/sh' >>/etc/passwd"
    """The script with which the user adds the user `me`."""

    def __init__(self, workshop: Path) -> None:
        """Make the packages, the repositories and the images. All files are below the directory `workshop`."""
        self.workshop = workshop
        needed = {item for packages in (*IMAGES, *REPOSITORIES.values()) for item in packages.items()}
        self._packages = {item: self.make_package(*item) for item in sorted(needed)}
        for state, packages in REPOSITORIES.items():
            repository = self._repository(state)
            repository.mkdir(parents=True)
            for item in packages.items():
                shutil.copy(self._packages[item], repository)
            self.write_index(repository)
        first, second = ([self._packages[item] for item in packages.items()] for packages in IMAGES)
        self.images = (self.make_image(first), self.make_image(second))

    def _repository(self, state: str) -> Path:
        return self.workshop / "repositories" / state

    def publish(self, state: str, repository: Path) -> None:
        """Make the directory `repository` anew, in one of the states of REPOSITORIES."""
        shutil.rmtree(repository, ignore_errors=True)
        # With new times: package managers load an index again only if it is newer than theirs.
        shutil.copytree(self._repository(state), repository, symlinks=True, copy_function=shutil.copy)

    @abstractmethod
    def make_package(self, name: str, version: str) -> Path:
        """Make a package and return its file."""

    @abstractmethod
    def write_index(self, repository: Path) -> None:
        """Write the index of the packages in a directory."""

    @abstractmethod
    def make_image(self, packages: list[Path]) -> builders.Image:
        """Return an image in which packages are installed by the manager itself."""

    @abstractmethod
    def versions(self, directory: Path) -> dict[str, str]:
        """Return the versions of the packages that are installed in a container, at least of those made here."""

    @abstractmethod
    def by_hand(self, directory: Path) -> set[str]:
        """Return the packages that are installed in a container for their own sake, not as dependencies."""

    @abstractmethod
    def check(self, directory: Path) -> None:
        """Assert what the manager itself says of a container after the update."""


def contents(name: str, version: str) -> dict[str, str]:
    """Return the texts of a package's files, by path."""
    return {f"usr/lib/{name}": f"{name} {version}\n"} | dict.fromkeys(configuration(name), f"default {version}\n")


def configuration(name: str) -> tuple[str, str]:
    """Return the paths of a package's configuration files."""
    return f"etc/{name}.conf", f"etc/{name}.edited"


def regular_files(root: Path) -> builders.Layer:
    """Return a layer with the regular files below a directory."""
    return builders.layer(
        *((str(path.relative_to(root)), path.read_bytes()) for path in sorted(root.rglob("*")) if path.is_file())
    )


def in_container(directory: Path, script: str) -> str:
    """Run a script as root of the container, and return what it prints."""
    words = [str(directory / "start.sh"), "--runtime", "proot", "--root", "--", "sh", "-euc", script]
    done = subprocess.run(words, capture_output=True, text=True, check=False, **starter("proot"))
    assert done.returncode == 0, (done.stdout, done.stderr)
    return str(done.stdout)
