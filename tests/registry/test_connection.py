"""The heads of responses: how many headers, and how large ones, are read."""

from __future__ import annotations

import pytest

from provisioner.errors import NetworkError
from provisioner.image.digest import Digest
from provisioner.image.manifest import Descriptor
from provisioner.image.reference import Reference
from provisioner.registry.client import RegistryClient
from provisioner.registry.connection import MAX_HEADERS
from provisioner.registry.retry import TransientError
from tests.support import builders
from tests.support.scripted_registry import Raw, ScriptedRegistry

IMAGE = builders.small()
MANIFEST = "/v2/x/manifests/latest"
OWN = (
    f"Content-Type: {builders.OCI_MANIFEST}\r\nContent-Length: {len(IMAGE.manifest)}\r\nConnection: close\r\n".encode()
)


@pytest.fixture
def registry(registry: ScriptedRegistry) -> ScriptedRegistry:
    registry.push("x", IMAGE)
    return registry


def with_headers(*headers: bytes) -> Raw:
    """Return the manifest, behind these headers and a few of its own."""
    return Raw(200, pieces=[b"HTTP/1.1 200 OK\r\n" + b"".join(headers) + OWN + b"\r\n", IMAGE.manifest])


def read(registry: ScriptedRegistry) -> bytes:
    return RegistryClient(Reference.parse(f"{registry.host}/x")).manifest("latest").data


@pytest.mark.parametrize(
    "headers",
    [
        [b"X-%d: y\r\n" % number for number in range(MAX_HEADERS - 10)],
        [b"X-Hop: y\r\n"] * 150,
        [b"X: " + b"y" * 60_000 + b"\r\n"] * 10,
        [b"X: folded\r\n " + b"y" * 1000 + b"\r\n"] * 200,
    ],
    ids=["many", "the same", "large", "folded"],
)
def test_more_headers_than_python_reads_by_itself(registry: ScriptedRegistry, headers: list[bytes]) -> None:
    """As from a registry behind several proxies. Go's limit is a size alone."""
    registry.on(MANIFEST, with_headers(*headers))
    assert read(registry) == IMAGE.manifest
    registry.on("/v2/", with_headers(*headers))
    assert read(registry) == IMAGE.manifest


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ([b"X-%d: y\r\n" % number for number in range(MAX_HEADERS + 10)], "got more than 1000 headers"),
        ([b"X: " + b"y" * 70_000 + b"\r\n"], "got more than 65536 bytes when reading header line"),
        ([b"X: " + b"y" * 60_000 + b"\r\n"] * 20, "headers of more than 1 MiB"),
        ([b"X: folded\r\n"] + [b" " + b"y" * 60_000 + b"\r\n"] * 20, "headers of more than 1 MiB"),
    ],
)
def test_a_head_has_an_end(registry: ScriptedRegistry, headers: list[bytes], why: str) -> None:
    """It is said at once, since another try would get the same."""
    for path in (MANIFEST, "/v2/"):
        registry.on(path, with_headers(*headers))
        with pytest.raises(NetworkError, match=f"^{registry.host} sends too much before its content: {why}$") as caught:
            read(registry)
        assert not isinstance(caught.value, TransientError)
        assert caught.value.hint == "tell the registry's owner"


def test_answers_before_the_answer_count_too(registry: ScriptedRegistry) -> None:
    registry.on(MANIFEST, Raw(200, pieces=[b"HTTP/1.1 100 Continue\r\nX: " + b"y" * 60_000 + b"\r\n\r\n"] * 20))
    with pytest.raises(NetworkError, match="headers of more than 1 MiB"):
        read(registry)


def test_an_image_of_many_blobs_is_no_head(registry: ScriptedRegistry) -> None:
    """The limit is for one head, and starts anew behind content."""
    content = [builders.incompressible(300_000, number) for number in range(5)]
    digests = [registry.add_blob("x", data) for data in content]
    client = RegistryClient(Reference.parse(f"{registry.host}/x"))
    for digest, data in zip(digests, content, strict=True):
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: " + b"y" * 60_000 + b"\r\n\r\n"
        chunks = [b"%x\r\n%s\r\n" % (len(data[at : at + 10]), data[at : at + 10]) for at in range(0, len(data), 10)]
        registry.on(f"/v2/x/blobs/{digest}", Raw(200, pieces=[head, b"".join(chunks), b"0\r\n\r\n"]))
        assert b"".join(client.blob(Descriptor("", Digest.parse(digest), len(data)))) == data
