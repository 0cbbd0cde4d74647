"""Fixtures of the tests of registries."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.support.credential_helpers import MakeHelper


@pytest.fixture
def make_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeHelper:
    """A function that puts a shell script on PATH as docker-credential-test, and returns its path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("KEPT", str(tmp_path / "kept"))

    def make(script: str) -> Path:
        path = folder / "docker-credential-test"
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The addresses of host names, to be added; other names have their own."""
    known: dict[str, str] = {}
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest: real(known.get(host, host), *rest))
    return known
