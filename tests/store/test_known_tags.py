"""What tags named when they were last asked for."""

from __future__ import annotations

from pathlib import Path

from provisioner.image.digest import Digest
from provisioner.image.manifest import OCI_MANIFEST
from provisioner.image.reference import Reference
from provisioner.store.known_tags import KnownTag, KnownTags
from tests.support import builders

IMAGE = builders.small()
DIGEST = Digest.of(IMAGE.manifest)
REFERENCE = Reference.parse("r.example/user/x:latest")


def test_a_known_tag_is_of_one_reference(tmp_path: Path) -> None:
    known_tags = KnownTags(tmp_path / "cache")
    known_tags.save(REFERENCE, KnownTag(DIGEST, OCI_MANIFEST))
    assert known_tags.find(REFERENCE) == (DIGEST, OCI_MANIFEST)
    assert known_tags.find(Reference.parse("r.example/user/x:other")) is None
    [file] = (tmp_path / "cache/tags").iterdir()
    for content in (
        b"",
        b"[]",
        b'{"reference": "r.example/user/x:latest", "mediaType": "", "digest": "x"}',
        b"[" * 9999,
    ):
        file.write_bytes(content)
        assert known_tags.find(REFERENCE) is None
