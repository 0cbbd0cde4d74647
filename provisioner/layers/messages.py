"""Lines for the user about layers that have been unpacked."""

from __future__ import annotations

import textwrap

from provisioner.image.image import Layer
from provisioner.rootfs.links import Substitutes
from provisioner.sizes import counted, size_text

_LONGEST_COMMAND = 60


def layer_text(number: int, count: int, layer: Layer, command: str) -> str:
    """Return one line about a layer that has been unpacked: its size, and what made it, shortened."""
    what = f", {textwrap.shorten(command, _LONGEST_COMMAND, placeholder=' …')}" if command else ""
    return f"layer {number + 1} of {count}: {size_text(layer.blob.size)}{what}"


def clamped_times_text(count: int) -> str:
    """Return one line about files whose times can't be kept."""
    return f"{counted(count, 'file has a time', 'files have times')} that can't be kept here: the nearest one is set"


def substitutes_text(substitutes: Substitutes) -> str:
    """Return one line about what replaces hard links; empty where none was refused."""
    copies, reflinks, symlinks = substitutes.copies, substitutes.reflinks, substitutes.symlinks
    parts = []
    if copies:
        take = counted(copies, "copy, which takes", "copies, which take")
        parts.append(f"{take} {size_text(substitutes.copied_bytes)} more")
    if reflinks:
        parts.append(f"{counted(reflinks, 'reflink, which takes', 'reflinks, which take')} no space")
    if symlinks:
        parts.append(counted(symlinks, "symlink"))
    hint = "; --hardlinks symlink saves that" if copies and not symlinks else ""
    return f"hard links are refused here: {', and '.join(parts)} in their place{hint}" if parts else ""


def proot_links_text(substitutes: Substitutes) -> str:
    """Return one line about proot's symlinks in place of hard links; empty where there were none."""
    texts = []
    if resolved := substitutes.resolved_links:
        texts.append(f"restored {counted(resolved, 'hard link')} that proot had replaced")
    if lost := substitutes.lost_links:
        leads = counted(lost, "link of proot leads", "links of proot lead")
        texts.append(f"{leads} to nothing: the archive lacks the content")
    return "; ".join(texts)
