"""Small provisioned directories, made in this process from layers."""

from __future__ import annotations

from pathlib import Path

from provisioner.image.platform import Platform
from provisioner.image.reference import Reference
from provisioner.ownership.policy import Ownership
from provisioner.provision import Plan, provision
from provisioner.sources.registry import RegistrySource
from provisioner.store.blobs import BlobCache
from provisioner.terminal.progress import Console
from tests.support import builders
from tests.support.archives import Member
from tests.support.scripted_registry import ScriptedRegistry, mirrored


def make_directory(directory: Path, *layers: list[Member], exact: bool = False, cache: Path | None = None) -> Path:
    """Provision an image of these layers to `directory`, with the owners of the image where it is `exact`."""
    with ScriptedRegistry() as registry:
        registry.push("image", builders.image(*(builders.layer(*members) for members in layers)))
        reference = Reference.parse(f"{registry.host}/image")
        source = RegistrySource(reference, mirrored(reference), BlobCache(cache or directory.parent / "cache"), 2)
        plan = Plan(directory, Platform("linux", "amd64"), ownership=Ownership(exact), sync=False)
        provision(plan, source, Console(quiet=True))
    return directory
