"""The entrants of `make bench`, each a shell script: provision, its peers, and the parts of the lower bound.

A script starts in an empty directory, which is also its HOME, with the environment variables

    HOST IMAGE      the registry's host:port, the repository there
    DIGESTS         the layers' digests, base first
    BLOBS TARS      files with these layers, compressed and uncompressed
    WARM            a blob cache of provision with the image
    ROOTFS          a tar of its root file system, uncompressed
    DOCKER_ARCHIVE OCI_ARCHIVE      archives of the image, as skopeo writes them
    POLICY          a containers-policy.json(5) that accepts every image
    CHECKOUT        the checkout to measure
    PLAIN FAST      Python environments with its dependencies, without and with the extra `fast`
    PROOT_DISTRO UDOCKER    the peers' Python environments
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from .bench_machine import find
from .bench_report import (
    ARCHIVES,
    ARCHIVES_BY_UMOCI,
    FAST,
    HASH,
    INFLATE,
    LINK,
    NO_DIGESTS,
    NO_SYNC,
    ON_DISK,
    ONE_CORE,
    OURS,
    PIPED,
    ROOTFS,
    ROOTFS_PEER,
    ROOTFS_TAR,
    TAR,
    USER,
    WARM,
    WARM_TAR,
    WRITE,
)


@dataclass(frozen=True)
class Entrant:
    """A program to measure."""

    name: str
    kind: str
    """cold (with empty caches), warm, archive, rootfs (a tar of the whole tree), disk (warm, and unpacked onto a disk),
    other (cold, under other conditions), or limit (a part of the lower bound)."""
    script: str
    needs: tuple[str, ...] = ()
    """Programs and, in capitals, ROOT and Python environments."""
    tree: str = "rootfs"
    """A glob pattern for the directory of the unpacked image; empty if it unpacks none."""
    rounds: int = 99
    """The most rounds in which it runs. Slow entrants, and those without a goal, run in fewer."""
    images: tuple[str, ...] = ()
    """The images that it unpacks; empty for all."""

    def is_named(self, names: Sequence[str]) -> bool:
        """Return whether one of the names is its kind or a prefix of its name, or there are no names."""
        return not names or any(name == self.kind or self.name.startswith(name) for name in names)

    def missing(self, environments: Collection[str]) -> str:
        """Return a message with the programs that this machine lacks; empty if none is missing."""
        lacking = [need for need in self.needs if not (need in environments if need.isupper() else find(need))]
        return f"not here: {', '.join(lacking)}" if lacking else ""


# proot-distro refuses to run as root. Here it gets another user ID, which is mapped to root's.
NOT_ROOT = "unshare --user --map-user=1000 " if os.geteuid() == 0 else ""

CURL_TAR = """\
mkdir rootfs
for digest in $DIGESTS; do
  curl -sSf "http://$HOST/v2/$IMAGE/blobs/$digest" | tar -xz -C rootfs
done"""

# Without `autoinstall =`, it first downloads its engines (proot, runc, …), which unpacking doesn't need.
UDOCKER = """\
export UDOCKER_DIR="$PWD/udocker"
mkdir udocker
printf '[DEFAULT]\\nautoinstall =\\n' >udocker/udocker.conf
"$UDOCKER/bin/udocker" --allow-root --quiet pull --registry="http://$HOST" "$IMAGE:latest"
"$UDOCKER/bin/udocker" --allow-root --quiet create "$IMAGE:latest\""""

INSTALL_ROOTFS = '"$PROOT_DISTRO/bin/proot-distro" install --quiet --name bench "$ROOTFS"'

PROOT_DISTRO = '"$PROOT_DISTRO/bin/proot-distro" install --quiet --allow-insecure --name bench "$HOST/$IMAGE"'

SKOPEO = 'skopeo --policy "$POLICY" copy --quiet --src-tls-verify=false "docker://$HOST/$IMAGE" oci:oci:latest'

BUILDAH = """\
buildah --root "$PWD/storage" --runroot "$PWD/run" --storage-driver vfs \\
  pull --quiet --signature-policy "$POLICY" --tls-verify=false "docker://$HOST/$IMAGE\""""

UNTAR = """\
mkdir rootfs
for layer in {layers}; do tar {options} "$layer" -C rootfs; done"""

INFLATE_CODE = """\
import sys, MODULE as zlib
for name in sys.argv[1:]:
    inflater = zlib.decompressobj(31)
    with open(name, "rb") as blob:
        while piece := blob.read(1 << 16):
            inflater.decompress(piece)
    assert inflater.eof and not inflater.unused_data, "more than one gzip member"
"""

HASH_CODE = """\
import hashlib, sys
for name in sys.argv[1:]:
    with open(name, "rb") as blob:
        hashlib.file_digest(blob, "sha256")
"""


def ours(
    environment: str,
    cache: str = "",
    module: str = "provisioner",
    options: str = "--quiet",
    source: str = "$HOST/$IMAGE",
) -> str:
    """Return the script that runs the checkout's provision with the dependencies in an environment."""
    setting = f'PROVISION_CACHE_DIR="{cache}" ' if cache else ""
    command = f'"${environment}/bin/python" -m {module} {options} "{source}" container'
    return f'PYTHONPATH="$CHECKOUT" {setting}{command}'


def python(environment: str, code: str, files: str) -> str:
    """Return the script that runs Python code on files, in an environment."""
    return f"\"${environment}/bin/python\" -c '{code}' {files}"


def inflate(environment: str, module: str) -> str:
    """Return the script that inflates all layers and discards the result, with zlib or a module like it."""
    return python(environment, INFLATE_CODE.replace("MODULE", module), "$BLOBS")


def umoci(option: str = "") -> str:
    """Return the script that pulls with skopeo and unpacks with umoci."""
    return f"{SKOPEO}\numoci unpack {option} --image oci:latest bundle"


_TREE = "container/rootfs"
_LAYERS = ("application", "small-files", "big-layer")
_APPLICATION = ("application",)


def archived(form: str) -> tuple[Entrant, Entrant]:
    """Return provision, and skopeo with umoci, on the archive of a format."""
    source = f"{form}:${form.replace('-', '_').upper()}"
    copy = f'skopeo --policy "$POLICY" copy --quiet "{source}" oci:oci:latest'
    unpack = "umoci unpack --image oci:latest bundle"
    return (
        Entrant(ARCHIVES[form], "archive", ours("PLAIN", source=source), ("PLAIN",), _TREE, 3, _APPLICATION),
        Entrant(
            *(ARCHIVES_BY_UMOCI[form], "archive", f"{copy}\n{unpack}", ("ROOT", "skopeo", "umoci"), "bundle/rootfs"),
            rounds=1,
            images=_APPLICATION,
        ),
    )


def on_one_core(script: str) -> str:
    """Return the script that runs another one on a single processor."""
    return f"taskset --cpu-list --pid {min(os.sched_getaffinity(0))} $$ >/dev/null\n{script}"


def through_link(script: str) -> str:
    """Return the script that runs another one with the registry behind a link of 20 MB/s."""
    return f"""\
"$PLAIN/bin/python" "$CHECKOUT/scripts/bench_link.py" "$HOST" 20000000 link &
while [ ! -e link ]; do sleep 0.01; done
HOST=$(cat link)
{script}"""


CURL_ONLY = """\
for digest in $DIGESTS; do
  curl -sSf "http://$HOST/v2/$IMAGE/blobs/$digest" >/dev/null
done"""

_PROOT_DISTRO_TREE = ".local/share/proot-distro/*/bench/rootfs"

ENTRANTS = (
    Entrant(OURS, "cold", ours("PLAIN"), ("PLAIN",), _TREE),
    Entrant(FAST, "cold", ours("FAST"), ("FAST",), _TREE),
    Entrant(TAR, "cold", CURL_TAR, ("curl", "tar", "gzip")),
    Entrant(
        *("proot-distro", "cold", NOT_ROOT + PROOT_DISTRO, ("PROOT_DISTRO", "proot", "unshare"), _PROOT_DISTRO_TREE),
        rounds=3,
        images=_LAYERS,
    ),
    Entrant("udocker", "cold", UDOCKER, ("UDOCKER", "curl", "tar"), "udocker/containers/*/ROOT", 1, _LAYERS),
    Entrant("skopeo, umoci", "cold", umoci(), ("ROOT", "skopeo", "umoci"), "bundle/rootfs", 1, _LAYERS),
    Entrant("skopeo, umoci --rootless", "cold", umoci("--rootless"), ("skopeo", "umoci"), "bundle/rootfs", 1, _LAYERS),
    Entrant("buildah pull, vfs", "cold", BUILDAH, ("buildah",), "storage/vfs/dir/*", 1, _LAYERS),
    Entrant(WARM[0], "warm", ours("PLAIN", "$WARM"), ("PLAIN",), _TREE, images=_LAYERS),
    Entrant(WARM[1], "warm", ours("FAST", "$WARM"), ("FAST",), _TREE, images=_LAYERS),
    Entrant(
        *(NO_DIGESTS, "warm", ours("FAST", "$WARM", module="scripts.bench_without_digests"), ("FAST",), _TREE, 3),
        images=_LAYERS,
    ),
    Entrant(NO_SYNC, "warm", ours("PLAIN", "$WARM", options="--quiet --no-sync"), ("PLAIN",), _TREE, 3, _LAYERS),
    Entrant(ON_DISK[0], "disk", ours("PLAIN", "$WARM"), ("PLAIN",), _TREE, 3, _LAYERS),
    Entrant(ON_DISK[1], "disk", ours("PLAIN", "$WARM", options="--quiet --no-sync"), ("PLAIN",), _TREE, 3, _LAYERS),
    Entrant(WARM_TAR, "warm", UNTAR.format(layers="$BLOBS", options="-xzf"), ("tar", "gzip"), images=_LAYERS),
    Entrant(ONE_CORE[0], "other", on_one_core(ours("FAST")), ("FAST", "taskset"), _TREE, 3, _APPLICATION),
    Entrant(
        *(ONE_CORE[1], "other", on_one_core(CURL_TAR), ("curl", "tar", "gzip", "taskset")),
        rounds=3,
        images=_APPLICATION,
    ),
    Entrant(USER, "other", f"{NOT_ROOT}env {ours('FAST')}", ("FAST", "unshare"), _TREE, 3, _APPLICATION),
    Entrant(LINK[0], "other", through_link(ours("FAST")), ("FAST", "PLAIN"), _TREE, 1, _APPLICATION),
    Entrant(LINK[1], "other", through_link(CURL_ONLY), ("PLAIN", "curl"), "", 1, _APPLICATION),
    *archived("docker-archive"),
    *archived("oci-archive"),
    Entrant(
        PIPED, "archive", f'cat "$DOCKER_ARCHIVE" | {ours("PLAIN", source="-")}', ("PLAIN",), _TREE, 3, _APPLICATION
    ),
    Entrant(ROOTFS[0], "rootfs", ours("PLAIN", source="rootfs:$ROOTFS"), ("PLAIN",), _TREE, 3, _APPLICATION),
    Entrant(ROOTFS[1], "rootfs", ours("FAST", source="rootfs:$ROOTFS"), ("FAST",), _TREE, 3, _APPLICATION),
    Entrant(ROOTFS_TAR, "rootfs", UNTAR.format(layers="$ROOTFS", options="-xf"), ("tar",), "", 3, _APPLICATION),
    Entrant(
        *(ROOTFS_PEER, "rootfs", NOT_ROOT + INSTALL_ROOTFS, ("PROOT_DISTRO", "proot", "unshare"), _PROOT_DISTRO_TREE),
        rounds=1,
        images=_APPLICATION,
    ),
    Entrant(INFLATE[OURS], "limit", inflate("PLAIN", "zlib"), ("PLAIN",), "", 3),
    Entrant(INFLATE[FAST], "limit", inflate("FAST", "isal.isal_zlib"), ("FAST",), "", 3),
    Entrant(HASH, "limit", python("PLAIN", HASH_CODE, "$BLOBS $TARS"), ("PLAIN",), "", 3),
    Entrant(WRITE, "limit", UNTAR.format(layers="$TARS", options="-xf"), ("tar",), rounds=3),
)
"""In the order of their turns."""
