"""The kernel that an image's libc asks for: ABI tags of real programs, and of damaged ones."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.rootfs.kernel_note import needed_kernel, parse_abi_tag
from provisioner.rootfs.tree import Tree
from tests.support.programs import program_for_kernel
from tests.support.tools import find_program, need


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_tag_of_any_machine_is_read(bits: int, order: str) -> None:
    assert parse_abi_tag(program_for_kernel((4, 15, 0), bits=bits, order=order)) == (4, 15, 0)
    assert parse_abi_tag(program_for_kernel((4, 15, 0), bits=bits, order=order, system=2)) == (), "of the Hurd"


def test_it_is_what_file_says_of_a_real_program() -> None:
    need("file")
    path = Path(find_program("sh") or "").resolve()
    said = subprocess.run(["file", "-b", path], stdout=subprocess.PIPE, text=True, check=True).stdout
    match = re.search(r"for GNU/Linux ([0-9.]+)", said)
    assert match
    assert ".".join(map(str, parse_abi_tag(path.read_bytes()))) == match[1]


@pytest.mark.parametrize(
    ("release", "needed"), [((3, 2, 0), ""), ((3, 10, 5), ""), ((4, 4, 0), "4.4.0"), ((5, 10, 1), "5.10.1")]
)
def test_only_what_a_phone_may_lack_is_needed(
    tree: Tree, root: Path, release: tuple[int, int, int], needed: str
) -> None:
    (root / "usr/bin").mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    (root / "usr/bin/sh").symlink_to("dash")
    (root / "usr/bin/dash").write_bytes(program_for_kernel(release))
    assert needed_kernel(tree) == needed


def test_an_image_without_programs_needs_none(tree: Tree, root: Path) -> None:
    assert needed_kernel(tree) == ""
    need("busybox")
    (root / "bin").mkdir()
    shutil.copy(find_program("busybox") or "", root / "bin/sh")
    assert needed_kernel(tree) == ""


@given(st.binary(max_size=400))
def test_no_bytes_harm(data: bytes) -> None:
    assert len(parse_abi_tag(data)) in (0, 3)
    assert len(parse_abi_tag(b"\x7fELF" + data)) in (0, 3)


@given(st.integers(0, 175), st.integers(0, 255), st.sampled_from([32, 64]))
def test_no_changed_byte_harms(position: int, value: int, bits: int) -> None:
    data = bytearray(program_for_kernel((4, 15, 0), bits=bits))
    data[position % len(data)] = value
    assert len(parse_abi_tag(bytes(data))) in (0, 3)
