"""Runs a real `docker-registry`, with plain HTTP or TLS."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.tools import clean_environment, find_program, need, run
from tests.support.waiting import wait_until


@dataclass(frozen=True)
class DockerRegistry:
    """A running `docker-registry`."""

    host: str
    """`HOST:PORT`."""
    storage: Path
    """The directory of its blobs and manifests."""

    def push(self, layout: Path, name: str, *options: str) -> str:
        """Copy the image `latest` of an OCI layout to the registry with skopeo, and return its reference."""
        need("skopeo")
        target = f"{self.host}/{name}"
        logins = self.storage.with_name("no-logins.json")  # not the user's, which may be another's
        logins.write_text("{}")
        copy = ("skopeo", "copy", "--authfile", str(logins), "--dest-tls-verify=false", *options)
        run(*copy, f"oci:{layout}:latest", f"docker://{target}")
        return target


@contextmanager
def run_docker_registry(
    directory: Path, storage: Path, tls: tuple[Path, Path] | None = None, more: str = "", clients: Path | None = None
) -> Iterator[DockerRegistry]:
    """Run docker-registry on a free loopback port; its configuration and its log are written to `directory`.

    `more` is appended to the configuration. With `tls`, a certificate and its key, it serves HTTPS; with `clients`, the
    certificate of an authority, only to clients that have one of it.
    """
    need("docker-registry", "setpriv")
    asked = f", clientcas: ['{clients}']" if clients else ""
    secrets = f", tls: {{certificate: '{tls[0]}', key: '{tls[1]}'{asked}}}" if tls else ""
    config, messages = directory / "registry.yml", directory / "registry.log"
    config.write_text(
        "version: 0.1\n"
        f"storage: {{filesystem: {{rootdirectory: '{storage}'}}}}\n"
        f"http: {{addr: '127.0.0.1:0'{secrets}}}\n{more}"
    )
    # It gets a signal when the tests are killed.
    command = ["setpriv", "--pdeathsig=TERM", find_program("docker-registry") or "", "serve", str(config)]
    with (
        messages.open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=clean_environment()) as process,
    ):
        try:
            yield DockerRegistry(_await_host(process, messages), storage)
        finally:
            process.terminate()


def _await_host(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return the host and port at which it listens, when it does: the kernel has chosen a free port."""

    def host() -> str:
        found = re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text())
        return found[1] if found else ""

    wait_until(lambda: host() or process.poll() is not None)
    if not host():
        pytest.fail(f"docker-registry has ended with the status {process.poll()}: {log.read_text()}")
    return host()
