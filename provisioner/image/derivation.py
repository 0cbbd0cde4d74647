"""Makes an image from another one: adds a layer, or replaces all layers by one, and changes the config."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from provisioner.image.config_changes import ConfigChange, apply_changes
from provisioner.image.digest import Digest
from provisioner.image.image import Image
from provisioner.image.manifest import DOCKER_CONFIG, DOCKER_MANIFEST, OCI_CONFIG, OCI_MANIFEST, Descriptor, Manifest

_TYPES = {
    "application/vnd.oci.image.layer.v1.tar": "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip": "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd": "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": (
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    ),
}
"""OCI's media types of layers, each with Docker's."""
_OCI_TYPES = {docker: oci for oci, docker in _TYPES.items()}
_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
BASE_NAME, _BASE_DIGEST = "org.opencontainers.image.base.name", "org.opencontainers.image.base.digest"
"""The annotations about the image that another one was made from (image-spec, annotations.md)."""


@dataclass(frozen=True)
class AddedLayer:
    """A layer to be added: a tar archive, compressed as gzip."""

    digest: Digest
    size: int
    diff_id: Digest


@dataclass(frozen=True)
class Derivation:
    """The difference between an image and the one from which it is made."""

    layer: AddedLayer | None
    """The layer to add; None if no file differs."""
    squash: bool
    """Whether the layer replaces all layers, instead of being added as the topmost one."""
    changes: Sequence[ConfigChange]
    comment: str
    created: int
    """In seconds since 1970."""
    base_name: str
    """The reference of the other image; empty if that isn't an image of a registry."""


@dataclass(frozen=True)
class DerivedImage:
    """The documents of an image that was made here."""

    manifest: bytes
    media_type: str
    """The media type of the manifest."""
    config: bytes
    config_descriptor: Descriptor
    layers: tuple[Descriptor, ...]
    """From the lowest to the topmost."""
    platform: dict[str, str]
    """The object `platform` for an index."""

    @property
    def descriptor(self) -> Descriptor:
        """Return the descriptor of the manifest."""
        return Descriptor(self.media_type, Digest.of(self.manifest), len(self.manifest))


def derive(image: Image, derivation: Derivation, *, only_oci: bool) -> DerivedImage:
    """Return an image made from `image` as `derivation` says, in the same format, or with `only_oci` in OCI's.

    Without a layer and changes, the documents are those of `image`, if the format is the same. Raises UsageError for an
    invalid change.
    """
    is_docker = image.manifest.config.media_type == DOCKER_CONFIG
    base = json.loads(image.manifest_bytes)
    is_same = derivation.layer is None and not derivation.changes and not derivation.squash
    config = image.config_bytes if is_same else _config(image, derivation)
    platform = {"architecture": image.config.platform.architecture, "os": image.config.platform.os}
    if image.config.platform.variant:
        platform["variant"] = image.config.platform.variant
    own = base.get("mediaType") or ("" if is_docker else OCI_MANIFEST)  # OCI's may lack it
    if is_same and not (only_oci and is_docker) and own in (DOCKER_MANIFEST, OCI_MANIFEST):
        return DerivedImage(image.manifest_bytes, own, config, image.manifest.config, image.manifest.layers, platform)
    is_docker = is_docker and not only_oci
    described = _describe(DOCKER_CONFIG if is_docker else OCI_CONFIG, Digest.of(config), len(config))
    layers = [] if derivation.squash else [_in_format(layer, is_docker) for layer in base["layers"]]
    if derivation.layer:
        added = _describe(_GZIP, derivation.layer.digest, derivation.layer.size)
        layers.append(_in_format(added, is_docker))
    media_type = DOCKER_MANIFEST if is_docker else OCI_MANIFEST
    manifest: dict[str, Any] = {"schemaVersion": 2, "mediaType": media_type, "config": described, "layers": layers}
    if not is_docker and (annotations := _annotations(base, image, derivation, is_same)):
        manifest["annotations"] = annotations
    data = _to_json(manifest)
    parsed = Manifest.from_json(data)
    return DerivedImage(data, media_type, config, parsed.config, parsed.layers, platform)


def _config(image: Image, derivation: Derivation) -> bytes:
    """Return the config of the new image: all fields of the other one, with the changes, diff_id and history entry."""
    config = json.loads(image.config_bytes)
    platform, created = image.config.platform, _date(derivation.created)
    config |= {"architecture": platform.architecture, "os": platform.os}
    if platform.variant:
        config["variant"] = platform.variant
    config["created"] = created
    config["config"] = apply_changes(config.get("config") or {}, derivation.changes)
    diff_ids = [] if derivation.squash else list(config["rootfs"]["diff_ids"])
    history = _history(config.get("history"), 0 if derivation.squash else len(diff_ids), derivation.squash)
    entry: dict[str, Any] = {"created": created, "created_by": _created_by(derivation)}
    if derivation.comment:
        entry["comment"] = derivation.comment
    if derivation.layer:
        diff_ids.append(str(derivation.layer.diff_id))
    else:
        entry["empty_layer"] = True
    config["rootfs"] = {"type": "layers", "diff_ids": diff_ids}
    config["history"] = [*history, entry]
    return _to_json(config)


def _created_by(derivation: Derivation) -> str:
    words = ["provision export", *(["--squash"] if derivation.squash else [])]
    return " ".join([*words, *(f"--change '{change.name} {change.value}'" for change in derivation.changes)])


def _history(history: Any, layers: int, squash: bool) -> list[Any]:
    """Return the other image's history with exactly one non-empty entry for each of `layers` (image-spec,
    config.md)."""
    entries = [dict(entry) for entry in history if isinstance(entry, dict)] if isinstance(history, list) else []
    if squash:
        return [{**entry, "empty_layer": True} for entry in entries]
    full = [entry for entry in entries if not entry.get("empty_layer")]
    for entry in full[layers:]:
        entry["empty_layer"] = True
    return entries + [{"comment": "a layer that the history of the image lacks"}] * (layers - len(full))


def _annotations(base: Any, image: Image, derivation: Derivation, is_same: bool) -> dict[str, str]:
    found = base.get("annotations")
    annotations = {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}
    if derivation.base_name and not derivation.squash and not is_same:
        annotations |= {BASE_NAME: derivation.base_name, _BASE_DIGEST: str(image.digest)}
    return annotations


def _describe(media_type: str, digest: Digest, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(digest), "size": size}


def _in_format(layer: dict[str, Any], is_docker: bool) -> dict[str, Any]:
    """Return the descriptor with its media type translated to Docker's or OCI's format."""
    own = str(layer.get("mediaType", ""))
    return {**layer, "mediaType": (_TYPES if is_docker else _OCI_TYPES).get(own, own)}


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _to_json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
