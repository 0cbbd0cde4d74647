"""Documents by way of the cache: tags are asked for each time, what they name is fetched once."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.errors import MalformedImage, NetworkError, NotFound
from provisioner.image.digest import Digest
from provisioner.image.manifest import OCI_MANIFEST, Descriptor
from provisioner.image.reference import Reference
from provisioner.registry.client import Document, RegistryClient
from provisioner.store.blobs import BlobCache
from provisioner.store.documents import Documents, Kept
from scripts.loopback_registry import Response
from tests.support import builders
from tests.support.scripted_registry import ScriptedRegistry

MANIFESTS = "/v2/user/x/manifests/.*"
IMAGE, OTHER = builders.small(), builders.small(run={"User": "other"})
DIGEST = Digest.of(IMAGE.manifest)
NAMED = Descriptor(OCI_MANIFEST, DIGEST, len(IMAGE.manifest))
REFERENCE = Reference.parse("r.example/user/x:latest")


@pytest.fixture
def registry(registry: ScriptedRegistry) -> ScriptedRegistry:
    registry.push("user/x", IMAGE)
    return registry


@pytest.fixture
def documents(tmp_path: Path) -> Documents:
    return Documents(BlobCache(tmp_path / "cache"), tmp_path / "cache")


@pytest.fixture
def kept(registry: ScriptedRegistry, documents: Documents) -> Kept:
    reference = Reference.parse(f"{registry.host}/user/x")
    return Kept(reference, RegistryClient(reference), documents)


def methods(registry: ScriptedRegistry) -> list[str]:
    """The methods by which manifests were asked for."""
    return [request.method for request in registry.asked(MANIFESTS)]


def test_a_tag_is_asked_for_each_time_and_its_document_once(registry: ScriptedRegistry, kept: Kept) -> None:
    assert [kept.manifest("latest").data for _ in range(3)] == [IMAGE.manifest] * 3
    assert methods(registry) == ["GET", "HEAD", "HEAD"]
    registry.push("user/x", OTHER)
    assert kept.manifest("latest").data == OTHER.manifest
    assert methods(registry)[3:] == ["HEAD", "GET"]
    assert kept.manifest("latest").data == OTHER.manifest
    assert methods(registry)[5:] == ["HEAD"]


def test_a_registry_that_refuses_head(registry: ScriptedRegistry, kept: Kept) -> None:
    kept.manifest("latest")
    registry.push("user/x", OTHER)
    registry.on(MANIFESTS, lambda request: Response(403) if request.method == "HEAD" else None)
    assert kept.manifest("latest").data == OTHER.manifest


def test_a_cached_tag_is_not_taken_for_fresh_when_the_registry_is_down(registry: ScriptedRegistry, kept: Kept) -> None:
    kept.manifest("latest")
    registry.on(MANIFESTS, Response(500))
    with pytest.raises(NetworkError, match="answers with 500"):
        kept.manifest("latest")


def test_a_digest_is_asked_for_once(registry: ScriptedRegistry, kept: Kept) -> None:
    for selector in (NAMED, str(DIGEST), NAMED):
        document = kept.manifest(selector)
        assert (document.data, document.media_type, document.digest) == (IMAGE.manifest, OCI_MANIFEST, DIGEST)
    assert len(registry.asked(MANIFESTS)) == 1


def test_what_a_tag_named_serves_its_digest(registry: ScriptedRegistry, kept: Kept) -> None:
    kept.manifest("latest")
    kept.manifest(NAMED)
    assert len(registry.asked(MANIFESTS)) == 1


def test_a_damaged_document_is_fetched_again(registry: ScriptedRegistry, kept: Kept, tmp_path: Path) -> None:
    kept.manifest(NAMED)
    path = tmp_path / "cache/sha256" / DIGEST.hex
    path.write_bytes(IMAGE.manifest[:-1] + b" ")
    assert kept.manifest(NAMED).data == IMAGE.manifest
    assert path.read_bytes() == IMAGE.manifest
    assert len(registry.asked(MANIFESTS)) == 2


def test_what_a_killed_run_left_of_a_document_is_no_obstacle(kept: Kept, tmp_path: Path) -> None:
    partial = tmp_path / "cache/partial" / DIGEST.hex
    partial.parent.mkdir(parents=True)
    for left in (IMAGE.manifest[:9], b"something else"):
        partial.write_bytes(left)
        assert kept.manifest("latest").data == IMAGE.manifest
        assert not partial.exists()
        assert (tmp_path / "cache/sha256" / DIGEST.hex).read_bytes() == IMAGE.manifest
        (tmp_path / "cache/sha256" / DIGEST.hex).unlink()


def test_a_size_that_is_a_lie(kept: Kept) -> None:
    kept.manifest(NAMED)
    with pytest.raises(MalformedImage, match="5 were announced"):
        kept.manifest(Descriptor(OCI_MANIFEST, DIGEST, 5))


def test_nothing_is_kept_of_what_is_refused(registry: ScriptedRegistry, kept: Kept, tmp_path: Path) -> None:
    registry.on(MANIFESTS, Response(200, OTHER.manifest, {"Content-Type": OCI_MANIFEST}))
    with pytest.raises(MalformedImage):
        kept.manifest(NAMED)
    registry.on(MANIFESTS, Response.error(404, "MANIFEST_UNKNOWN", "no"))
    with pytest.raises(NotFound):
        kept.manifest("latest")
    assert not (tmp_path / "cache").exists()


def test_a_note_is_of_one_reference(documents: Documents, tmp_path: Path) -> None:
    document = Document(IMAGE.manifest, OCI_MANIFEST, DIGEST)
    documents.note(REFERENCE, document)
    assert documents.noted(REFERENCE) == (DIGEST, OCI_MANIFEST)
    assert documents.noted(Reference.parse("r.example/user/x:other")) is None
    [note] = (tmp_path / "cache/tags").iterdir()
    for content in (
        b"",
        b"[]",
        b'{"reference": "r.example/user/x:latest", "mediaType": "", "digest": "x"}',
        b"[" * 9999,
    ):
        note.write_bytes(content)
        assert documents.noted(REFERENCE) is None


def test_a_cache_that_cant_be_written_is_no_reason_to_fail(registry: ScriptedRegistry, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    reference = Reference.parse(f"{registry.host}/user/x")
    documents = Documents(BlobCache(tmp_path / "cache"), tmp_path / "cache")
    assert Kept(reference, RegistryClient(reference), documents).manifest("latest").data == IMAGE.manifest
