"""Real images, made with real tools from Debian's packages, each an OCI layout that is kept in pytest's cache.

`layout()` gives one by name. It is built once for each state of this file: a hash of it is in the directory's name.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.tools import fast_directory, need, run, unavailable

SUITE = "bookworm"
HOST_IS_ARM = platform.machine() == "aarch64"

# The platform of this machine, and one that it can't run without qemu-user: as OCI, Debian and qemu name them.
NATIVE, FOREIGN = ("arm64", "amd64") if HOST_IS_ARM else ("amd64", "arm64")
FOREIGN_MACHINE = "x86_64" if HOST_IS_ARM else "aarch64"
FOREIGN_QEMU = f"qemu-{FOREIGN_MACHINE}-static"

# What the application's configuration says, once more for the tests to compare with.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/with space",
    "SPACES": "  two  spaces ",
    "QUOTES": 'it\'s "quoted"',
    "DOLLAR": "$HOME $(id) `id`",
    "BACKSLASH": "a\\nb\\",
    "UNICODE": "žluťoučký 🐎",
    "EMPTY": "",
    "NEWLINE": "first\nsecond\n",
    "EQUALS": "a=b=c",
}
ENTRYPOINT = ["/usr/local/bin/entry", "from the entrypoint"]
COMMAND = ["from cmd", "$HOME", "", "two\nlines", "'; exit 1; '"]

_APPLICATION = """\
FROM oci:debian:latest
RUN useradd --create-home --shell /bin/bash --groups mail,audio app \\
 && install -d -o app -g app -m 2750 /srv/app \\
 && mkdir -p /opt/replaced/old/deep /opt/deleted/deep /opt/swapped /opt/kept \\
 && echo old >/opt/replaced/old/deep/file && echo kept >/opt/kept/first && echo gone >/opt/kept/second \\
 && echo gone >/opt/deleted/deep/file && echo a file >/opt/file && echo below >/opt/swapped/below \\
 && ln -s kept /opt/to-kept
# Deletions, a directory that is made anew, a file that becomes a directory, a directory that becomes a link.
RUN rm -r /opt/deleted /opt/kept/second /usr/share/bug \\
 && rm -r /opt/replaced && mkdir -m 700 /opt/replaced && echo new >/opt/replaced/new \\
 && rm /opt/file && mkdir /opt/file && echo inside >/opt/file/inside \\
 && rm -r /opt/swapped && ln -s kept /opt/swapped
# And back; a file that is written through a link; setuid, hard links, links of all kinds, odd names, modes and times.
RUN rm -r /opt/file && echo a file again >/opt/file \\
 && rm /opt/swapped && mkdir /opt/swapped && echo back >/opt/swapped/back \\
 && echo through >/opt/to-kept/through \\
 && cp /bin/sleep /usr/local/bin/setuid && chown app:mail /usr/local/bin/setuid && chmod 6755 /usr/local/bin/setuid \\
 && echo linked >/opt/one && ln /opt/one /opt/two && ln /opt/one /opt/kept/three \\
 && ln -s ../../etc/passwd /opt/relative && ln -s /opt/one /opt/absolute && ln -s nowhere /opt/dangling \\
 && mkfifo /opt/fifo && echo dated >/opt/dated && chmod 000 /opt/dated && touch -d '2001-02-03 04:05:06' /opt/dated \\
 && echo odd >"/opt/n\u00e9 w\\line'" && chmod 1777 /opt/kept
# A change of mode alone, to one name of several.
RUN chmod 640 /opt/two && chown app /etc/debian_version
COPY entry /usr/local/bin/entry
WORKDIR /srv/app
USER app
"""

_ENTRY = """\
#!/bin/sh
# Shows what it was given, for the tests.
for argument; do printf 'argument:%s\\0' "$argument"; done
printf 'user:%s\\0workdir:%s\\0' "$(id -u):$(id -g)" "$(pwd -P)"
env -0 | sed -z 's/^/env:/'
"""


def layout(name: str, cache: Path) -> Path:
    """The OCI layout of the image `name`, whose tag there is `latest`; built below `cache` unless it is there."""
    place = cache / f"{name}-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]}"
    # Another test run may build it at the same time.
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            _build(name, cache, place)
    return place


def _build(name: str, cache: Path, place: Path) -> None:
    """Build the image `name` at `place`, below `cache`, where the images that it is made from are built, too."""
    for stale in cache.glob(f"{name}-*"):
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="provision-image-", dir=fast_directory()) as workshop:
        try:
            built = _RECIPES[name](Path(workshop), cache)
        except AssertionError as error:
            if os.geteuid() == 0:
                raise
            # mmdebstrap and buildah need subordinate ids that not every user has.
            unavailable(f"the image {name} can't be built by this user: {error}")
        # So that it is never there by half.
        half = Path(tempfile.mkdtemp(prefix=f"{name}-half-", dir=cache))
        shutil.copytree(built, half, dirs_exist_ok=True).rename(place)


def _debian(workshop: Path, cache: Path) -> Path:
    """A minimal Debian in one gzip layer, as `debian:stable-slim` is."""
    need("mmdebstrap", "umoci")
    tar, made = workshop / "debian.tar", workshop / "layout"
    left_out = [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("doc", "man", "locale")]
    _mmdebstrap(tar, "--variant=minbase", *left_out)
    _single_layer(made, tar, NATIVE, "--config.cmd=bash", "--config.env=PATH=/usr/sbin:/usr/bin:/sbin:/bin")
    return made


def _foreign(workshop: Path, cache: Path) -> Path:
    """The essential packages of Debian for another architecture. Its configuration names no command."""
    need("mmdebstrap", "umoci")
    tar, made = workshop / "foreign.tar", workshop / "layout"
    # Nothing of it runs while it is made: the packages are only unpacked.
    options = ("--variant=extract", f"--architectures={FOREIGN}", "--include=?essential")
    _mmdebstrap(tar, *options, "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr")
    _single_layer(made, tar, FOREIGN)
    return made


def _mmdebstrap(tar: Path, *options: str) -> None:
    # apt, which drops to a user of its own, has to reach the place where it works.
    tar.parent.chmod(0o755)
    run("mmdebstrap", "--quiet", *options, SUITE, tar, env={**os.environ, "TMPDIR": str(tar.parent)})


def _single_layer(made: Path, tar: Path, architecture: str, *config: str) -> None:
    image = f"{made}:latest"
    run("umoci", "init", "--layout", made)
    run("umoci", "new", "--image", image)
    run("umoci", "raw", "add-layer", "--image", image, tar)
    run("umoci", "config", "--image", image, "--architecture", architecture, *config)
    run("umoci", "gc", "--layout", made)


def _application(workshop: Path, cache: Path) -> Path:
    """What people's own images are like: Debian, several layers that undo each other, and a full configuration."""
    need("buildah", "umoci")
    context, made = workshop / "context", workshop / "layout"
    context.mkdir()
    lines = f"{_APPLICATION}ENTRYPOINT {json.dumps(ENTRYPOINT)}\nCMD {json.dumps(COMMAND)}\n"
    (context / "Containerfile").write_text(lines)
    (context / "entry").write_text(_ENTRY)
    (context / "entry").chmod(0o755)
    (context / "debian").symlink_to(layout("debian", cache))
    (context / "policy.json").write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
    storage = workshop / "storage.conf"
    storage.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{workshop}/storage"\nrunroot = "{workshop}/run"\n')
    buildah = ("buildah", "--signature-policy=policy.json")
    # Tests name a directory of logins that isn't there, and buildah demands one.
    others = {name: value for name, value in os.environ.items() if name != "DOCKER_CONFIG"}
    private = {"cwd": context, "env": {**others, "CONTAINERS_STORAGE_CONF": str(storage)}}
    # Newer ones raise these limits to a million, which root of some virtual machines may not.
    limits = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096")
    options = ("--layers", "--isolation=chroot", *limits, "--format=oci", "--tag=application")
    run(*buildah, "bud", *options, ".", **private)
    run(*buildah, "push", "application", f"oci:{made}:latest", **private)
    # A Containerfile's ENV can't say newlines.
    environment = [f"--config.env={name}={value}" for name, value in ENVIRONMENT.items()]
    run("umoci", "config", "--image", f"{made}:latest", *environment)
    run("umoci", "gc", "--layout", made)
    return made


def _application_zstd(workshop: Path, cache: Path) -> Path:
    """The application with zstd layers: the same trees and diff_ids."""
    need("skopeo")
    made = workshop / "layout"
    source = layout("application", cache)
    run("skopeo", "copy", "--dest-compress-format=zstd", f"oci:{source}:latest", f"oci:{made}:latest")
    return made


def _multiarch(workshop: Path, cache: Path) -> Path:
    """An index as buildx writes it: two platforms, each followed by an attestation of platform unknown/unknown."""
    made = workshop / "layout"
    entries: list[dict[str, Any]] = []
    for name, architecture in (("debian", NATIVE), ("foreign", FOREIGN)):
        source = layout(name, cache)
        shutil.copytree(source, made, dirs_exist_ok=True)
        (manifest,) = json.loads((source / "index.json").read_text())["manifests"]
        described = {key: manifest[key] for key in ("mediaType", "digest", "size")}
        entries.append({**described, "platform": {"architecture": architecture, "os": "linux"}})
        entries.append(_attestation(made, described["digest"]))
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries}
    named = {**_blob(made, index["mediaType"], index), "annotations": {"org.opencontainers.image.ref.name": "latest"}}
    (made / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    return made


def _attestation(made: Path, subject: str) -> dict[str, Any]:
    statement = {"_type": "https://in-toto.io/Statement/v0.1", "subject": [], "predicateType": "https://slsa.dev/x"}
    layer = _blob(made, "application/vnd.in-toto+json", {**statement, "predicate": {"about": subject}})
    diff_ids = {"type": "layers", "diff_ids": [layer["digest"]]}
    config = {"architecture": "unknown", "os": "unknown", "config": {}, "rootfs": diff_ids}
    media = "application/vnd.oci.image.manifest.v1+json"
    described = _blob(made, "application/vnd.oci.image.config.v1+json", config)
    manifest = {"schemaVersion": 2, "mediaType": media, "config": described, "layers": [layer]}
    annotations = {"vnd.docker.reference.digest": subject, "vnd.docker.reference.type": "attestation-manifest"}
    platform = {"architecture": "unknown", "os": "unknown"}
    return {**_blob(made, media, manifest), "annotations": annotations, "platform": platform}


def _blob(made: Path, media_type: object, document: object) -> dict[str, Any]:
    """Store a JSON document among the blobs of a layout; its descriptor."""
    content = json.dumps(document).encode()
    digest = hashlib.sha256(content).hexdigest()
    (made / "blobs" / "sha256" / digest).write_bytes(content)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}


_RECIPES: dict[str, Callable[[Path, Path], Path]] = {
    "debian": _debian,
    "foreign": _foreign,
    "application": _application,
    "application_zstd": _application_zstd,
    "multiarch": _multiarch,
}
