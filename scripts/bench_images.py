"""The images that `make bench` unpacks, built once by mmdebstrap and buildah and stored as OCI layouts.

    python3 -m scripts.bench_images DIRECTORY NAME...

builds the images that are missing in DIRECTORY, and prints the path and the size of each as JSON. Building takes
minutes, 12 GB of disk meanwhile, Debian's packages from the network, and root (or a user with subordinate IDs).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import random
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Self

SUITE = "bookworm"
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Recipe:
    """How to build an image, and its minimum size."""

    containerfile: str
    context: Callable[[Path], None]
    """Fills the directory that the Containerfile copies from."""
    layers: int
    compressed: int
    """Bytes of all compressed layers."""
    entries: int
    """Entries in all layers."""

    @property
    def key(self) -> str:
        """Return 16 hexadecimal digits of a hash of the recipe."""
        text = self.containerfile + inspect.getsource(self.context)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class BenchImage:
    """A built image."""

    name: str
    layout: str
    """The path of its OCI layout."""
    layers: tuple[str, ...]
    """The digests of its layers, base first."""
    compressed: int
    """Bytes of all compressed layers."""
    uncompressed: int
    """Bytes of all files in all layers."""
    entries: int
    """Entries in all layers."""
    paths: int
    """Paths in the unpacked image."""

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Self:
        """Return the image of which `found` is the JSON of `asdict`."""
        return cls(**{**found, "layers": tuple(found["layers"])})

    def __str__(self) -> str:
        layers = f"{len(self.layers)} layers" if len(self.layers) > 1 else "1 layer"
        sizes = f"{self.compressed / 1e6:,.0f} MB compressed, {self.uncompressed / 1e6:,.0f} MB unpacked"
        return f"{self.name}: {layers}, {sizes}, {self.entries:,} entries"


def debian(context: Path) -> None:
    """A minimal Debian, in one archive."""
    run("mmdebstrap", "--quiet", "--variant=minbase", SUITE, f"{context}/debian.tar")


def debian_and_application(context: Path) -> None:
    """Debian with packages, and this project as an application."""
    debian(context)
    for name in ("provisioner", "profiles", "scripts"):
        shutil.copytree(ROOT / name, context / "application" / name, ignore=shutil.ignore_patterns("__pycache__"))


def small_files(context: Path) -> None:
    """50,000 files of 1.5 kB on average, cut from the sources of Python's library."""
    text = b"".join(path.read_bytes() for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")))
    chance = random.Random(0)
    for number in range(50_000):
        path = context / f"files/package-{number // 1000}/part-{number // 100 % 10}/module-{number % 100}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = 1 + int(chance.expovariate(1 / 1500))
        start = chance.randrange(len(text) - size)
        path.write_bytes(text[start : start + size])


def twenty_parts(context: Path) -> None:
    """Twenty directories of 200 files each, half of which can't be compressed: 20 MB compressed, 32 MB unpacked."""
    text = b"".join(path.read_bytes() for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")))
    chance = random.Random(0)
    for number in range(20 * 200):
        path = context / f"part-{number // 200}/file-{number % 200}"
        path.parent.mkdir(exist_ok=True)
        start = chance.randrange(len(text) - 80_000)
        path.write_bytes(chance.randbytes(80_000) + text[start : start + 80_000])


def apt(packages: str) -> str:
    """Return the instruction that installs packages in their own layer, without apt's lists and packages."""
    install = f"apt-get update && apt-get install -y --no-install-recommends {packages}"
    return f"RUN {install} && apt-get clean && rm -rf /var/lib/apt/lists/*"


APPLICATION = f"""\
FROM scratch
ADD debian.tar /
ENV DEBIAN_FRONTEND=noninteractive
{apt("ca-certificates curl g++ gcc git make perl python3-dev python3-numpy python3-venv")}
{apt("nodejs npm")}
{apt("lmodern texlive-latex-recommended")}
COPY application /opt/application
RUN useradd --create-home application && rm -rf /usr/share/doc/*
USER application
CMD ["/usr/bin/python3", "-m", "application"]
"""

SMALL_FILES = """\
FROM scratch
COPY files /srv
"""

BIG_PACKAGES = (
    "chromium firefox-esr fonts-noto-cjk libllvm14 libqt5webenginecore5 libreoffice-core openjdk-17-jre-headless"
)

BIG_LAYER = f"""\
FROM scratch AS packages
ADD debian.tar /
RUN apt-get update && mkdir /packages /big && cd /packages && apt-get download {BIG_PACKAGES} \\
 && for package in *.deb; do dpkg -x "$package" files || exit 1; done \\
 && cd files && find . -type f -size +4M -exec cp --parents -t /big {{}} +
FROM scratch
COPY --from=packages /big /
"""

TWENTY_LAYERS = "FROM scratch\n" + "".join(f"COPY part-{number} /srv/part-{number}\n" for number in range(20))

RECIPES = {
    "application": Recipe(APPLICATION, debian_and_application, layers=5, compressed=400_000_000, entries=40_000),
    "small-files": Recipe(SMALL_FILES, small_files, layers=1, compressed=10_000_000, entries=50_000),
    "twenty-layers": Recipe(TWENTY_LAYERS, twenty_parts, layers=20, compressed=380_000_000, entries=4_000),
    "big-layer": Recipe(BIG_LAYER, debian, layers=1, compressed=400_000_000, entries=20),
}


def main(arguments: list[str]) -> int:
    """Print the images of these names as JSON, build those that are missing, and return the exit status."""
    directory, *names = arguments
    print(json.dumps([asdict(image(name, Path(directory))) for name in names]))
    return 0


def image(name: str, directory: Path) -> BenchImage:
    """Return the image `name` in `directory`; build it if it is missing. Raise SystemExit when that fails."""
    recipe = RECIPES[name]
    target = directory / f"{name}-{recipe.key}"
    if not target.exists():
        print(f"bench: building the image {name}", file=sys.stderr, flush=True)
        for stale in directory.glob(f"{name}-*"):
            shutil.rmtree(stale)
        with tempfile.TemporaryDirectory(prefix="building-", dir=directory, ignore_cleanup_errors=True) as workshop:
            built = build(recipe, Path(workshop))
            described = describe(name, built / "layout")
            if shortage := shortage_of(recipe, described):
                raise SystemExit(f"bench: {described}, but {shortage}: it needs other packages")
            (built / "image.json").write_text(json.dumps(asdict(described)))
            built.rename(target)
    described = BenchImage.from_json(json.loads((target / "image.json").read_text()))
    return replace(described, layout=str(target / "layout"))


def build(recipe: Recipe, workshop: Path) -> Path:
    """Build an image with buildah, one layer for each instruction that writes files.

    Return the directory that holds its OCI layout, `layout`.
    """
    context, result = workshop / "context", workshop / "result"
    context.mkdir()
    result.mkdir()
    recipe.context(context)
    (context / "Containerfile").write_text(recipe.containerfile)
    (workshop / "policy.json").write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
    # Separate storage, with the driver that works on every file system.
    stored = f'[storage]\ndriver = "vfs"\ngraphroot = "{workshop}/storage"\nrunroot = "{workshop}/run"\n'
    (workshop / "storage.conf").write_text(stored)
    env = {**os.environ, "CONTAINERS_STORAGE_CONF": f"{workshop}/storage.conf", "TMPDIR": str(workshop)}
    policy = f"--signature-policy={workshop}/policy.json"
    # Newer ones raise these limits to a million, which root of some virtual machines may not.
    limits = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096")
    options = ("--layers", "--isolation=chroot", *limits, "--format=oci", "--tag=bench")
    run("buildah", "bud", policy, *options, str(context), env=env)
    run("buildah", "push", policy, "bench", f"oci:{result}/layout:latest", env=env)
    return result


def run(*command: str, env: dict[str, str] | None = None) -> None:
    """Run a step of a build. Raise SystemExit with the end of its output when it fails."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, check=False
        )
    except FileNotFoundError:
        raise SystemExit(f"bench: {command[0]} is missing: apt-get install {command[0]}") from None
    if done.returncode:
        printed = done.stdout.decode(errors="replace").splitlines()
        raise SystemExit("\n".join(["bench:", *printed[-20:], f"bench: failed: {' '.join(command[:2])}"]))


def describe(name: str, layout: Path) -> BenchImage:
    """Read the layers of the image in an OCI layout."""
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    layers = json.loads((layout / "blobs" / entry["digest"].replace(":", "/")).read_text())["layers"]
    digests = tuple(layer["digest"] for layer in layers)
    uncompressed = entries = 0
    paths: set[str] = set()
    for digest in digests:
        with tarfile.open(layout / "blobs" / digest.replace(":", "/"), "r|gz") as archive:
            names = []
            for member in archive:
                names.append(member.name)
                uncompressed += member.size
        entries += len(names)
        paths = applied(paths, names)
    compressed = sum(layer["size"] for layer in layers)
    return BenchImage(name, str(layout), digests, compressed, uncompressed, entries, len(paths))


def applied(paths: set[str], names: list[str]) -> set[str]:
    """Return the paths after a layer with entries of these names (OCI image-spec, layer.md, whiteouts).

    A file that replaces a directory is not noticed: it would remove all paths below.
    """
    added: set[str] = set()
    removed: set[str] = set()
    emptied: set[str] = set()
    for name in names:
        path = PurePosixPath(name.lstrip("/"))
        if path.name == ".wh..wh..opq":
            emptied.add(str(path.parent))
        elif path.name.startswith(".wh."):
            removed.add(str(path.with_name(path.name.removeprefix(".wh."))))
        else:
            added.add(str(path))
    ends_below = removed | emptied
    gone = {
        path
        for path in paths
        if path in removed or not ends_below.isdisjoint(str(parent) for parent in PurePosixPath(path).parents)
    }
    return (paths - gone) | added


def shortage_of(recipe: Recipe, built: BenchImage) -> str:
    """Return a message with the sizes that are below the recipe's minimum; empty if none is."""
    least = {"layers": recipe.layers, "compressed": recipe.compressed, "entries": recipe.entries}
    has = {"layers": len(built.layers), "compressed": built.compressed, "entries": built.entries}
    return ", ".join(f"{name} {has[name]:,} of {least[name]:,}" for name in least if has[name] < least[name])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
