"""What tags named when a registry was last asked, for HEAD requests in place of GET, and for `--offline`."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from provisioner.errors import MalformedImage
from provisioner.filesystem.atomic import replace_file
from provisioner.image.digest import Digest
from provisioner.image.reference import Reference

TAGS = "tags"
"""The folder of the cache with one file a tag: JSON with `reference`, `digest` and `mediaType`."""


class KnownTag(NamedTuple):
    """The index or manifest that a tag named when it was last asked for."""

    digest: Digest
    media_type: str


class KnownTags:
    """The tags that the cache in `directory` knows. A cache that can't be written isn't an error."""

    def __init__(self, directory: Path) -> None:
        self._folder = directory / TAGS

    def find(self, reference: Reference) -> KnownTag | None:
        """Return what `reference` named when it was last asked for, None if it never was."""
        path = self._path(reference)
        try:
            fields = json.loads(path.read_bytes())
            if fields["reference"] != str(reference) or not isinstance(fields["mediaType"], str):
                return None
            digest = Digest.parse(fields["digest"])
        except (OSError, ValueError, TypeError, KeyError, RecursionError, MalformedImage):
            return None
        with suppress(OSError):
            os.utime(path)  # last use, for pruning
        return KnownTag(digest, fields["mediaType"])

    def save(self, reference: Reference, known: KnownTag) -> None:
        """Record what `reference` names now."""
        fields = {"reference": str(reference), "digest": str(known.digest), "mediaType": known.media_type}
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            replace_file(self._path(reference), json.dumps(fields).encode(), 0o644)

    def _path(self, reference: Reference) -> Path:
        return self._folder / hashlib.sha256(str(reference).encode()).hexdigest()
