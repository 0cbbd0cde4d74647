"""Lists of servers that were downloaded before, by URL, so that one which hasn't changed isn't downloaded again."""

from __future__ import annotations

import hashlib
import io
import json
import os
from contextlib import suppress

from provisioner.errors import MachineError, MalformedImage
from provisioner.filesystem.atomic import replace_in
from provisioner.image.digest import Digest, verify
from provisioner.image.manifest import Descriptor
from provisioner.registry.lxc_server import KnownList
from provisioner.store.blobs import BlobCache, BlobInMemory
from provisioner.store.download import fetch_blob
from provisioner.store.known_tags import TAG_FILE_LIMIT, TAGS

_MEDIA_TYPE = "application/json"


class KnownLists:
    """The lists that a cache has. One that can't be read or written isn't an error."""

    def __init__(self, cache: BlobCache) -> None:
        self._cache = cache

    def find(self, url: str) -> KnownList | None:
        """Return the list that a URL had when it was last asked for; None where the cache doesn't have it."""
        try:
            with open(self._cache.files.open(TAGS, _file_name(url)), "rb") as file:
                fields = json.loads(file.read(TAG_FILE_LIMIT))
                with suppress(OSError):
                    os.utime(file.fileno())  # last use, for pruning
            if fields["reference"] != url or not isinstance(fields["etag"], str):
                return None
            digest = Digest.parse(fields["digest"])
            with io.BufferedReader(self._cache.open(digest)) as blob:
                data = blob.read()
                verify(data, digest, None, "the cached list")
                with suppress(OSError):
                    os.utime(blob.fileno())
        except (OSError, ValueError, TypeError, KeyError, RecursionError, MalformedImage):
            return None
        return KnownList(data, fields["etag"])

    def save(self, url: str, known: KnownList) -> None:
        """Store the list that a URL has now."""
        digest = Digest.of(known.data)
        fields = {"reference": url, "digest": str(digest), "etag": known.etag}
        with suppress(OSError, MachineError):
            fetch_blob(Descriptor(_MEDIA_TYPE, digest, len(known.data)), self._cache, BlobInMemory(known.data))
            folder = self._cache.files.folder(TAGS, create=True)
            replace_in(folder, _file_name(url), json.dumps(fields).encode(), 0o600)

    def delete(self, url: str) -> None:
        """Delete the record of a URL's list."""
        with suppress(OSError):
            self._cache.files.delete(TAGS, _file_name(url))


def _file_name(url: str) -> str:
    return hashlib.sha256(f"list {url}".encode()).hexdigest()
