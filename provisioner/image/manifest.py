"""Descriptors, indexes and manifests (OCI image-spec v1.1, Docker image manifest v2 schema 2)."""

from __future__ import annotations

from dataclasses import dataclass

from provisioner.errors import MalformedImage
from provisioner.image.digest import Digest
from provisioner.image.fields import JsonObject, parse_digest, parse_document, parse_platform
from provisioner.image.platform import Platform

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_SCHEMA1 = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)
INDEX_TYPES = (OCI_INDEX, DOCKER_LIST)
MANIFEST_TYPES = (OCI_MANIFEST, DOCKER_MANIFEST)
CONFIG_TYPES = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    "application/octet-stream",  # of early Docker versions
)

DOCUMENT_LIMIT = 8 << 20
"""The most bytes that an index, a manifest or a config may have."""

LAYERS_LIMIT = 1000
"""The most layers that a manifest may have; real images have at most 127."""


@dataclass(frozen=True)
class Descriptor:
    """What a document states about other content (OCI image-spec, descriptor.md)."""

    media_type: str
    digest: Digest
    size: int  # bytes
    platform: Platform | None = None  # in an index, where it is stated

    @classmethod
    def from_json(cls, value: object, where: str) -> Descriptor:
        """Return the descriptor that parsed JSON holds. Raises MalformedImage, which names it as `where`."""
        fields = JsonObject(value, where)
        platform = fields.optional("platform", dict)
        return cls(
            media_type=fields.text("mediaType"),
            digest=parse_digest(fields.text("digest"), f"{where}.digest"),
            size=fields.size("size"),
            platform=None if platform is None else parse_platform(platform, f"{where}.platform"),
        )


@dataclass(frozen=True)
class Index:
    """An image index, which Docker calls a manifest list."""

    manifests: tuple[Descriptor, ...]
    """Manifests, one a platform, or further indexes. Attestations are left out."""

    @classmethod
    def from_json(cls, data: bytes) -> Index:
        """Return the index that these bytes hold. Raises MalformedImage.

        Entries for attestations, which buildx marks as unknown/unknown, are left out: they aren't images.
        """
        fields = JsonObject(parse_document(data, "index"), "index")
        entries = [Descriptor.from_json(e, f"index.manifests[{i}]") for i, e in enumerate(fields.items("manifests"))]
        images = [e for e in entries if e.media_type in INDEX_TYPES + MANIFEST_TYPES]
        return cls(tuple(e for e in images if e.platform is None or e.platform.architecture != "unknown"))


@dataclass(frozen=True)
class Manifest:
    """An image manifest."""

    config: Descriptor
    layers: tuple[Descriptor, ...]  # from the lowest to the topmost

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Return the manifest that these bytes hold. Raises MalformedImage, also for artifacts such as Helm charts."""
        fields = JsonObject(parse_document(data, "manifest"), "manifest")
        config = Descriptor.from_json(fields.value.get("config"), "manifest.config")
        if config.media_type not in CONFIG_TYPES:
            what = (fields.optional_text("artifactType") or config.media_type)[:100]
            raise MalformedImage(f"this is no container image but {what!r}", "name a container image")
        items = fields.items("layers")
        if len(items) > LAYERS_LIMIT:
            raise MalformedImage(f"manifest has {len(items)} layers, {LAYERS_LIMIT} is the most")
        return cls(
            config=config,
            layers=tuple(Descriptor.from_json(layer, f"manifest.layers[{i}]") for i, layer in enumerate(items)),
        )


def media_type_of(data: bytes, content_type: str) -> str:
    """Return the media type of an index or a manifest. Raises MalformedImage for other documents.

    The document's own `mediaType` decides, then the registry's Content-Type, then the fields that it has: OCI documents
    need not name their type, and some registries serve them as plain JSON. A document that could be both is refused,
    since clients would not agree on what it is (CVE-2021-41190).
    """
    fields = JsonObject(parse_document(data, "the registry's answer"), "the registry's answer")
    own, version = fields.optional_text("mediaType"), fields.optional("schemaVersion", int)
    served = content_type.partition(";")[0].strip()
    if own in DOCKER_SCHEMA1 or version == 1:
        raise MalformedImage(
            "this image has a manifest of schema 1, which was given up in 2017", "ask its owner to push it again"
        )
    is_index, is_manifest = "manifests" in fields.value, "layers" in fields.value or "config" in fields.value
    if version not in (None, 2) or (is_index and is_manifest):
        raise MalformedImage("the registry's answer is neither an index nor a manifest")
    for media_type in (own, "" if own else served):
        if media_type in INDEX_TYPES + MANIFEST_TYPES:
            return media_type
    if not own and (is_index or is_manifest):
        return OCI_INDEX if is_index else OCI_MANIFEST
    raise MalformedImage(
        f"this is not an image but {(own or served or 'something else')[:100]!r}", "name a container image"
    )
