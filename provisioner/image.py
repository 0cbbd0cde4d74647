"""The documents of an image (OCI image-spec v1.1, Docker image manifest v2 schema 2), made valid by `from_json`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from provisioner.digest import Digest, verify
from provisioner.errors import MalformedImage, doing, printable
from provisioner.platforms import Platform

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
    """What a document says of another piece of content: media type, digest, size in bytes."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None

    @classmethod
    def from_json(cls, value: object, where: str) -> Descriptor:
        """Make a descriptor of parsed JSON; `where` names it in the MalformedImage that is raised."""
        fields = _Fields(value, where)
        platform = fields.optional("platform", dict)
        return cls(
            media_type=fields.text("mediaType"),
            digest=_digest(fields.text("digest"), f"{where}.digest"),
            size=fields.size("size"),
            platform=None if platform is None else _platform(platform, f"{where}.platform"),
        )


@dataclass(frozen=True)
class Index:
    """An image index or manifest list: a manifest for each platform, without attestations."""

    manifests: tuple[Descriptor, ...]

    @classmethod
    def from_json(cls, data: bytes) -> Index:
        """Make an index of its bytes. Raises MalformedImage.

        Attestations (buildx marks them as unknown/unknown) describe an image and are none themselves.
        """
        fields = _Fields(_document(data, "index"), "index")
        entries = [Descriptor.from_json(e, f"index.manifests[{i}]") for i, e in enumerate(fields.items("manifests"))]
        images = [e for e in entries if e.media_type in INDEX_TYPES + MANIFEST_TYPES]
        return cls(tuple(e for e in images if e.platform is None or e.platform.architecture != "unknown"))


@dataclass(frozen=True)
class Manifest:
    """An image manifest: the config and the layers, from the lowest to the topmost."""

    config: Descriptor
    layers: tuple[Descriptor, ...]

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Make a manifest of its bytes. Raises MalformedImage, also for what is no container image (a Helm chart…)."""
        fields = _Fields(_document(data, "manifest"), "manifest")
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


@dataclass(frozen=True)
class ImageConfig:
    """What an image says of itself (OCI image-spec, config.md). Texts hold no NUL and are valid Unicode."""

    platform: Platform
    diff_ids: tuple[Digest, ...]
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    stop_signal: str = ""
    ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    created: str = ""

    @classmethod
    def from_json(cls, data: bytes) -> ImageConfig:
        """Make a config of its bytes. Raises MalformedImage."""
        fields = _Fields(_document(data, "config"), "config")
        rootfs = _Fields(fields.value.get("rootfs"), "config.rootfs")
        run = _Fields(fields.optional("config", dict) or {}, "config.config")
        labels = _Fields(run.optional("Labels", dict) or {}, "config.config.Labels")
        return cls(
            platform=_platform(fields.value, "config"),
            diff_ids=tuple(
                _digest(text, f"config.rootfs.diff_ids[{i}]") for i, text in enumerate(rootfs.texts("diff_ids"))
            ),
            entrypoint=run.texts("Entrypoint"),
            command=run.texts("Cmd"),
            env=tuple(variable for variable in run.texts("Env") if variable.find("=") > 0),  # a bare NAME sets nothing
            working_dir=run.optional_text("WorkingDir"),
            user=run.optional_text("User"),
            stop_signal=run.optional_text("StopSignal"),
            ports=run.keys("ExposedPorts"),
            volumes=run.keys("Volumes"),
            labels=tuple((name, labels.optional_text(name)) for name in run.keys("Labels")),
            created=fields.optional_text("created"),
        )


@dataclass(frozen=True)
class Layer:
    """One layer: the blob as it is served, and the digest of the archive inside."""

    blob: Descriptor
    diff_id: Digest


@dataclass(frozen=True)
class Image:
    """An image for one platform, all documents verified, with the bytes that the registry served.

    `digest` is the manifest's, `index_digest` that of the index which led to it (None where there was none).
    """

    digest: Digest
    index_digest: Digest | None
    manifest: Manifest
    manifest_bytes: bytes
    config: ImageConfig
    config_bytes: bytes

    @classmethod
    def from_documents(
        cls,
        manifest_bytes: bytes,
        config_bytes: bytes,
        index_digest: Digest | None = None,
        platform: Platform | None = None,
    ) -> Image:
        """Put an image together. Raises MalformedImage where manifest and config don't belong together.

        `platform` is what the index says. It wins over the config, where the variant of arm is often missing.
        """
        manifest = Manifest.from_json(manifest_bytes)
        verify(config_bytes, manifest.config.digest, manifest.config.size, "config")
        config = ImageConfig.from_json(config_bytes)
        if len(config.diff_ids) != len(manifest.layers):
            counts = f"{len(manifest.layers)} layers and the config {len(config.diff_ids)}"
            raise MalformedImage(f"the manifest has {counts}")
        config = replace(config, platform=platform or config.platform)
        return cls(Digest.of(manifest_bytes), index_digest, manifest, manifest_bytes, config, config_bytes)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, from the lowest to the topmost."""
        return tuple(
            Layer(blob, diff_id) for blob, diff_id in zip(self.manifest.layers, self.config.diff_ids, strict=True)
        )


def media_type_of(data: bytes, content_type: str) -> str:
    """The media type of an index or a manifest. Raises MalformedImage when it is neither.

    The document's own `mediaType` decides, then the registry's Content-Type, then its shape, because OCI
    documents needn't name their type and some registries serve them as plain JSON. A document that could be read
    as either is refused: registries may not agree on which one it is (CVE-2021-41190).
    """
    fields = _Fields(_document(data, "the registry's answer"), "the registry's answer")
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


def _document(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object in `data`, whose strings are all valid Unicode."""
    try:
        value = json.loads(data.decode())
        if not isinstance(value, dict):
            raise MalformedImage(f"{what} is not a JSON object")
        json.dumps(value, ensure_ascii=False).encode()  # lone surrogates, which JSON can spell, stop here
    except (ValueError, RecursionError) as error:
        raise MalformedImage(f"{what} is not JSON: {printable(str(error)[:200])}") from None
    return value


def _digest(text: str, where: str) -> Digest:
    with doing(where):
        return Digest.parse(text)


def _platform(value: Mapping[str, Any], where: str) -> Platform:
    fields = _Fields(value, where)
    words = (fields.text("os"), fields.text("architecture"), fields.optional_text("variant"))
    for word in words:
        if not re.fullmatch(r"[A-Za-z0-9._+-]{0,64}", word):
            raise MalformedImage(f"{where} has {word[:100]!r}, which names no platform")
    return Platform(*words)


T = TypeVar("T")

_NAMES = {dict: "an object", list: "a list", str: "a text", int: "a whole number", float: "a number", bool: "a boolean"}


class _Fields:
    """A JSON object whose fields are taken out with their types checked."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise MalformedImage(f"{where} is {'missing' if value is None else 'not a JSON object'}")
        self.value: dict[str, Any] = value
        self._where = where

    def optional(self, key: str, kind: type[T]) -> T | None:
        found = self.value.get(key)
        if found is None or (isinstance(found, kind) and not isinstance(found, bool)):
            return found
        raise MalformedImage(f"{self._where}.{key} is {_NAMES[type(found)]}, not {_NAMES[kind]}")

    def text(self, key: str) -> str:
        found = self.optional_text(key)
        if not found:
            raise MalformedImage(f"{self._where}.{key} is missing")
        return found

    def optional_text(self, key: str) -> str:
        found = self.optional(key, str) or ""
        if "\0" in found:
            raise MalformedImage(f"{self._where}.{key} contains a NUL")
        return found

    def size(self, key: str) -> int:
        found = self.optional(key, int)
        if found is None:
            raise MalformedImage(f"{self._where}.{key} is missing")
        if not 0 <= found < 1 << 63:
            raise MalformedImage(f"{self._where}.{key} is not a number of bytes")
        return found

    def items(self, key: str) -> list[Any]:
        found = self.optional(key, list)
        if found is None:
            raise MalformedImage(f"{self._where}.{key} is missing")
        return found

    def keys(self, key: str) -> tuple[str, ...]:
        """The names in an object that is used as a set, in order."""
        found = self.optional(key, dict) or {}
        if any("\0" in name for name in found):
            raise MalformedImage(f"{self._where}.{key} contains a NUL")
        return tuple(sorted(found))

    def texts(self, key: str) -> tuple[str, ...]:
        found = self.optional(key, list) or []
        for item in found:
            if not isinstance(item, str):
                raise MalformedImage(f"{self._where}.{key} holds {_NAMES.get(type(item), 'null')}, not texts")
            if "\0" in item:
                raise MalformedImage(f"{self._where}.{key} contains a NUL")
        return tuple(found)
