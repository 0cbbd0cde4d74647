"""Pushes to a registry that fails in every step; what is sent, and what is sent again."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from provisioner.errors import MalformedImage, NetworkError, NotAllowed, NotFound, ProvisionError
from provisioner.image.digest import Digest
from provisioner.image.manifest import OCI_MANIFEST, Descriptor
from provisioner.image.reference import Reference
from provisioner.image.stored_blob import StoredBlob
from provisioner.registry.credentials import Credentials
from provisioner.registry.push import Push
from provisioner.registry.push_client import PushClient
from provisioner.registry.retry import TransientError
from scripts.loopback_registry import Response
from tests.support import builders
from tests.support.scripted_registry import Request, Time, TokenServer, challenge
from tests.support.writable_registry import WritableRegistry

MIB = 1 << 20
DATA = builders.incompressible(3 * MIB)
MANIFEST = builders.small().manifest


@contextmanager
def stored(data: bytes) -> Iterator[StoredBlob]:
    """A blob in a file, not at its start."""
    with tempfile.TemporaryFile() as file:
        file.write(b"before" + data)
        file.flush()
        yield StoredBlob(Descriptor("", Digest.of(data), len(data)), file.fileno(), 6)


class Pusher:
    """A push to a repository, with what it says."""

    def __init__(self, registry: WritableRegistry, mounts: str = "") -> None:
        self.lines: list[str] = []
        self.sent = 0
        self.time = Time()
        reference = Reference.parse(f"{registry.host}/me/x:tag")
        client = PushClient(reference, credentials=Credentials(()), mounts=mounts)
        self.push = Push(client, self.lines.append, self.time.timing)
        self.push.progress = self._count

    def _count(self, count: int) -> None:
        self.sent += count


@pytest.fixture
def registry() -> Iterator[WritableRegistry]:
    with WritableRegistry() as registry:
        yield registry


@pytest.fixture
def pusher(registry: WritableRegistry) -> Pusher:
    return Pusher(registry)


@pytest.fixture
def blob() -> Iterator[StoredBlob]:
    with stored(DATA) as made:
        yield made


UPLOADS = "/v2/me/x/blobs/uploads/.*"
BLOBS = "/v2/me/x/blobs/sha256:.*"


def is_complete(registry: WritableRegistry) -> bool:
    return registry.blobs.get(("me/x", str(Digest.of(DATA)))) == DATA


def test_a_blob_is_looked_for_sent_whole_and_looked_for_again(
    registry: WritableRegistry, pusher: Pusher, blob: StoredBlob
) -> None:
    assert pusher.push.push_blob(blob)
    assert is_complete(registry)
    assert registry.methods("/v2/me/.*") == ["HEAD", "POST", "PUT", "HEAD"]
    assert registry.asked(UPLOADS)[1].query["state"] == ["a/b"]  # of the Location, which is kept
    assert (pusher.sent, pusher.lines) == (len(DATA), [])
    assert not pusher.push.push_blob(blob)
    assert registry.methods("/v2/me/.*")[4:] == ["HEAD"]


def test_a_blob_is_mounted_from_another_repository(registry: WritableRegistry, blob: StoredBlob) -> None:
    registry.add_blob("other", DATA)
    pusher = Pusher(registry, "other")
    assert pusher.push.has_blob(blob.descriptor, may_mount=True)
    assert is_complete(registry)
    assert pusher.sent == 0
    assert registry.asked(UPLOADS)[0].query == {"mount": [str(Digest.of(DATA))], "from": ["other"]}


def test_what_cannot_be_mounted_is_sent_in_the_upload_that_was_begun(
    registry: WritableRegistry, blob: StoredBlob
) -> None:
    pusher = Pusher(registry, "other")
    assert not pusher.push.has_blob(blob.descriptor, may_mount=True)
    assert pusher.push.push_blob(blob)
    assert is_complete(registry)
    assert registry.methods(UPLOADS) == ["POST", "PUT"]


@pytest.mark.parametrize("status", [400, 403, 404, 405])
def test_a_registry_that_refuses_to_mount_gets_the_blob(
    registry: WritableRegistry, blob: StoredBlob, status: int
) -> None:
    registry.fail("POST", UPLOADS, Response.error(status, "UNSUPPORTED", "no mounts"))
    pusher = Pusher(registry, "other")
    assert not pusher.push.has_blob(blob.descriptor, may_mount=True)
    assert pusher.push.push_blob(blob)
    assert is_complete(registry)


@pytest.mark.parametrize("status", [405, 411, 413, 501])
def test_a_whole_blob_that_is_refused_is_sent_in_parts(
    registry: WritableRegistry, pusher: Pusher, blob: StoredBlob, status: int
) -> None:
    registry.fail("PUT", UPLOADS, Response.error(status, "SIZE_INVALID", "no"))
    assert pusher.push.push_blob(blob)
    assert is_complete(registry)
    assert "PATCH" in registry.methods(UPLOADS)
    patch = next(request for request in registry.requests if request.method == "PATCH")
    assert patch.headers["Content-Range"] == f"0-{len(DATA) - 1}"
    assert pusher.sent == len(DATA)
    assert pusher.lines == ["the registry doesn't accept a whole blob: sending it in chunks"]


def test_parts_become_smaller_until_they_fit(registry: WritableRegistry, pusher: Pusher, blob: StoredBlob) -> None:
    registry.largest = 1 * MIB
    assert pusher.push.push_blob(blob)
    assert is_complete(registry)
    taken = [request for request in registry.requests if request.method == "PATCH"][-3:]
    assert [request.headers["Content-Range"] for request in taken] == [
        f"{start * MIB}-{start * MIB + MIB - 1}" for start in range(3)
    ]
    assert pusher.sent == len(DATA)


def test_no_part_is_too_small(registry: WritableRegistry, pusher: Pusher, blob: StoredBlob) -> None:
    registry.largest, registry.least = 1 * MIB, 2 * MIB
    with pytest.raises(NetworkError, match="status 413"):
        pusher.push.push_blob(blob)
    sizes = [int(r.headers["Content-Length"]) for r in registry.requests if r.method == "PATCH"]
    assert min(sizes) >= 2 * MIB


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_what_broke_off_goes_on_where_the_registry_is(
    registry: WritableRegistry, pusher: Pusher, blob: StoredBlob, method: str
) -> None:
    if method == "PATCH":
        registry.fail("PUT", UPLOADS, Response.error(413, "SIZE_INVALID", "no"))
    registry.fail(method, UPLOADS, None, keep=1 * MIB)
    assert pusher.push.push_blob(blob)
    assert is_complete(registry)
    rest = [r.headers["Content-Range"] for r in registry.requests if r.method in ("PATCH", "PUT")]
    assert f"{MIB}-{len(DATA) - 1}" in rest
    assert pusher.sent == len(DATA)


STEPS = [("HEAD", BLOBS), ("POST", UPLOADS), ("PUT", UPLOADS), ("HEAD", BLOBS)]


@pytest.mark.parametrize("answer", [None, Response(503), Response(500), Response(429, b"", {"Retry-After": "7"})])
@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_each_step_is_tried_again(
    registry: WritableRegistry,
    pusher: Pusher,
    blob: StoredBlob,
    step: tuple[str, str],
    answer: Response | None,
    is_after: bool,
) -> None:
    """Also where only the answer was lost."""
    registry.fail(*step, answer, is_after=is_after)
    pusher.push.push_blob(blob)
    assert is_complete(registry)
    assert any("trying again" in line for line in pusher.lines)
    if answer and answer.status == 429:
        assert pusher.time.slept[0] > 7


@pytest.mark.parametrize("step", ["PATCH", "GET"])
def test_the_steps_of_parts_are_tried_again(
    registry: WritableRegistry, pusher: Pusher, blob: StoredBlob, step: str
) -> None:
    registry.fail("PUT", UPLOADS, Response.error(413, "SIZE_INVALID", "no"))
    registry.fail(step, UPLOADS, Response(503)).fail(step, UPLOADS, None)
    assert pusher.push.push_blob(blob)
    assert is_complete(registry)
    assert pusher.sent == len(DATA)


@pytest.mark.parametrize("text", ["0-0", "0-10", "0-99999999"])
def test_a_registry_that_counts_wrong_never_makes_an_endless_loop(
    registry: WritableRegistry, pusher: Pusher, blob: StoredBlob, text: str
) -> None:
    registry.fail("PUT", UPLOADS, Response.error(413, "SIZE_INVALID", "no"))
    registry.fail("PATCH", UPLOADS, Response(202, b"", {"Range": text}), 1000)
    with pytest.raises(TransientError, match="only a part"):
        pusher.push.push_blob(blob)
    assert registry.methods(UPLOADS).count("PATCH") < 20


def test_an_upload_that_the_registry_forgets_begins_anew(
    registry: WritableRegistry, pusher: Pusher, blob: StoredBlob
) -> None:
    registry.fail("PUT", UPLOADS, Response.error(404, "BLOB_UPLOAD_UNKNOWN", "gone"))
    registry.fail("GET", UPLOADS, Response.error(404, "BLOB_UPLOAD_UNKNOWN", "gone"))
    assert pusher.push.push_blob(blob)
    assert is_complete(registry)
    assert registry.methods(UPLOADS).count("POST") == 2


@pytest.mark.parametrize("text", ["", "0-99999999999", "5-7", "bytes", "0--1"])
def test_a_state_that_cannot_be_begins_anew(
    registry: WritableRegistry, pusher: Pusher, blob: StoredBlob, text: str
) -> None:
    registry.fail("PUT", UPLOADS, None, keep=1 * MIB)
    registry.fail("GET", UPLOADS, Response(204, b"", {"Range": text}))
    assert pusher.push.push_blob(blob)
    assert is_complete(registry)
    assert pusher.sent == len(DATA)


@pytest.mark.parametrize("step", STEPS[:3])
def test_a_registry_that_never_recovers_is_given_up(
    registry: WritableRegistry, pusher: Pusher, blob: StoredBlob, step: tuple[str, str]
) -> None:
    registry.fail(*step, Response(503), 1000)
    with pytest.raises(TransientError, match="503"):
        pusher.push.push_blob(blob)
    assert sum(pusher.time.slept) < 300


def test_a_blob_that_isn_t_there_afterwards_is_an_error(
    registry: WritableRegistry, pusher: Pusher, blob: StoredBlob
) -> None:
    registry.fail("PUT", UPLOADS, Response(201))
    with pytest.raises(NetworkError, match="doesn't have it"):
        pusher.push.push_blob(blob)


def test_a_blob_that_was_taken_for_another_is_an_error(
    registry: WritableRegistry, pusher: Pusher, blob: StoredBlob
) -> None:
    registry.fail("PUT", UPLOADS, Response(201, b"", {"Docker-Content-Digest": "sha256:" + "0" * 64}))
    with pytest.raises(NetworkError, match="stored the blob"):
        pusher.push.push_blob(blob)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, NotAllowed), (403, NotAllowed), (404, NotFound), (400, NetworkError), (418, NetworkError)],
)
def test_refusals_are_final(
    registry: WritableRegistry, pusher: Pusher, blob: StoredBlob, status: int, kind: type[ProvisionError]
) -> None:
    registry.fail("POST", UPLOADS, Response.error(status, "DENIED", "not \x1b[31mhere"), 9)
    with pytest.raises(kind) as caught:
        pusher.push.push_blob(blob)
    assert "\x1b" not in caught.value.message
    assert caught.value.hint
    assert pusher.time.slept == []


@pytest.mark.parametrize(
    "location",
    ["", "http://192.0.2.1/x", "ftp://host/x", "http://user@127.0.0.1/", "//[bad", "http://exa\\mple/", "x" * 10],
)
def test_addresses_that_cannot_be_used_are_refused(
    registry: WritableRegistry, pusher: Pusher, blob: StoredBlob, location: str
) -> None:
    registry.fail("POST", UPLOADS, Response(202, b"", {"Location": location} if location else {}), 9)
    with pytest.raises(ProvisionError):
        pusher.push.push_blob(blob)
    assert all(request.path.startswith("/v2/") for request in registry.requests)


def test_another_server_gets_no_token(registry: WritableRegistry, blob: StoredBlob) -> None:
    """The Location may be on another host, such as that of the storage."""
    with WritableRegistry() as storage:
        storage.uploads["there"] = b""
        tokens = TokenServer(registry)
        registry.check = tokens.check
        away = Response(202, b"", {"Location": f"{storage.url}/v2/me/x/blobs/uploads/there"})
        registry.fail("POST", UPLOADS, away)
        pusher = Pusher(registry)
        with pytest.raises(NetworkError, match="doesn't have it"):
            pusher.push.push_blob(blob)
        assert storage.blobs["me/x", str(Digest.of(DATA))] == DATA
        assert all("Authorization" not in request.headers for request in storage.requests)


@pytest.mark.parametrize("status", [307, 308])
def test_redirects_of_uploads_are_followed_with_the_content(
    registry: WritableRegistry, pusher: Pusher, blob: StoredBlob, status: int
) -> None:
    registry.uploads["there"] = b""
    registry.fail(
        "PUT", UPLOADS, Response(status, b"", {"Location": f"/v2/me/x/blobs/uploads/there?digest={Digest.of(DATA)}"})
    )
    assert pusher.push.push_blob(blob)
    assert is_complete(registry)


# Tokens


def test_tokens_have_the_scope_of_pushes_and_mounts(registry: WritableRegistry, blob: StoredBlob) -> None:
    tokens = TokenServer(registry)
    registry.check = tokens.check
    registry.add_blob("other", DATA)
    pusher = Pusher(registry, "other")
    assert pusher.push.has_blob(blob.descriptor, may_mount=True)
    assert tokens.scopes == ["repository:me/x:pull,push", "repository:other:pull"]
    assert tokens.issued == 1


def test_a_token_that_expires_is_replaced(registry: WritableRegistry, pusher: Pusher, blob: StoredBlob) -> None:
    tokens = TokenServer(registry, uses=1)
    registry.check = tokens.check
    assert pusher.push.push_blob(blob)
    pusher.push.push_manifest("tag", MANIFEST, OCI_MANIFEST)
    assert is_complete(registry)
    assert tokens.issued > 3


def test_a_token_server_that_refuses_the_other_repository_is_asked_for_one(
    registry: WritableRegistry, blob: StoredBlob
) -> None:
    tokens = TokenServer(registry)
    registry.check = tokens.check

    def refuse(request: Request) -> Response | None:
        return Response(403) if len(request.query.get("scope", [])) > 1 else None

    registry.on("/token", refuse)
    rules = registry._rules  # the first rule that returns nothing lets the registry itself answer
    rules[0].answer = lambda request: refuse(request) or tokens._issue(request)
    pusher = Pusher(registry, "other")
    assert not pusher.push.has_blob(blob.descriptor, may_mount=True)
    assert pusher.push.push_blob(blob)
    assert is_complete(registry)


def test_who_isn_t_logged_in_is_told(registry: WritableRegistry, pusher: Pusher, blob: StoredBlob) -> None:
    registry.check = lambda request: challenge('Basic realm="x"')
    with pytest.raises(NotAllowed, match="doesn't let who isn't logged in push") as caught:
        pusher.push.push_blob(blob)
    assert "provision login" in caught.value.hint


# The manifest


def test_a_manifest_is_written_with_its_type_and_looked_for(registry: WritableRegistry, pusher: Pusher) -> None:
    assert not pusher.push.has_tag("tag", Digest.of(MANIFEST))
    pusher.push.push_manifest("tag", MANIFEST, OCI_MANIFEST)
    assert registry.manifests["me/x", "tag"] == (OCI_MANIFEST, MANIFEST)
    assert pusher.push.has_tag("tag", Digest.of(MANIFEST))


@pytest.mark.parametrize("answer", [None, Response(503)])
@pytest.mark.parametrize("method", ["PUT", "GET"])
def test_the_steps_of_a_manifest_are_tried_again(
    registry: WritableRegistry, pusher: Pusher, method: str, answer: Response | None
) -> None:
    registry.fail(method, "/v2/me/x/manifests/tag", answer)
    pusher.push.push_manifest("tag", MANIFEST, OCI_MANIFEST)
    assert registry.manifests["me/x", "tag"] == (OCI_MANIFEST, MANIFEST)


def test_a_tag_that_names_something_else_afterwards_is_an_error(registry: WritableRegistry, pusher: Pusher) -> None:
    other = builders.small(config={"created": "2001-01-01T00:00:00Z"}).manifest
    registry.fail("PUT", "/v2/me/x/manifests/tag", Response(201))
    registry.add_manifest("me/x", other, OCI_MANIFEST, "tag")
    with pytest.raises(NetworkError, match="which was pushed"):
        pusher.push.push_manifest("tag", MANIFEST, OCI_MANIFEST)


def test_a_manifest_that_is_refused_is_told(registry: WritableRegistry, pusher: Pusher) -> None:
    refused = Response.error(400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry")
    registry.fail("PUT", "/v2/me/x/manifests/tag", refused)
    with pytest.raises(NetworkError, match="blob unknown to registry"):
        pusher.push.push_manifest("tag", MANIFEST, OCI_MANIFEST)


# What is sent


def test_a_file_that_ends_early_is_an_error(registry: WritableRegistry, pusher: Pusher) -> None:
    with stored(DATA) as blob:
        cut = StoredBlob(Descriptor("", Digest.of(DATA), len(DATA) + 1000), blob.file, blob.start)
        with pytest.raises(MalformedImage, match="ends after"):
            pusher.push.push_blob(cut)


def test_an_empty_blob_is_sent(registry: WritableRegistry, pusher: Pusher) -> None:
    with stored(b"") as blob:
        assert pusher.push.push_blob(blob)
    assert registry.blobs["me/x", str(Digest.of(b""))] == b""
