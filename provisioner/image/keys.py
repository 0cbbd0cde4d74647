"""Refuses documents with keys that tools may read differently: repeated keys, and keys in another case.

Of two equal keys, some tools use the first and some the last; tools in Go read `Layers` as `layers`. So one document
could be two images. Only fields of the OCI image-spec are checked, since other keys have no common meaning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from provisioner.errors import MalformedImage
from provisioner.terminal.escaping import printable

Fields = Mapping[str, Any]
"""The fields of an object: for each name, the fields of the object in it; empty if that isn't checked."""


def _fields(names: str, **nested: Fields) -> Fields:
    return {name: {} for name in names.split()} | nested


_PLATFORM = _fields("architecture os os.version os.features variant features")
_DESCRIPTOR = _fields("mediaType digest size urls annotations data artifactType", platform=_PLATFORM)
_RUN = _fields(
    "User ExposedPorts Env Entrypoint Cmd Volumes WorkingDir Labels StopSignal ArgsEscaped Memory MemorySwap CpuShares"
    " Healthcheck"
)

INDEX = _fields("schemaVersion mediaType artifactType annotations", manifests=_DESCRIPTOR, subject=_DESCRIPTOR)
"""The fields of an image index (image-index.md)."""

MANIFEST = _fields(
    "schemaVersion mediaType artifactType annotations", config=_DESCRIPTOR, layers=_DESCRIPTOR, subject=_DESCRIPTOR
)
"""The fields of an image manifest (manifest.md)."""

INDEX_OR_MANIFEST = {**INDEX, **MANIFEST}
"""The fields of a document that may be either."""

CONFIG = _fields(
    "created author",
    **_PLATFORM,
    config=_RUN,
    rootfs=_fields("type diff_ids"),
    history=_fields("created author created_by comment empty_layer"),
)
"""The fields of an image's config (config.md)."""


class RepeatingObject(dict[str, Any]):
    """A JSON object with repeated keys. Each key has its last value."""

    repeated: frozenset[str]
    """The keys that occur more than once."""


def make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the JSON object with these keys and values. It is an `object_pairs_hook` of `json.loads`."""
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    repeating = RepeatingObject(found)
    repeating.repeated = frozenset(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
    return repeating


def refuse_ambiguous_keys(value: object, fields: Fields, where: str) -> None:
    """Raise MalformedImage if `value`, an object or a list of objects, has a repeated field, or one in another case.

    `fields` are the known fields. `value` was read with `make_object`.
    """
    if isinstance(value, list):
        for number, item in enumerate(value):
            refuse_ambiguous_keys(item, fields, f"{where}[{number}]")
    if not isinstance(value, dict) or not fields:
        return
    if isinstance(value, RepeatingObject) and (twice := sorted(value.repeated & fields.keys())):
        raise _ambiguous(f"{where} has {twice[0]!r} more than once")
    if unknown := value.keys() - fields.keys():
        # Go compares with Unicode case folding: it reads `layer\u017f` as `layers`.
        spelled = {name.casefold(): name for name in fields}
        if ambiguous := next((key for key in sorted(unknown) if key.casefold() in spelled), None):
            name = spelled[ambiguous.casefold()]
            raise _ambiguous(f"{where} has {printable(ambiguous)!r}, which other tools read as {name!r}")
    for key, inner in value.items():
        if nested := fields.get(key):
            refuse_ambiguous_keys(inner, nested, f"{where}.{key}")


def _ambiguous(what: str) -> MalformedImage:
    return MalformedImage(f"{what}: tools would read different images", "ask the image's owner to push it again")
