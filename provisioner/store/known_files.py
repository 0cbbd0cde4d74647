"""The files that URLs had when they were last requested, so that one which hasn't changed isn't downloaded again."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from provisioner.errors import MalformedImage
from provisioner.filesystem.atomic import replace_in
from provisioner.image.digest import NOT_VERIFIED, Digest
from provisioner.registry.files import FileVersion
from provisioner.store.cache_directory import CacheDirectory
from provisioner.store.known_tags import TAG_FILE_LIMIT, TAGS


@dataclass(frozen=True)
class KnownFile:
    """The file that a URL had when it was last requested."""

    reference: str
    """The URL."""
    digest: str = ""
    """Empty where only a part of the file was downloaded."""
    version: FileVersion = field(default_factory=FileVersion)
    verified: str = NOT_VERIFIED
    """How far the file was verified."""


class KnownFiles:
    """The files that a cache knows by their URLs. What can't be read or written isn't an error."""

    def __init__(self, files: CacheDirectory) -> None:
        self._files = files

    def find(self, url: str) -> KnownFile | None:
        """Return the file that a URL had when it was last requested; None where the cache doesn't know that."""
        try:
            with open(self._files.open(TAGS, name_for_url(url).hex), "rb") as file:
                fields = json.loads(file.read(TAG_FILE_LIMIT))
            version = FileVersion(**fields.pop("version"))
            known = KnownFile(**fields, version=version)
            texts = (known.reference, known.digest, known.verified, version.etag, version.modified)
            if known.reference != url or not all(isinstance(text, str) for text in texts):
                return None
            if not isinstance(version.size, int | None):
                return None
            return known if not known.digest or Digest.parse(known.digest) else None
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, MalformedImage):
            return None

    def save(self, known: KnownFile) -> None:
        """Record the file that a URL has now."""
        with suppress(OSError):
            folder = self._files.folder(TAGS, create=True)
            replace_in(folder, name_for_url(known.reference).hex, json.dumps(asdict(known)).encode(), 0o600)

    def delete(self, url: str) -> None:
        """Delete what is known of a URL."""
        with suppress(OSError):
            self._files.delete(TAGS, name_for_url(url).hex)


def name_for_url(url: str) -> Digest:
    """Return the digest that names the files of a URL in the cache while that of its content isn't known."""
    return Digest.of(f"url {url}".encode())
