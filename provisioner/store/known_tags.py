"""What tags named when a registry was last asked, for HEAD requests in place of GET, and for `--offline`."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from typing import NamedTuple

from provisioner.errors import MalformedImage
from provisioner.filesystem.atomic import replace_in
from provisioner.image.digest import Digest
from provisioner.image.reference import Reference
from provisioner.store.cache_directory import CacheDirectory

TAGS = "tags"
"""The folder of the cache with one file a tag: JSON with `reference`, `digest` and `mediaType`."""
TAG_FILE_LIMIT = 1 << 16
"""The most bytes that are read of such a file."""


class KnownTag(NamedTuple):
    """The index or manifest that a tag named when it was last asked for."""

    digest: Digest
    media_type: str


class KnownTags:
    """The tags that a cache knows. One that can't be written isn't an error."""

    def __init__(self, files: CacheDirectory) -> None:
        self._files = files

    def find(self, reference: Reference | str) -> KnownTag | None:
        """Return what `reference` named when it was last asked for, None if it never was."""
        try:
            with open(self._files.open(TAGS, _file_name(reference)), "rb") as file:
                fields = json.loads(file.read(TAG_FILE_LIMIT))
                with suppress(OSError):
                    os.utime(file.fileno())  # last use, for pruning
            if fields["reference"] != str(reference) or not isinstance(fields["mediaType"], str):
                return None
            digest = Digest.parse(fields["digest"])
        except (OSError, ValueError, TypeError, KeyError, RecursionError, MalformedImage):
            return None
        return KnownTag(digest, fields["mediaType"])

    def save(self, reference: Reference | str, known: KnownTag) -> None:
        """Record what `reference` names now."""
        fields = {"reference": str(reference), "digest": str(known.digest), "mediaType": known.media_type}
        with suppress(OSError):
            folder = self._files.folder(TAGS, create=True)
            replace_in(folder, _file_name(reference), json.dumps(fields).encode(), 0o600)


def _file_name(reference: Reference | str) -> str:
    return hashlib.sha256(str(reference).encode()).hexdigest()
