"""Images: a manifest and its config that belong together."""

from __future__ import annotations

import pytest

from provisioner.errors import MalformedImage
from provisioner.image.digest import Digest
from provisioner.image.image import Image
from provisioner.image.platform import Platform
from tests.support import builders

SHA = "sha256:" + "5" * 64


def test_an_image_pairs_layers_with_the_archives_inside() -> None:
    made = builders.small()
    image = Image.from_documents(made.manifest, made.config)
    assert image.digest == Digest.of(made.manifest)
    assert [str(layer.blob.digest) for layer in image.layers] == [builders.digest_of(each.blob) for each in made.layers]
    assert [str(layer.diff_id) for layer in image.layers] == [layer.diff_id for layer in made.layers]


def test_the_index_knows_the_platform_better_than_the_config() -> None:
    made = builders.small(on="linux/arm")
    image = Image.from_documents(made.manifest, made.config, Digest.parse(SHA), Platform("linux", "arm", "v6"))
    assert str(image.config.platform) == "linux/arm/v6"
    assert str(Image.from_documents(made.manifest, made.config).config.platform) == "linux/arm"


def test_manifest_and_config_belong_together() -> None:
    made, other = builders.small(), builders.image()
    with pytest.raises(MalformedImage, match=r"config .* announced"):
        Image.from_documents(made.manifest, other.config)
    same_size = made.config.replace(b"amd64", b"arm64")
    with pytest.raises(MalformedImage, match="config does not match its digest"):
        Image.from_documents(made.manifest, same_size)
    lying = builders.image(*made.layers, config={"rootfs": {"diff_ids": [SHA]}})
    with pytest.raises(MalformedImage, match="2 layers and the config 1"):
        Image.from_documents(lying.manifest, lying.config)
