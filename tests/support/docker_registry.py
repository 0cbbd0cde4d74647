"""Runs a real `docker-registry`, with plain HTTP or TLS."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.support.tools import clean_environment, find_program, need, run


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
    port = free_port()
    asked = f", clientcas: ['{clients}']" if clients else ""
    secrets = f", tls: {{certificate: '{tls[0]}', key: '{tls[1]}'{asked}}}" if tls else ""
    config = directory / "registry.yml"
    config.write_text(
        "version: 0.1\n"
        f"storage: {{filesystem: {{rootdirectory: '{storage}'}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'{secrets}}}\n{more}"
    )
    # It gets a signal when the tests are killed.
    command = ["setpriv", "--pdeathsig=TERM", find_program("docker-registry") or "", "serve", str(config)]
    with (
        (directory / "registry.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=clean_environment()) as process,
    ):
        try:
            _await_registry(process, f"{'https' if tls else 'http'}://127.0.0.1:{port}/v2/", tls[0] if tls else None)
            yield DockerRegistry(f"127.0.0.1:{port}", storage)
        finally:
            process.terminate()


def _await_registry(process: subprocess.Popen[bytes], url: str, certificate: Path | None) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            answer = requests.get(url, timeout=5, verify=str(certificate) if certificate else True)
            if answer.status_code in (200, 401):
                return
        except requests.exceptions.SSLError:
            return  # it wants a certificate, or has one of an authority
        except requests.ConnectionError:
            time.sleep(0.05)
    pytest.fail(f"docker-registry doesn't answer at {url}; exit status {process.poll()}")


def free_port() -> int:
    """Return a free loopback port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
