"""`make run`: provisions an image, starts it and shows the output of the container.

Without an argument it generates an image with this machine's shell and serves it from a registry on loopback: every
stage runs as for any other image, without the network.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import sh

from provisioner.container.record import Record
from provisioner.errors import MachineError, ProvisionError, TargetExists
from provisioner.image.platform import host_platform

from .loopback_registry import OCI_MANIFEST, LoopbackRegistry, sha256

TOOLS = ("sh", "cat", "cp", "env", "id", "ls", "mkdir", "rm", "sleep", "uname")

ASK = """\
echo "machine:   $(uname -m), $(uname -s) $(uname -r), $(uname -n)"
(. /etc/os-release && echo "system:    $PRETTY_NAME")
echo "directory: $(pwd)"
"""
"""The shell script that runs in a container with a shell."""

HELLO = f"""\
echo "$GREETING"
{ASK}\
echo "user:      $(id)"
echo "files:     $(cd / && echo *)"
[ ! -e /etc/leftover ] && echo "whiteout:  /etc/leftover of the first layer is gone"
"""
"""The command of the generated image."""

CONFIG = {
    "Env": ["PATH=/usr/bin:/bin", "GREETING=Hello from inside of the container!"],
    "WorkingDir": "/srv/hello",
    "Cmd": ["/bin/sh", "/srv/hello/hello.sh"],
}


def history(base: bytes) -> list[dict[str, object]]:
    """Return what builders would say that made the image, whose lower layer has the archive `base`."""
    return [
        {"created_by": f"/bin/sh -c #(nop) ADD file:{sha256(base).partition(':')[2]} in / "},
        {"created_by": "ENV GREETING=Hello from inside of the container!", "empty_layer": True},
        {"created_by": "RUN /bin/sh -c rm /etc/leftover && mkdir /srv/hello && cp /tmp/hello.sh /srv/hello # buildkit"},
        {"created_by": f"CMD {json.dumps(CONFIG['Cmd'])}", "empty_layer": True},
    ]


def main() -> int:
    """Run the demonstration and return the exit status of the first step that fails, or 0."""
    parser = argparse.ArgumentParser(prog="make run", description="Provision an image, start it and show its output.")
    parser.add_argument("image", nargs="?", help="an image of a registry, such as ubuntu, instead of a generated one")
    image = parser.parse_args().image
    try:
        return run_image(image) if image else run_own_image()
    except ProvisionError as error:
        print(f"make run: {error.message}\n  {error.hint}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return 130


def run_image(image: str) -> int:
    """Provision `image` into its own directory; run ASK in its shell, or its command if it has no shell."""
    directory = Path("container-" + re.sub(r"[^A-Za-z0-9._-]+", "-", image))
    if status := provision(image, f"./{directory}"):
        if status == TargetExists.status:
            print(f"  here: rm -r ./{directory}, then make run again", file=sys.stderr)
        return status
    has_shell = (directory / "rootfs/bin/sh").is_symlink() or (directory / "rootfs/bin/sh").exists()
    return start(directory, ["--entrypoint", "/bin/sh", "--", "-c", ASK] if has_shell else [])


def run_own_image() -> int:
    """Generate an image with this machine's shell, serve it, provision it and start it."""
    directory = Path("container")
    layers = [tar(base_layer()), tar(top_layer())]
    with LoopbackRegistry() as registry:
        print(f"An image of this machine's own shell is served at {registry.host}.", flush=True)
        publish(registry, "hello", layers)
        image = f"{registry.host}/hello:latest"
        status = provision(image, f"./{directory}")
        # The image has changed with this file or the machine's shell: replace the directory of an earlier run.
        if status == TargetExists.status and is_own(directory):
            status = provision(image, f"./{directory}", "--force")
    return status or start(directory, [])


def is_own(directory: Path) -> bool:
    """Return whether a directory holds the generated image."""
    record = Record.read(directory)
    return record is not None and re.fullmatch(r"127\.0\.0\.1:\d+/hello:latest", record.reference) is not None


def provision(*arguments: str) -> int:
    """Run `provision` and return its exit status."""
    print("\n$ provision", shlex.join(arguments), flush=True)
    return subprocess.run([sys.executable, "-m", "provisioner", *arguments], check=False).returncode


def start(directory: Path, arguments: list[str]) -> int:
    """Run start.sh, print the output of the container with a mark, and return the exit status."""
    command = [f"./{directory}/start.sh", *arguments]
    print("\n$", shlex.join(command), flush=True)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as container:
        assert container.stdout is not None
        for line in container.stdout:
            print("  |", line.decode(errors="replace").rstrip(), flush=True)
    if container.returncode == 0:
        print(f"\nIt is yours: ./{directory}/start.sh starts it again, with no Python and nothing else of this tool.")
    return container.returncode


Entry = tuple[tarfile.TarInfo, bytes]


def file(name: str, content: bytes, mode: int = 0o644) -> Entry:
    """Return the entry of a regular file."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    return info, content


def symlink(name: str, target: str) -> Entry:
    """Return the entry of a symbolic link."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
    return info, b""


def folder(name: str, mode: int = 0o755) -> Entry:
    """Return the entry of a directory."""
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, mode
    return info, b""


def base_layer() -> Iterator[Entry]:
    """Yield a minimal system: a shell and its tools, users, and a file that the next layer deletes."""
    yield from host_programs()
    yield from (folder("dev"), folder("proc"), folder("root", 0o700), folder("sys"), folder("tmp", 0o1777))
    yield file("etc/group", b"root:x:0:\nnogroup:x:65534:\n")
    yield file("etc/leftover", b"The next layer deletes this.\n")
    yield file("etc/os-release", b'ID=hello\nPRETTY_NAME="The shell of the machine that this was made on"\n')
    yield file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")


def top_layer() -> Iterator[Entry]:
    """Yield the command of the image, and a whiteout (OCI image-spec, layer.md) of a file in the first layer."""
    yield file("etc/.wh.leftover", b"")
    yield file("srv/hello/hello.sh", HELLO.encode())


def host_programs() -> Iterator[Entry]:
    """Yield this machine's static busybox, or the programs in TOOLS with the libraries that they need.

    Raise MachineError when there is neither.
    """
    busybox = shutil.which("busybox")
    if busybox and is_static(Path(busybox).read_bytes()):
        yield file("bin/busybox", Path(busybox).read_bytes(), 0o755)
        for name in {*str(sh.Command(busybox)("--list", _tty_out=False)).split()} - {"busybox"}:
            yield symlink(f"bin/{name}", "busybox")
        return
    # A program of Android needs more of the system than files.
    if sys.platform == "android" or not shutil.which("ldd"):
        hint = "install a static busybox (Debian: busybox-static), or run a real image: make run IMAGE=alpine"
        raise MachineError("the shell of this machine can't be taken into an image", hint)
    programs = {name: path for name in TOOLS if (path := shutil.which(name))}
    for name, path in programs.items():
        yield file(f"bin/{name}", Path(path).read_bytes(), 0o755)
    for library in {library for path in programs.values() for library in libraries(path)}:
        yield file(library.lstrip("/"), Path(library).read_bytes(), 0o755)


def is_static(program: bytes) -> bool:
    """Return whether a program is an ELF file without an interpreter (elf(5): no program header PT_INTERP)."""
    if program[:4] != b"\x7fELF":
        return False
    wide, order = program[4] == 2, "<" if program[5] == 1 else ">"
    (table,) = struct.unpack_from(order + ("Q" if wide else "I"), program, 32 if wide else 28)
    size, count = struct.unpack_from(order + "HH", program, 54 if wide else 42)
    types = (struct.unpack_from(order + "I", program, table + size * number)[0] for number in range(count))
    return 3 not in types


def libraries(program: str) -> list[str]:
    """Return the absolute paths of the shared libraries and the loader that a program needs."""
    try:
        return re.findall(r"(?:^\s*|=> )(/\S+) \(0x", str(sh.Command("ldd")(program, _tty_out=False)), re.MULTILINE)
    except sh.ErrorReturnCode_1:
        return []  # it is static, or a script


def tar(entries: Iterable[Entry]) -> bytes:
    """Return an archive of the entries and their parent directories, sorted by name; it is reproducible."""
    by_name = {info.name: (info, content) for info, content in entries}
    for name in list(by_name):
        for parent in PurePosixPath(name).parents[:-1]:
            by_name.setdefault(str(parent), folder(str(parent)))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for _, (info, content) in sorted(by_name.items()):
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def publish(registry: LoopbackRegistry, name: str, layers: list[bytes]) -> None:
    """Add an image of these layers to the registry as `name:latest`."""

    def descriptor(media_type: str, blob: bytes) -> dict[str, object]:
        return {"mediaType": media_type, "digest": registry.add_blob(name, blob), "size": len(blob)}

    platform = host_platform()
    config = {
        "os": platform.os,
        "architecture": platform.architecture,
        **({"variant": platform.variant} if platform.variant else {}),
        "config": CONFIG,
        "history": history(layers[0]),
        "rootfs": {"type": "layers", "diff_ids": [sha256(layer) for layer in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", json.dumps(config).encode()),
        "layers": [
            descriptor("application/vnd.oci.image.layer.v1.tar+gzip", gzip.compress(layer, mtime=0)) for layer in layers
        ],
    }
    registry.add_manifest(name, json.dumps(manifest).encode(), tag="latest")


if __name__ == "__main__":
    sys.exit(main())
