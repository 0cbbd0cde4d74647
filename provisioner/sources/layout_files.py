"""Images of an OCI image layout (image-spec, image-layout.md), and of a directory that skopeo's `dir:` has written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from provisioner.errors import MalformedImage, NotFound, error_context
from provisioner.image.digest import Digest, verify
from provisioner.image.fields import JsonObject, parse_document
from provisioner.image.image import Image
from provisioner.image.keys import INDEX
from provisioner.image.manifest import INDEX_TYPES, Descriptor, Index, Manifest, media_type_of
from provisioner.image.platform import Platform, choose
from provisioner.sources.choices import NamedImage, choose_image
from provisioner.sources.local import FoundImage
from provisioner.sources.members import Member, Members, read_member
from provisioner.sources.resolver import MAX_INDEXES
from provisioner.terminal.escaping import printable

_MAX_MANIFESTS = 1000
"""The most manifests of an image that are looked at."""


_MAX_DOCUMENTS = 64 << 20
"""The most bytes of documents that are read for an image, however often each."""


class _Missing(MalformedImage):
    """A file that a document names isn't there; that of another platform may be left out by design."""


class LacksLayers(MalformedImage):
    """A manifest has no layers although its config has: Docker 25.0 wrote such ones (moby#47065)."""


@dataclass(frozen=True)
class _Entry:
    """What the layout calls an image: manifests, one a platform, or an index of them."""

    descriptors: tuple[Descriptor, ...]


@dataclass(frozen=True)
class _Candidate:
    """A manifest that an image has for one platform."""

    descriptor: Descriptor
    platform: Platform | None
    """What an index states."""
    index: Digest | None
    """The outermost index that it was found by, but for that of the layout."""


class LayoutFiles:
    """One image in `members`. `word` names the archive or the directory for messages.

    `images` lists what it has, and `names_of` returns the names that the file of a blob may have.
    """

    def __init__(
        self,
        members: Members,
        word: str,
        choice: str,
        images: Callable[[], list[NamedImage[_Entry]]],
        names_of: Callable[[Digest], Sequence[str]],
    ) -> None:
        self._members = members
        self._word = word
        self._choice = choice
        self._images = images
        self._names_of = names_of
        self._indexes: dict[Digest, Index] = {}
        """The indexes that were read, each of which other ones may name many times."""
        self._room = _MAX_DOCUMENTS
        """How many bytes of documents may still be read."""

    def platforms(self) -> tuple[Platform, ...]:
        """Return all platforms that there is an image for. Raises as `image` does."""
        found: list[Platform] = []
        for candidate in self._candidates():
            image = self._try(candidate, None)
            if isinstance(image, FoundImage):
                found.append(image.image.config.platform)
        return tuple(dict.fromkeys(found))

    def image(self, platform: Platform, manifest: Digest | None = None) -> FoundImage:
        """Return the image for `platform`, of those whose files are there; only the one with the digest `manifest`.

        Without a choice, that digest chooses among several images.
        Raises NotFound, UsageError, MalformedImage and MachineError.
        """
        found: list[tuple[Platform, FoundImage]] = []
        problems: list[MalformedImage] = []
        for candidate in self._candidates(any_image=manifest is not None and not self._choice):
            if manifest is None or candidate.descriptor.digest == manifest:
                image = self._try(candidate, platform)
                if isinstance(image, FoundImage):
                    found.append((image.image.config.platform, image))
                elif candidate.platform is None or candidate.platform.satisfies(platform):
                    problems.append(image)
        if problems and not any(known.satisfies(platform) for known, _ in found):
            if isinstance(problems[0], _Missing) and found:
                have = ", ".join(dict.fromkeys(str(known) for known, _ in found))
                what = f"{self._word} names an image for {platform}, but doesn't have it; it has {have}"
                raise NotFound(what, "choose one of these with --platform, or save the other platform too")
            raise problems[0]
        if manifest and not found:
            raise NotFound(f"{self._word} has no manifest {manifest!s:.19}", "name the archive that was locked")
        return choose(found, platform, self._word)

    def _try(self, candidate: _Candidate, assumed: Platform | None) -> FoundImage | MalformedImage:
        """Return the image of a candidate, or why there is none."""
        try:
            with error_context(self._word):
                return self._build(candidate, assumed)
        except MalformedImage as error:
            return error

    def _build(self, candidate: _Candidate, assumed: Platform | None) -> FoundImage:
        data = self._document(candidate.descriptor, "manifest")
        manifest = Manifest.from_json(data)
        config = self._document(manifest.config, "config")
        if not manifest.layers and b'"diff_ids"' in config:
            rootfs = parse_document(config, "config", {}).get("rootfs")
            if JsonObject(rootfs, "config.rootfs").texts("diff_ids"):
                raise LacksLayers("its manifest has no layers, unlike its config")
        image = Image.from_documents(data, config, candidate.index, candidate.platform, assumed)
        layers = tuple(self._find(layer, f"layer {number}") for number, layer in enumerate(manifest.layers, 1))
        assumption = f"{self._word} doesn't say which machines it is for: {image.config.platform} is assumed"
        return FoundImage(
            image,
            layers,
            "by the digests that it states",
            self._index(candidate),
            assumptions=() if image.config.states_platform else (assumption,),
        )

    def _index(self, candidate: _Candidate) -> Index | None:
        """Return the index that a candidate was found by, as its lock names it."""
        if candidate.index is None:
            return None
        return self._indexes.get(candidate.index)

    def _candidates(self, *, any_image: bool = False) -> Iterator[_Candidate]:
        """Yield the manifests of the chosen image, through nested indexes; indexes that aren't there are left out.

        With `any_image`, those of all images.
        """
        with error_context(self._word):
            images = self._images()
        chosen = [image.value for image in images] if any_image else [choose_image(images, self._choice, self._word)]
        with error_context(self._word):
            entries = (entry for image in chosen for entry in image.descriptors)
            pending = deque((_Candidate(entry, entry.platform, None), 0) for entry in entries)
            count = 0
            while pending:
                candidate, depth = pending.popleft()
                index = self._index_of(candidate.descriptor)
                if index is None:
                    count += 1
                    if count > _MAX_MANIFESTS:
                        raise MalformedImage(f"more than {_MAX_MANIFESTS} manifests")
                    yield candidate
                    continue
                if depth == MAX_INDEXES:
                    raise MalformedImage(f"more than {MAX_INDEXES} nested indexes")
                if count + len(pending) + len(index.manifests) > _MAX_MANIFESTS:
                    raise MalformedImage(f"more than {_MAX_MANIFESTS} manifests")
                outermost = candidate.index or candidate.descriptor.digest
                pending += [
                    (_Candidate(entry, entry.platform or candidate.platform, outermost), depth + 1)
                    for entry in index.manifests
                ]

    def _index_of(self, descriptor: Descriptor) -> Index | None:
        """Return the index that a descriptor names, verified; None where it names something else, or is missing."""
        if index := self._indexes.get(descriptor.digest):
            return index
        data = self._read(descriptor.digest)
        if data is None or self._type(descriptor, data) not in INDEX_TYPES:
            return None
        verify(data, descriptor.digest, descriptor.size, f"the index {descriptor.digest!s:.19}")
        return self._indexes.setdefault(descriptor.digest, Index.from_json(data))

    def _type(self, descriptor: Descriptor, data: bytes) -> str:
        """Return the media type of a document; that of its descriptor where it is no document at all."""
        try:
            return media_type_of(data, descriptor.media_type)
        except MalformedImage:
            return descriptor.media_type

    def _document(self, descriptor: Descriptor, what: str) -> bytes:
        """Return a document, verified. Raises MalformedImage, also where it is missing."""
        data = self._read(descriptor.digest)
        if data is None:
            raise _Missing(f"the {what} {descriptor.digest!s:.19} is missing")
        verify(data, descriptor.digest, descriptor.size, f"the {what} {descriptor.digest!s:.19}")
        return data

    def _read(self, digest: Digest) -> bytes | None:
        """Return a document, not yet verified; None where it is missing."""
        for name in self._names_of(digest):
            if (data := read_member(self._members, name)) is not None:
                self._room -= len(data)
                if self._room < 0:
                    raise MalformedImage(f"its documents have more than {_MAX_DOCUMENTS} bytes")
                return data
        return None

    def _find(self, layer: Descriptor, what: str) -> Member:
        """Return the file of a layer. Raises MalformedImage where it is missing, or has another size."""
        for name in self._names_of(layer.digest):
            if member := self._members.find(name):
                if member.size != layer.size:
                    raise MalformedImage(f"{what} has {member.size} bytes, {layer.size} were announced")
                return member
        raise _Missing(f"{what}, {layer.digest!s:.19}, is missing")


def oci_files(members: Members, word: str, choice: str) -> LayoutFiles:
    """Return the images of an OCI image layout."""
    return LayoutFiles(members, word, choice, lambda: _images_of_index(members), _blob_names)


def skopeo_files(members: Members, word: str) -> LayoutFiles:
    """Return the image of a directory that skopeo has written with `dir:`."""
    return LayoutFiles(members, word, "", lambda: _image_of_directory(members), _skopeo_names(members))


def _blob_names(digest: Digest) -> tuple[str, ...]:
    return (f"blobs/{digest.algorithm}/{digest.hex}",)


def _skopeo_names(members: Members) -> Callable[[Digest], tuple[str, ...]]:
    """Return the function that names the files of a blob in a directory of skopeo."""

    def names_of(digest: Digest) -> tuple[str, ...]:
        if digest == Digest.of(read_member(members, "manifest.json") or b""):
            return ("manifest.json",)
        prefix = "" if digest.algorithm == "sha256" else f"{digest.algorithm}-"
        return (f"{prefix}{digest.hex}", f"{prefix}{digest.hex}.manifest.json")

    return names_of


def _images_of_index(members: Members) -> list[NamedImage[_Entry]]:
    """Return the images that index.json lists. Raises MalformedImage.

    Entries with the same names are one image for several platforms, and so are those without any name.
    """
    data = read_member(members, "index.json")
    if data is None:
        raise MalformedImage("it has no index.json, so it is no OCI image layout", "name it by its path alone")
    parse_document(data, "index.json", INDEX)
    with error_context("index.json"):
        index = Index.from_json(data)
        if index.malformed and not index.manifests:
            raise index.malformed[0].error
    groups: dict[tuple[str, ...], list[Descriptor]] = {}
    for entry in index.manifests:
        groups.setdefault(entry.names, []).append(replace(entry, names=()))
    images: list[NamedImage[_Entry]] = []
    for names, entries in groups.items():
        platforms = [entry.platform for entry in entries]
        if None in platforms or len(set(platforms)) < len(platforms):  # different images, and not different platforms
            images += [NamedImage(_Entry((entry,)), names) for entry in dict.fromkeys(entries)]
        else:
            images.append(NamedImage(_Entry(tuple(entries)), names))
    return images


def _image_of_directory(members: Members) -> list[NamedImage[_Entry]]:
    """Return the image whose index or manifest is manifest.json. Raises MalformedImage."""
    version, data = read_member(members, "version", 100), read_member(members, "manifest.json")
    if version is not None and not version.startswith(b"Directory Transport Version: 1."):
        raise MalformedImage(f"its version is {printable(version[:60])!r}, which is none of skopeo's 1.x")
    if data is None:
        raise MalformedImage("it has no manifest.json, so it is no directory of skopeo", "name it by its path alone")
    descriptor = Descriptor(media_type_of(data, ""), Digest.of(data), len(data))
    return [NamedImage(_Entry((descriptor,)), ())]
