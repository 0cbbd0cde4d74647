"""Scripted faults of registries, and what a pull must end with: for tests and for `make bench-faults`."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from pathlib import Path

from provisioner.errors import MalformedImage, NetworkError, NotAllowed, NotFound, ProvisionError
from provisioner.image.digest import Digest
from provisioner.image.platform import Platform
from provisioner.image.reference import Reference
from provisioner.provision import Plan, provision
from provisioner.registry import http
from provisioner.sources.registry import RegistrySource
from provisioner.store.blobs import BlobCache
from provisioner.terminal.progress import Console
from scripts.loopback_registry import Response
from tests.support import builders
from tests.support.scripted_registry import (
    Answer,
    Broken,
    Link,
    Request,
    ScriptedRegistry,
    Time,
    TokenServer,
    challenge,
    html,
    mirrored,
)

CONTENT = builders.incompressible(700_000)
BIG = builders.layer(("data", CONTENT))
IMAGE = builders.image(builders.layer(("etc", None), ("etc/os-release", b"ID=tiny\n")), BIG)
SIZE = len(BIG.blob)

LAYER = f"/v2/x/blobs/{builders.digest_of(BIG.blob)}"
CONFIG = f"/v2/x/blobs/{builders.digest_of(IMAGE.config)}"
TAG, BLOBS, ALL = "/v2/x/manifests/latest", "/v2/x/blobs/.*", "/v2/.*"


@dataclass
class Bench:
    """Three servers with the same image, a clock, and the messages of a pull."""

    origin: ScriptedRegistry
    mirror: ScriptedRegistry
    """Has the same image."""
    storage: ScriptedRegistry
    """The server that redirects lead to."""
    time: Time = field(default_factory=Time)
    messages: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    """Set at the end: connections that are kept silent stop then."""


@dataclass(frozen=True)
class Case:
    """A fault, and what the pull must end with."""

    name: str
    script: Callable[[Bench], object]
    """Sets up the fault."""
    error: type[ProvisionError] | None = None
    """None where the pull has to succeed."""
    why: str = ""
    """A regular expression for the error's message."""
    says: str = ""
    """A regular expression for the messages before the end."""
    mirrors: tuple[str, ...] = ()
    """The mirrors that are configured; `mirror` stands for the scripted one."""
    silence: float = 60.0
    """The seconds of a silence that a pull waits for: few only where a server is silent, for it may just be slow."""


SHORT = 0.5
"""A short silence."""


def real(registry: ScriptedRegistry, request: Request) -> Response:
    return registry.respond(request.method, request.path, request.headers)


def edited(registry: ScriptedRegistry, edit: Callable[[Response], Response], *, ranges: bool = False) -> Answer:
    """Return the registry's own response, edited; with `ranges`, only for requests with a Range."""

    def answer(request: Request) -> Response | None:
        return None if ranges and "Range" not in request.headers else edit(real(registry, request))

    return answer


def cut(registry: ScriptedRegistry, sent: int, **how: bool | threading.Event | None) -> Answer:
    """Return the registry's own response, cut off after `sent` bytes of the body."""

    def broken(response: Response) -> Response:
        return Broken(response.status, response.body, response.headers, sent=sent, **how)  # type: ignore[arg-type]

    return edited(registry, broken)


def status(code: int, retry_after: str = "") -> Response:
    return Response(code, b"", {"Retry-After": retry_after} if retry_after else {})


def in_seconds(seconds: int) -> str:
    """Return the time in so many seconds as an HTTP date."""
    return formatdate(time.time() + seconds, usegmt=True)


def once(pattern: str, answer: Answer | Callable[[Bench], Answer], times: int = 1) -> Callable[[Bench], object]:
    """Return a script that makes the registry give this answer the next `times`."""

    def script(bench: Bench) -> None:
        response = answer if isinstance(answer, Response) else answer(bench)  # type: ignore[arg-type]
        bench.origin.on(pattern, response, times)  # type: ignore[arg-type]

    return script


def always(pattern: str, answer: Answer | Callable[[Bench], Answer]) -> Callable[[Bench], object]:
    return once(pattern, answer, 1 << 30)


def resuming(answer: Callable[[Response], Response]) -> Callable[[Bench], object]:
    """Return a script that cuts the layer off once, and gives this answer to requests for the rest."""

    def script(bench: Bench) -> None:
        bench.origin.on(LAYER, edited(bench.origin, answer, ranges=True))
        bench.origin.on(LAYER, cut(bench.origin, 300_000), 1)

    return script


def mirror(pattern: str, answer: Answer | Callable[[Bench], Answer]) -> Callable[[Bench], object]:
    """Return a script that makes the mirror give this answer each time."""

    def script(bench: Bench) -> None:
        response = answer if isinstance(answer, Response) else answer(bench)  # type: ignore[arg-type]
        bench.mirror.on(pattern, response)  # type: ignore[arg-type]

    return script


def both(*scripts: Callable[[Bench], object]) -> Callable[[Bench], object]:
    return lambda bench: [script(bench) for script in scripts]


def headers(response: Response, **changed: str) -> Response:
    return replace(response, headers={**response.headers, **{k.replace("_", "-"): v for k, v in changed.items()}})


def another_range(response: Response) -> Response:
    return headers(replace(response, body=BIG.blob[5:]), Content_Range=f"bytes 5-{SIZE - 1}/{SIZE}")


def whole(response: Response) -> Response:
    return Response(200, BIG.blob)


def of_length(text: str) -> Response:
    """Return a response with the whole layer and another Content-Length."""
    return Broken(200, BIG.blob, {"Content-Length": text}, sent=SIZE, announced=False)


def flipped(response: Response) -> Response:
    """Return the response with a flipped bit in the middle."""
    middle = len(response.body) // 2
    body = response.body[:middle] + bytes([response.body[middle] ^ 1]) + response.body[middle + 1 :]
    return replace(response, body=body)


def redirected(bench: Bench, *answers: Response) -> None:
    """Redirect requests for the layer to storage, which gives these answers first."""
    bench.origin.on(LAYER, Response(307, b"", {"Location": f"{bench.storage.url}{LAYER}?signed"}))
    for answer in reversed(answers):
        bench.storage.on(LAYER, answer, 1)


def cut_with_tokens(bench: Bench) -> None:
    """Each token is good for three requests, and the layer comes in five pieces."""
    # With two, the other layer's requests can use up a token between its renewal and its first use.
    server = TokenServer(bench.origin, uses=3)
    broken = cut(bench.origin, 150_000)
    bench.origin.on(LAYER, lambda request: server.check(request) or broken(request))  # type: ignore[operator]


def stalled(bench: Bench, sent: int = 300_000) -> Answer:
    return cut(bench.origin, sent, wait=bench.ended)


MIRROR = ("mirror",)
AGAIN, ELSEWHERE = "; trying again", "; trying [0-9a-z]+[.:]"
LEFT_OUT = "is not asked any more"

CASES = [
    Case("nothing", lambda bench: None),
    Case("cut before the first byte", once(LAYER, lambda bench: cut(bench.origin, 0)), says="broke off"),
    Case("cut in the middle", once(LAYER, lambda bench: cut(bench.origin, 300_000)), says="broke off"),
    Case("cut at the last byte", once(LAYER, lambda bench: cut(bench.origin, SIZE - 1)), says="broke off"),
    Case("cut again and again", always(LAYER, lambda bench: cut(bench.origin, 70_000)), says="broke off"),
    Case("cut again and again, without a length", always(LAYER, lambda b: cut(b.origin, 70_000, announced=False))),
    Case("cut to nothing each time", always(LAYER, lambda b: cut(b.origin, 0)), NetworkError, "layer 2 .*broke off"),
    Case("reset before the headers", once(LAYER, Broken(0, reset=True))),
    Case("reset in the middle", once(LAYER, lambda bench: cut(bench.origin, 300_000, reset=True))),
    Case("reset, whatever is asked", always(ALL, Broken(0, reset=True)), NetworkError, "can't be reached"),
    Case("stalled in the middle", once(LAYER, stalled), says="doesn't answer in time", silence=SHORT),
    Case(
        "stalled before the headers",
        once(LAYER, lambda b: Broken(0, wait=b.ended)),
        says="doesn't answer in time",
        silence=SHORT,
    ),
    Case(
        "stalled each time",
        always(LAYER, lambda bench: stalled(bench, 0)),
        NetworkError,
        "doesn't answer in time",
        silence=SHORT,
    ),
    Case("slow, but never silent", lambda bench: setattr(bench.origin, "link", Link(500e3)), silence=SHORT),
    Case("500", once(LAYER, status(500)), says="500 .*; trying again"),
    Case("502 three times", once(LAYER, status(502), 3), says=AGAIN),
    Case("500 each time", always(LAYER, status(500)), NetworkError, "answers with 500"),
    Case("503 with seconds", once(LAYER, status(503, "7")), says="again in [78] s"),
    Case(
        "503 with a date",
        once(LAYER, lambda b: lambda request: status(503, in_seconds(9))),
        says="again in ([89]|10) s",
    ),
    Case("408", once(LAYER, status(408))),
    Case("429", once(LAYER, status(429)), says="too many requests"),
    Case("429 each time", always(LAYER, status(429)), NetworkError, "too many requests"),
    Case("429 with garbage", once(LAYER, status(429, "\x7f soon"))),
    Case("429 with a negative time", once(LAYER, status(429, "-3600"))),
    Case("429 for a million years", once(LAYER, status(429, "9" * 14)), NetworkError, "too many requests"),
    Case("429 for the tag", once(TAG, status(429, "3"))),
    Case("416", resuming(lambda response: status(416)), says="broke off"),
    Case("ranges ignored", resuming(whole)),
    Case("another range", resuming(another_range)),
    Case("a range of something else", resuming(lambda r: headers(r, Content_Range="bytes 300000-400000/400001"))),
    Case("a range that is none", resuming(lambda r: headers(r, Content_Range=f"{'9' * 400}-1/\x7f"))),
    Case("a range that doesn't say so", resuming(lambda r: replace(r, headers={}))),
    Case("a shorter range", resuming(lambda r: replace(r, body=r.body[:100_000]))),
    Case("a longer range", resuming(lambda r: replace(r, body=r.body + b"x")), MalformedImage, "has more than"),
    Case("the wrong bytes for the rest", resuming(flipped), says="sent a corrupt|was damaged|verified"),
    Case("a flipped bit", once(LAYER, lambda b: edited(b.origin, flipped)), says="sent a corrupt blob"),
    Case("a flipped bit each time", always(LAYER, lambda b: edited(b.origin, flipped)), MalformedImage, "digest"),
    Case("a shorter layer", always(LAYER, Response(200, BIG.blob[:-1])), MalformedImage, "were announced"),
    Case("a longer layer", always(LAYER, Response(200, BIG.blob + b"x")), MalformedImage, "were announced"),
    Case("a length below zero", always(LAYER, of_length("-5"))),
    Case("a length in words", always(LAYER, of_length("\x7fmany"))),
    Case("a length that nobody has", always(LAYER, of_length("9" * 30))),
    Case("a length that is another one", always(LAYER, of_length("5")), MalformedImage, "has 5 bytes"),
    Case("a web page for a layer", always(LAYER, html()), MalformedImage, "were announced"),
    Case("no such layer", always(LAYER, status(404)), MalformedImage, "is incomplete"),
    Case("an endless layer", always(LAYER, Broken(200, BIG.blob * 2, sent=2 * SIZE, announced=False)), MalformedImage),
    Case("a flipped bit in the config", once(CONFIG, lambda b: edited(b.origin, flipped))),
    Case("the config is cut", once(CONFIG, lambda bench: cut(bench.origin, 50))),
    Case("the manifest is cut", once(TAG, lambda bench: cut(bench.origin, 50))),
    Case("no answer to the ping", once("/v2/", Broken(0, reset=True))),
    Case("503 for the ping", once("/v2/", status(503))),
    Case("tokens for two requests each", lambda bench: TokenServer(bench.origin, uses=2)),
    Case("tokens that end in the middle of a blob", cut_with_tokens, says="broke off"),
    Case("500 for a token", both(lambda bench: TokenServer(bench.origin), once("/token", status(500))), says=AGAIN),
    Case(
        "no tokens", both(lambda b: TokenServer(b.origin), always("/token", status(500))), NetworkError, "token server"
    ),
    Case("a password is wanted", always(ALL, challenge('Basic realm="r"')), NotAllowed, "user name"),
    Case("redirected", redirected),
    Case("redirected to storage that is busy", lambda bench: redirected(bench, status(503), status(503, "2"))),
    Case("redirected to storage that cuts", lambda b: redirected(b, Broken(200, BIG.blob, sent=300_000))),
    Case("redirected to nowhere once", once(LAYER, Response(307, b"", {"Location": "http://127.0.0.1:1/"}))),
    Case(
        "redirected to a name without an address once",
        once(LAYER, Response(307, b"", {"Location": "https://registry.invalid/"})),
        says="registry.invalid can't be reached",
    ),
    Case("redirected in circles", always(LAYER, Response(307, b"", {"Location": LAYER})), NetworkError, "redirects"),
    Case("the mirror is right", lambda bench: None, mirrors=MIRROR),
    Case("the mirror is down", lambda bench: None, says=f"127.0.0.1:1 can't .*{ELSEWHERE}", mirrors=("127.0.0.1:1",)),
    Case("the mirror cuts", mirror(LAYER, lambda b: cut(b.mirror, 300_000)), says=ELSEWHERE, mirrors=MIRROR),
    Case("the mirror flips a bit", mirror(LAYER, lambda b: edited(b.mirror, flipped)), says=LEFT_OUT, mirrors=MIRROR),
    Case("the mirror has nothing", mirror(ALL, status(404)), says=LEFT_OUT, mirrors=MIRROR),
    Case("the mirror lacks a layer", mirror(LAYER, status(404)), says=LEFT_OUT, mirrors=MIRROR),
    Case("the mirror is a web page", mirror(ALL, html()), says=LEFT_OUT, mirrors=MIRROR),
    Case("the mirror wants a password", mirror(ALL, challenge('Basic realm="r"')), says=LEFT_OUT, mirrors=MIRROR),
    Case(
        "the mirror is silent",
        mirror(LAYER, lambda b: Broken(0, wait=b.ended)),
        says=ELSEWHERE,
        mirrors=MIRROR,
        silence=SHORT,
    ),
    Case("the mirror is busy for an hour", mirror(LAYER, status(429, "3600")), says=LEFT_OUT, mirrors=MIRROR),
    Case("the registry is down", always(ALL, status(503)), says="tag 'latest' comes from the mirror", mirrors=MIRROR),
    Case("the registry has no such tag, the mirror has", always(TAG, status(404)), NotFound, mirrors=MIRROR),
    Case("the registry lost a layer that the mirror has", always(LAYER, status(404)), mirrors=MIRROR),
    Case(
        "both cut each time",
        both(always(LAYER, lambda b: cut(b.origin, 90_000)), mirror(LAYER, lambda b: cut(b.mirror, 90_000))),
        says=ELSEWHERE,
        mirrors=MIRROR,
    ),
    Case(
        "both are wrong",
        both(always(LAYER, lambda b: edited(b.origin, flipped)), mirror(LAYER, lambda b: edited(b.mirror, flipped))),
        MalformedImage,
        "does not match its digest",
        mirrors=MIRROR,
    ),
]


@contextmanager
def bench_of_registries(silence: float) -> Iterator[Bench]:
    """Run the three servers with the image, with a timeout for silence."""
    before, http.SILENCE_SECONDS = http.SILENCE_SECONDS, silence
    try:
        with ScriptedRegistry() as origin, ScriptedRegistry() as mirror, ScriptedRegistry() as storage:
            for registry in (origin, mirror, storage):
                registry.push("x", IMAGE)
            bench = Bench(origin, mirror, storage)
            try:
                yield bench
            finally:
                bench.ended.set()
    finally:
        http.SILENCE_SECONDS = before


def check(case: Case, place: Path) -> None:
    """Pull the image with the fault of the case. AssertionError unless that ends as the case says."""
    with bench_of_registries(case.silence) as bench:
        case.script(bench)
        reference = Reference.parse(f"{bench.origin.host}/x")
        mirrors = [name.replace("mirror", bench.mirror.host) for name in case.mirrors]
        registry = mirrored(reference, *mirrors, say=bench.messages.append, time=bench.time)
        source = RegistrySource(reference, registry, BlobCache(place / "cache"), 4)
        directory = place / "directory"
        failure: ProvisionError | None = None
        try:
            provision(
                Plan(directory, Platform("linux", "amd64")),
                source,
                Console(quiet=True),
            )
        except ProvisionError as error:
            failure = error
        _check_outcome(case, failure, directory)
        assert re.search(case.says, "\n".join(bench.messages)), bench.messages
        assert all(line.isprintable() for line in bench.messages)
        assert sum(bench.time.slept) < 300
        check_cache(place / "cache")


def _check_outcome(case: Case, failure: ProvisionError | None, directory: Path) -> None:
    if case.error is None:
        if failure:
            raise failure
        assert (directory / "rootfs/data").read_bytes() == CONTENT
        return
    assert isinstance(failure, case.error), failure
    assert re.search(case.why, failure.message), failure.message
    assert failure.message.isprintable()
    assert failure.hint.isprintable()
    assert failure.hint
    assert not directory.exists()


def check_cache(cache: Path) -> None:
    """AssertionError unless every complete blob of a cache matches its digest."""
    for path in cache.glob("sha256/*"):
        assert Digest.of(path.read_bytes()).hex == path.name
