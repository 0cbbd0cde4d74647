from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.errors import MalformedImage, NotFound, ProvisionError
from provisioner.image.platform import Platform
from provisioner.image.simplestreams import Products, build_for, parse_list_paths
from provisioner.image.source_name import Lxc

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64", "v8")
HASH = "ab" * 32


def item(path: str = "images/debian/bookworm/amd64/default/20260912_05:24/rootfs.tar.xz", **fields: Any) -> Any:
    return {"ftype": "root.tar.xz", "path": path, "sha256": HASH, "size": 1000, **fields}


def product(**fields: Any) -> dict[str, Any]:
    usual = {
        "aliases": "debian/bookworm/default,debian/bookworm,debian/12/default,debian/12",
        "arch": "amd64",
        "os": "Debian",
        "release": "bookworm",
        "variant": "default",
        "versions": {"20260912_05:24": {"items": {"root.tar.xz": item()}}},
    }
    return {**usual, **fields}


def products(**found: Any) -> Products:
    return Products.from_json(
        [json.dumps({"products": {key.replace("_", ":"): value for key, value in found.items()}}).encode()]
    )


DEBIAN = {"debian_bookworm_amd64_default": product()}


@pytest.mark.parametrize("release", ["bookworm", "12", "BookWorm"])
def test_a_product_is_found_by_its_name_and_by_its_aliases(release: str) -> None:
    builds = products(**DEBIAN).builds(Lxc("debian", release))
    assert [(platform, build.name, build.digest.hex, build.size) for platform, build in builds.items()] == [
        (AMD64, "20260912_05:24", HASH, 1000)
    ]


def test_the_default_variant_is_not_another() -> None:
    cloud = product(variant="cloud", aliases="debian/bookworm/cloud,debian/12/cloud")
    listed = products(debian_bookworm_amd64_cloud=cloud)
    assert listed.builds(Lxc("debian", "12", "cloud"))
    with pytest.raises(NotFound, match="of the variant 'default'; it has cloud") as caught:
        listed.builds(Lxc("debian", "bookworm"))
    assert caught.value.hint == "name one: lxc:debian/bookworm/cloud"


def test_the_newest_version_that_has_a_root_file_system() -> None:
    disk = {"disk.qcow2": {"ftype": "disk-kvm.img", "path": "x", "sha256": HASH, "size": 1}}
    squashfs = {"root.squashfs": {**item(), "ftype": "squashfs"}, "x.vcdiff": {**item(), "ftype": "squashfs.vcdiff"}}
    versions = {
        "20260910_05:24": {"items": {"root.tar.xz": item("a/1")}},
        "20260912_05:24": {"items": {"anything": item("a/3")}},
        "20260911_05:24": {"items": {"root.tar.xz": item("a/2")}},
        "20260913_05:24": {"items": disk},
        "20260914_05:24": {"items": squashfs},
    }
    [found] = products(x_y_amd64_default=product(release="y", versions=versions)).products
    assert found.newest is not None
    assert found.oldest is not None
    assert (found.newest.path, found.oldest.path) == ("a/3", "a/1")


def test_a_product_for_virtual_machines_alone() -> None:
    versions = {"20260913_05:24": {"items": {"disk.qcow2": {**item(), "ftype": "disk-kvm.img"}}}}
    with pytest.raises(NotFound, match=r"lxc:debian/bookworm/default has no root\.tar\.xz"):
        products(debian_bookworm_amd64_default=product(versions=versions)).builds(Lxc("debian", "bookworm"))


@pytest.mark.parametrize(
    ("architecture", "platform"),
    [("amd64", "linux/amd64"), ("arm64", "linux/arm64"), ("armhf", "linux/arm/v7"), ("armel", "linux/arm/v6"),
     ("i386", "linux/386"), ("ppc64el", "linux/ppc64le"), ("s390x", "linux/s390x"), ("riscv64", "linux/riscv64"),
     ("loong64", "linux/loong64"), ("x86_64", "linux/amd64"), ("aarch64", "linux/arm64")],
)  # fmt: skip
def test_debians_names_of_architectures(architecture: str, platform: str) -> None:
    [found] = products(a_b_c_default=product(arch=architecture)).products
    assert str(found.platform) == platform


def test_the_build_for_a_platform() -> None:
    listed = products(
        debian_bookworm_amd64_default=product(),
        debian_bookworm_armhf_default=product(arch="armhf"),
        debian_bookworm_armel_default=product(arch="armel"),
    )
    builds = listed.builds(Lxc("debian", "12"))
    assert str(build_for(builds, Platform("linux", "arm", "v8"), "x")[0]) == "linux/arm/v7"
    assert str(build_for(builds, Platform("linux", "arm", "v6"), "x")[0]) == "linux/arm/v6"
    with pytest.raises(NotFound, match="x has nothing for linux/arm64/v8; it has linux/amd64, linux/arm/v7, linux/arm"):
        build_for(builds, ARM64, "x")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (Lxc("debain", "12"), "no LXC image is called 'debain'; similar: debian"),
        (Lxc("zzz", "12"), "no LXC image is called 'zzz'$"),
        (Lxc("debian", "13"), "debian has no LXC image of the release '13'; it has 12, bookworm"),
        (Lxc("debian", "bookworm", "cloud"), "debian/bookworm has no LXC image of the variant 'cloud'; it has default"),
    ],
)
def test_names_that_are_not_there(name: Lxc, why: str) -> None:
    with pytest.raises(NotFound, match=why) as caught:
        products(**DEBIAN).named(name)
    assert caught.value.hint


def test_names_that_begin_with_a_word() -> None:
    listed = products(**DEBIAN, alpine_edge_amd64_default=product(os="Alpine", release="edge", aliases="alpine/edge"))
    assert [found.name for found in listed.matching("deb")] == ["debian/bookworm"]
    assert [found.name for found in listed.matching("debian/12")] == ["debian/bookworm"]
    assert [found.name for found in listed.matching("")] == ["alpine/edge", "debian/bookworm"]


@pytest.mark.parametrize(
    "path",
    ["../x", "a/../../etc/passwd", "/etc/passwd", "a//b", "a/./b", "http://evil/x", "a?b", "a#b", "a\\b", "a b", "a%2e",
     "\x1b[31m", "a\n", "", "é", "x" * 1001],
)  # fmt: skip
def test_paths_that_lead_elsewhere(path: str) -> None:
    versions = {"20260912_05:24": {"items": {"root.tar.xz": item(path)}}}
    with pytest.raises(MalformedImage) as caught:
        products(debian_bookworm_amd64_default=product(versions=versions)).builds(Lxc("debian", "12"))
    assert caught.value.message.isprintable()
    with pytest.raises(MalformedImage):
        parse_list_paths(json.dumps({"index": {"images": {"datatype": "image-downloads", "path": path}}}).encode())


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"sha256": "xyz"}, "is not a sha256 or sha512 digest"),
        ({"sha256": None}, "sha256 is missing"),
        ({"sha256": 5}, "sha256 is a whole number, not a text"),
        ({"size": -1}, "size is not a number of bytes"),
        ({"size": "7"}, "size is a text, not a whole number"),
        ({"size": 10**30}, "size is not a number of bytes"),
        ({"path": ["x"]}, "path is a list, not a text"),
    ],
)
def test_a_newest_version_that_is_malformed_is_an_error_and_no_older_one_is_taken(fields: Any, why: str) -> None:
    versions = {
        "20260911_05:24": {"items": {"root.tar.xz": item()}},
        "20260912_05:24": {"items": {"root.tar.xz": item(**fields)}},
    }
    with pytest.raises(MalformedImage, match=why):
        products(debian_bookworm_amd64_default=product(versions=versions)).builds(Lxc("debian", "12"))


def test_a_version_with_a_name_that_is_no_name() -> None:
    versions = {"2026\x1b[31m": {"items": {"root.tar.xz": item()}}}
    with pytest.raises(MalformedImage, match=r"an invalid name") as caught:
        products(debian_bookworm_amd64_default=product(versions=versions)).builds(Lxc("debian", "12"))
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "odd",
    [None, 5, [], {}, product(arch=5), product(release="../x"), product(os=None, variant="\x1b"), product(versions=[])],
)
def test_a_malformed_product_does_not_hide_the_others(odd: Any) -> None:
    assert len(products(odd_one_here_default=odd, **DEBIAN).products) == 1


def test_the_lists_of_an_index() -> None:
    streams = {
        "images": {"datatype": "image-downloads", "path": "streams/v1/images.json"},
        "ids": {"datatype": "image-ids", "path": "streams/v1/ids.json"},
    }
    assert parse_list_paths(json.dumps({"format": "index:1.0", "index": streams}).encode()) == [
        "streams/v1/images.json"
    ]


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"index": []}', b'{"index": {"x": 5}}', b"[" * 10**6, b"\xff"])
def test_an_index_that_is_none(data: bytes) -> None:
    with pytest.raises(MalformedImage):
        parse_list_paths(data)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.sampled_from(["root.tar.xz", HASH, "a/b"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*product(), *item(), "items", "products", "index"]) | st.text(), inner, max_size=6
        )
    ),
    max_leaves=30,
)


@given(VALUES, VALUES)
def test_whatever_a_server_sends_there_is_an_answer_or_an_error_in_one_line(value: Any, version: Any) -> None:
    texts = [
        json.dumps(value).encode(),
        json.dumps({"index": value}).encode(),
        json.dumps(
            {"products": {"debian:bookworm:amd64:default": product(versions={"20260101_00:00": version})}}
        ).encode(),
        json.dumps({"products": {"debian:bookworm:amd64:default": value}}).encode(),
    ]
    messages: list[str] = []
    for data in texts:
        for read in (parse_list_paths, lambda data: Products.from_json([data]).builds(Lxc("debian", "bookworm"))):
            try:
                read(data)
            except ProvisionError as error:
                messages.append(error.message)
    assert all(message.isprintable() for message in messages)
