"""Descriptors, indexes and manifests (OCI image-spec v1.1, Docker image manifest v2 schema 2)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from provisioner.errors import MalformedImage
from provisioner.image.digest import Digest
from provisioner.image.fields import JsonObject, parse_digest, parse_document, parse_platform
from provisioner.image.keys import INDEX, INDEX_OR_MANIFEST, MANIFEST
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
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
CONFIG_TYPES = (
    OCI_CONFIG,
    DOCKER_CONFIG,
    "application/octet-stream",  # of early Docker versions
)

VAGUE_TYPES = ("", "application/json", "application/octet-stream", "binary/octet-stream", "text/html", "text/plain")
"""Media types without a meaning, which old registries and tools send. The content of the document then decides."""

_ATTESTATION = "attestation-manifest"
"""The value of the annotation `vnd.docker.reference.type` by which buildx marks attestations."""

_NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
"""The annotations with the name of an image in a layout; the second is often its tag alone (image-layout.md)."""

DOCUMENT_LIMIT = 8 << 20
"""The most bytes that an index, a manifest or a config may have."""

LAYERS_LIMIT = 1000
"""The most layers that a manifest may have; real images have at most 127."""


@dataclass(frozen=True)
class Descriptor:
    """A descriptor: what a document states about other content (OCI image-spec, descriptor.md)."""

    media_type: str
    digest: Digest
    size: int  # bytes
    platform: Platform | None = None  # in an index, if it is stated
    names: tuple[str, ...] = ()  # in the index of a layout, if they are stated: the full name before the tag alone

    @classmethod
    def from_json(cls, value: object, where: str) -> Descriptor:
        """Return the descriptor that parsed JSON holds. Raises MalformedImage, which names it as `where`."""
        fields = JsonObject(value, where)
        platform = fields.optional("platform", dict)
        return cls(
            media_type=fields.optional_text("mediaType"),
            digest=parse_digest(fields.text("digest"), f"{where}.digest"),
            size=fields.size("size"),
            platform=None if platform is None else parse_platform(platform, f"{where}.platform"),
        )


@dataclass(frozen=True)
class MalformedEntry:
    """An invalid entry of an index. Its error is raised only if the entry is chosen."""

    error: MalformedImage
    platform: Platform | None = None  # if it is stated


@dataclass(frozen=True)
class Index:
    """An image index, which Docker calls a manifest list."""

    manifests: tuple[Descriptor, ...]
    """Manifests, one for each platform, or further indexes. Attestations are left out."""
    malformed: tuple[MalformedEntry, ...] = ()
    """The invalid entries."""

    @classmethod
    def from_json(cls, data: bytes) -> Index:
        """Return the index that these bytes hold. Raises MalformedImage.

        Entries for attestations, which buildx marks as unknown/unknown, are left out: they aren't images.
        """
        fields = JsonObject(parse_document(data, "index", INDEX), "index")
        entries = [_read_entry(e, f"index.manifests[{i}]") for i, e in enumerate(fields.items("manifests"))]
        return cls(
            tuple(entry for entry in entries if isinstance(entry, Descriptor)),
            tuple(entry for entry in entries if isinstance(entry, MalformedEntry)),
        )


def _names(annotations: object) -> tuple[str, ...]:
    """Return the names of an image in the annotations of a layout's index."""
    values = [annotations.get(key) for key in _NAME_ANNOTATIONS] if isinstance(annotations, dict) else []
    return tuple(dict.fromkeys(value for value in values if isinstance(value, str) and value))


def _read_entry(value: object, where: str) -> Descriptor | MalformedEntry | None:
    """Return an entry of an index; None if it isn't an image, such as an attestation."""
    platform: Platform | None = None
    try:
        fields = JsonObject(value, where)
        if stated := fields.optional("platform", dict):
            platform = parse_platform(stated, f"{where}.platform")
        if platform and "unknown" in (platform.os, platform.architecture):
            return None
        annotations = fields.value.get("annotations")
        if isinstance(annotations, dict) and annotations.get("vnd.docker.reference.type") == _ATTESTATION:
            return None
        if _plain(fields.optional_text("mediaType")) not in INDEX_TYPES + MANIFEST_TYPES + VAGUE_TYPES:
            return None
        return replace(Descriptor.from_json(value, where), names=_names(annotations))
    except MalformedImage as error:
        return MalformedEntry(error, platform)


@dataclass(frozen=True)
class Manifest:
    """An image manifest."""

    config: Descriptor
    layers: tuple[Descriptor, ...]  # from the lowest to the topmost

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Return the manifest that these bytes hold. Raises MalformedImage, also for artifacts such as Helm charts."""
        fields = JsonObject(parse_document(data, "manifest", MANIFEST), "manifest")
        config = Descriptor.from_json(fields.value.get("config"), "manifest.config")
        if _plain(config.media_type) not in CONFIG_TYPES + VAGUE_TYPES:
            what = (fields.optional_text("artifactType") or config.media_type)[:100]
            raise MalformedImage(f"this is not a container image but {what!r}", "name a container image")
        items = fields.items("layers")
        if len(items) > LAYERS_LIMIT:
            raise MalformedImage(f"manifest has {len(items)} layers, {LAYERS_LIMIT} is the most")
        return cls(
            config=config,
            layers=tuple(Descriptor.from_json(layer, f"manifest.layers[{i}]") for i, layer in enumerate(items)),
        )

    @property
    def download_size(self) -> int:
        """Return the size in bytes of all layers as they are downloaded. A blob of several layers counts once."""
        return sum({layer.digest: layer.size for layer in self.layers}.values())


def media_type_of(data: bytes, content_type: str) -> str:
    """Return the media type of an index or a manifest. Raises MalformedImage for any other document.

    The document's `mediaType` decides, then its fields, then the registry's Content-Type: OCI documents may lack their
    type, and some registries serve them as plain JSON. A document that could be both is refused, since clients could
    read it differently (CVE-2021-41190).
    """
    what = "the registry's answer"
    fields = JsonObject(parse_document(data, what, INDEX_OR_MANIFEST), what)
    own, version = fields.optional_text("mediaType"), fields.optional("schemaVersion", int)
    if own in DOCKER_SCHEMA1 or version == 1:
        raise MalformedImage(
            "this image has a manifest of schema 1, which is obsolete since 2017", "ask its owner to push it again"
        )
    is_index, is_manifest = "manifests" in fields.value, "layers" in fields.value or "config" in fields.value
    if version not in (None, 2) or (is_index and is_manifest):
        raise MalformedImage("the registry's answer is neither an index nor a manifest")
    if own in INDEX_TYPES + MANIFEST_TYPES:
        return own
    served = _plain(content_type)
    if _plain(own) in VAGUE_TYPES:
        fitting = INDEX_TYPES if is_index else MANIFEST_TYPES if is_manifest else ()
        if served in fitting or (not fitting and served in INDEX_TYPES + MANIFEST_TYPES):
            return served
        if fitting:
            return fitting[0]
    raise MalformedImage(
        f"this is not an image but {(own or served or 'something else')[:100]!r}", "name a container image"
    )


def _plain(media_type: str) -> str:
    """Return a media type in lower case and without parameters."""
    return media_type.partition(";")[0].strip().lower()
