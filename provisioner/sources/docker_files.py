"""Images of a docker-archive: `manifest.json` names the files of configs and layers, by paths and not by digests."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from provisioner.archives.compression import compression_of
from provisioner.errors import MalformedImage, NotFound, error_context, machine_errors
from provisioner.filesystem.descriptors import closing_descriptor
from provisioner.image.digest import Digest, verify
from provisioner.image.fields import JsonObject
from provisioner.image.image import Image
from provisioner.image.keys import Fields, make_object, refuse_ambiguous_keys
from provisioner.image.manifest import DOCKER_MANIFEST, LAYERS_LIMIT
from provisioner.image.platform import Platform, choose
from provisioner.sources.choices import NamedImage, choose_image
from provisioner.sources.detection import Format
from provisioner.sources.local import LOCK_AGAIN, FoundImage
from provisioner.sources.members import Member, Members, normal_name, read_member, read_range
from provisioner.terminal.escaping import printable

MANIFEST = "manifest.json"
_CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
_LAYER_TYPE = "application/vnd.docker.image.rootfs.diff.tar"
_FIELDS: Fields = {"Config": {}, "RepoTags": {}, "Layers": {}}
"""The fields of an entry in manifest.json."""
_HEAD = 6
"""The bytes of a layer that its compression is recognised by."""


@dataclass(frozen=True)
class _Entry:
    """An image in manifest.json."""

    config: str
    layers: tuple[str, ...]


class DockerFiles:
    """The images of the docker-archive in `members`. `word` names the archive, `choice` one of its images."""

    def __init__(self, members: Members, word: str, choice: str) -> None:
        self._members = members
        self._word = word
        self._choice = choice

    def platforms(self) -> tuple[Platform, ...]:
        """Return the platform of the chosen image. Raises as `image` does."""
        with error_context(self._word):
            image = self._build(self._chosen(None, None), None)[0]
        return (image.config.platform,)

    def image(self, platform: Platform, manifest: Digest | None = None) -> FoundImage:
        """Return the chosen image, if it is for `platform`, with a manifest that is made here.

        Without a choice, the digest of the manifest chooses among several images. Raises NotFound, UsageError,
        MalformedImage and MachineError.
        """
        entry = self._chosen(platform, manifest)
        with error_context(self._word):
            image, layers = self._build(entry, platform)
        choose([(image.config.platform, image)], platform, self._word)
        assumed = f"{self._word} doesn't say which machines it is for: {image.config.platform} is assumed"
        what = "by the digests in the archive, of its layers and its config"
        if not _digest_in(entry.config):
            what = "by the digests in the archive, of its layers but not of its config"
        return FoundImage(
            image,
            layers,
            what,
            has_blob_digests=False,
            assumptions=() if image.config.states_platform else (assumed,),
        )

    def _chosen(self, platform: Platform | None, manifest: Digest | None) -> _Entry:
        with error_context(self._word):
            images = self._entries()
        if manifest is None or self._choice or len(images) < 2:
            return choose_image(images, self._choice, self._word)
        for image in images:
            with suppress(MalformedImage):
                if self._build(image.value, platform)[0].digest == manifest:
                    return image.value
        raise NotFound(f"{self._word} has no image {manifest!s:.19}, which is locked", LOCK_AGAIN)

    def _entries(self) -> list[NamedImage[_Entry]]:
        """Return the images that manifest.json lists. Raises MalformedImage."""
        if (data := read_member(self._members, MANIFEST)) is not None:
            return _read_entries(data)
        if self._members.find("repositories") is None:
            raise MalformedImage(f"it has no {MANIFEST}, so it is no docker-archive", "name it by its path alone")
        raise MalformedImage(
            f"it is {Format.OLD_DOCKER.value}, which names no layers and no digests",
            "load it with Docker and save it again: docker load -i FILE, then docker save -o NEW IMAGE",
        )

    def _build(self, entry: _Entry, assumed: Platform | None) -> tuple[Image, tuple[Member, ...]]:
        """Return the image of an entry, and the files of its layers."""
        config_name = _inside(entry.config, "Config")
        config = read_member(self._members, config_name)
        if config is None:
            raise MalformedImage(f"the config {printable(config_name)} is missing")
        if digest := _digest_in(entry.config):
            verify(config, digest, None, f"the config {printable(config_name)}")
        layers = tuple(self._layer(path, number) for number, path in enumerate(entry.layers))
        diff_ids = _diff_ids(config)
        if len(diff_ids) != len(layers):
            raise MalformedImage(f"{MANIFEST} has {len(layers)} layers and the config {len(diff_ids)}")
        descriptors = [self._descriptor(member, diff_id) for member, diff_id in zip(layers, diff_ids, strict=True)]
        document = {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": {"mediaType": _CONFIG_TYPE, "size": len(config), "digest": str(Digest.of(config))},
            "layers": descriptors,
        }
        return Image.from_documents(json.dumps(document, indent=3).encode(), config, assumed=assumed), layers

    def _layer(self, path: str, number: int) -> Member:
        name = _inside(path, f"Layers[{number}]")
        member = self._members.find(name)
        if member is None:
            raise MalformedImage(f"layer {number + 1}, {printable(name)}, is missing")
        return member

    def _descriptor(self, member: Member, diff_id: str) -> dict[str, Any]:
        """Return the descriptor of a layer in the manifest. Its digest is the diff_id, compressed or not."""
        with (
            closing_descriptor(self._members.open(member)) as file,
            machine_errors(f"read {printable(member.name)}"),
        ):
            compression = compression_of(read_range(file, member, _HEAD))
        suffix = f".{compression}" if compression else ""
        return {"mediaType": _LAYER_TYPE + suffix, "size": member.size, "digest": diff_id}


def _read_entries(data: bytes) -> list[NamedImage[_Entry]]:
    """Return the images that manifest.json lists. Raises MalformedImage."""
    try:
        value = json.loads(data, object_pairs_hook=make_object)
    except (ValueError, RecursionError) as error:
        raise MalformedImage(f"{MANIFEST} is not JSON: {printable(str(error)[:200])}") from None
    refuse_ambiguous_keys(value, _FIELDS, MANIFEST)
    if not isinstance(value, list):
        raise MalformedImage(f"{MANIFEST} is not a list of images")
    entries = []
    for number, item in enumerate(value):
        fields = JsonObject(item, f"{MANIFEST}[{number}]")
        layers = fields.texts("Layers")
        if len(layers) > LAYERS_LIMIT:
            raise MalformedImage(f"{MANIFEST}[{number}] has {len(layers)} layers, {LAYERS_LIMIT} is the most")
        entries.append(NamedImage(_Entry(fields.text("Config"), layers), fields.texts("RepoTags")))
    return entries


def _diff_ids(config: bytes) -> tuple[str, ...]:
    """Return the texts of a config's diff_ids; what they have to be is checked when the image is made."""
    try:
        value = json.loads(config)
    except (ValueError, RecursionError):
        value = None
    rootfs = value.get("rootfs") if isinstance(value, dict) else None
    return JsonObject(rootfs, "config.rootfs").texts("diff_ids")


def _inside(path: str, what: str) -> str:
    """Return the name of the member that a path in manifest.json leads to. Raises MalformedImage for one outside."""
    name = normal_name(path.encode(errors="surrogateescape"))
    if name is None or path.startswith("/") or ".." in path.split("/"):
        raise MalformedImage(f"{what} is {printable(path[:300])!r}, which leads out of the archive")
    return name


def _digest_in(path: str) -> Digest | None:
    """Return the digest that a config's path names: `HEX.json`, `blobs/sha256/HEX` or `sha256:HEX`; else None."""
    match = re.fullmatch(r"(?:sha256:)?([0-9a-f]{64})(?:\.json)?", path.rpartition("/")[2])
    return Digest("sha256", match[1]) if match else None
