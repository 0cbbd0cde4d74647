"""Lists of tags: from the real registry, page after page, and from registries that don't behave."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from provisioner.errors import MalformedImage, NetworkError, NotFound
from provisioner.image.manifest import OCI_INDEX
from provisioner.image.platform import Platform
from provisioner.image.reference import Reference
from provisioner.registry.client import TAGS_LIMIT, RegistryClient
from provisioner.registry.tags import tag_names
from provisioner.sources.tags import with_offers, with_sizes
from provisioner.store.blobs import BlobCache
from provisioner.store.documents import CachingRegistry
from scripts.loopback_registry import Response
from tests.support import builders
from tests.support.docker_registry import DockerRegistry
from tests.support.scripted_registry import Request, ScriptedRegistry, TokenServer, html, json_response, mirrored
from tests.support.terminal import on_terminal, plain
from tests.support.tools import clean_environment, provision

LIST = "/v2/user/x/tags/list"
MANIFESTS = "/v2/user/x/manifests/.*"
AMD, ARM = builders.small(), builders.small(on="linux/arm64/v8")
BOTH = builders.index([("linux/amd64", AMD), ("linux/arm64/v8", ARM), ("unknown/unknown", ARM)])
ARM_SIZE = sum(len(layer.blob) for layer in ARM.layers)
Served = Callable[[Request], Response]


def pages(names: list[str], size: int, link: str = '</v2/user/x/tags/list?n={n}&last={last}>; rel="next"') -> Served:
    """A list of tags as the distribution-spec has it: after `last`, at most `size` at a time."""

    def answer(request: Request) -> Response:
        last = request.query.get("last", [""])[0]
        start = names.index(last) + 1 if last else 0
        page = names[start : start + size]
        following = {"Link": link.format(n=size, last=page[-1])} if start + size < len(names) else {}
        body = json.dumps({"name": "user/x", "tags": page}).encode()
        return Response(200, body, {"Content-Type": "application/json", **following})

    return answer


@pytest.fixture
def registry(registry: ScriptedRegistry) -> ScriptedRegistry:
    """A registry with the images of `user/x`, whose list of tags a test has yet to say."""
    for image in (AMD, ARM):
        registry.push("user/x", image, tag=None)
    return registry


def names_in(registry: ScriptedRegistry) -> list[str]:
    reference = Reference.parse(f"{registry.host}/user/x")
    return tag_names(RegistryClient(reference).tags_page, reference.registry)


# Pages


@pytest.mark.parametrize(
    "link",
    [
        '</v2/user/x/tags/list?n={n}&last={last}>; rel="next"',
        "<http://registry.invalid:5000/elsewhere?n={n}&last={last}>; rel=next",
        '<https://[::1?last={last}>;rel="next"',
        '<?last={last}#there>; title="a, b; c"; REL="prev next"',
        '</first>; rel="first", <?last={last}>; rel="next"',
    ],
)
def test_all_pages_are_read_and_no_link_leads_elsewhere(registry: ScriptedRegistry, link: str) -> None:
    names = [f"1.{number}" for number in range(95)]
    registry.on(LIST, pages(names, 10, link))
    assert names_in(registry) == names
    assert len(registry.asked(LIST)) == 10


def test_a_token_goes_with_every_page(registry: ScriptedRegistry) -> None:
    names = [f"1.{number}" for number in range(50)]
    served = pages(names, 10)
    server = TokenServer(registry, uses=2)
    registry.on(LIST, lambda request: server.check(request) or served(request))
    assert names_in(registry) == names
    assert server.issued > 1


def test_a_hundred_thousand_tags(registry: ScriptedRegistry) -> None:
    names = [f"{number >> 8}.{number & 255}" for number in range(100_000)]
    places = {name: place for place, name in enumerate(names)}

    class Fast(list[str]):
        def index(self, name: str) -> int:  # type: ignore[override]
            return places[name]

    registry.on(LIST, pages(Fast(names), 1000))
    begun = time.monotonic()
    assert names_in(registry) == names
    assert time.monotonic() - begun < 30
    assert registry.asked(LIST)[0].query == {"n": ["1000"]}


def test_a_registry_that_gives_all_at_once(registry: ScriptedRegistry) -> None:
    names = [f"1.{number}" for number in range(100_000)]
    registry.on(LIST, json_response({"tags": names}))
    assert names_in(registry) == names


@pytest.mark.parametrize("tags", [[], None])
def test_a_repository_without_tags(registry: ScriptedRegistry, tags: list[str] | None) -> None:
    registry.on(LIST, json_response({"name": "user/x", "tags": tags}))
    assert names_in(registry) == []


def test_what_cannot_be_a_tag_is_left_out(registry: ScriptedRegistry) -> None:
    registry.on(LIST, json_response({"tags": ["1.0", "\x1b[2Jevil", "", "a b", "-x", "2.0", "x" * 129, "é", "2.0\n"]}))
    assert names_in(registry) == ["1.0", "2.0"]


# Registries that don't behave


@pytest.mark.parametrize(
    "link",
    [
        '<?n=1000>; rel="next"',
        '<?last=a>; rel="next"',
    ],
)
def test_links_in_a_circle(registry: ScriptedRegistry, link: str) -> None:
    registry.on(LIST, Response(200, b'{"tags": ["a"]}', {"Link": link}))
    with pytest.raises(NetworkError, match="doesn't end"):
        names_in(registry)
    assert len(registry.asked(LIST)) <= 2


def test_links_that_always_lead_on(registry: ScriptedRegistry) -> None:
    def answer(request: Request) -> Response:
        return Response(200, b'{"tags": ["a"]}', {"Link": f'<?last={len(registry.requests)}>; rel="next"'})

    registry.on(LIST, answer)
    with pytest.raises(NetworkError, match="doesn't end"):
        names_in(registry)
    assert len(registry.asked(LIST)) < 20


@pytest.mark.parametrize(
    "link", ["nonsense", '</v2/>; rel="next"', '<?>; rel="next"', '<?a b>; rel="next"', '<?é>; rel="next"', "<?a"]
)
def test_links_that_lead_nowhere(registry: ScriptedRegistry, link: str) -> None:
    registry.on(LIST, Response(200, b'{"tags": ["a"]}', {"Link": link}))
    with pytest.raises(NetworkError, match="next page"):
        names_in(registry)


def test_links_to_anything_but_the_next_page(registry: ScriptedRegistry) -> None:
    registry.on(LIST, Response(200, b'{"tags": ["a"]}', {"Link": '<?last=a>; rel="prev", <?x>; rel=nextish; x="next"'}))
    assert names_in(registry) == ["a"]


@pytest.mark.parametrize(
    "body",
    [
        "", "null", "[]", "7", '"tags"', "{}", '{"tags": {}}', '{"tags": "1.0"}', '{"tags": [1]}',
        '{"tags": ["a", null]}', '{"tags": ""}', '{"tags": false}',
        '{"tags": [', "[" * 100_000, '{"tags": ' + "9" * 10_000 + "}", "\xff",
    ],
)  # fmt: skip
def test_lists_that_are_none(registry: ScriptedRegistry, body: str) -> None:
    registry.on(LIST, Response(200, body.encode("latin-1"), {"Content-Type": "application/json"}))
    with pytest.raises(NetworkError, match="list of tags"):
        names_in(registry)


def test_a_web_page(registry: ScriptedRegistry) -> None:
    registry.on(LIST, html())
    with pytest.raises(NetworkError, match="list of tags"):
        names_in(registry)


def test_a_page_that_is_too_large(registry: ScriptedRegistry) -> None:
    registry.on(LIST, Response(200, b" " * (TAGS_LIMIT + 1)))
    with pytest.raises(MalformedImage, match="more than 32 MiB"):
        names_in(registry)


def test_no_such_repository(registry: ScriptedRegistry) -> None:
    with pytest.raises(NotFound, match="has no tags"):
        names_in(registry)


@pytest.mark.parametrize(
    ("link", "query"),
    [
        ("<?a=1;b=2,c>; rel=next", "a=1;b=2,c"),
        ('</x>; title=", <?no>; rel=prev", <?yes>; title="a=b"; Rel="NEXT last"', "yes"),
        ('<?no>; rel="last"; title="rel=next"', None),
    ],
)
def test_separators_in_addresses_and_quoted_strings(link: str, query: str | None) -> None:
    asked: list[str] = []

    def page_of(query: str) -> tuple[bytes, str]:
        asked.append(query)
        return b'{"tags": ["a"]}', link if len(asked) == 1 else ""

    assert tag_names(page_of, "r.example") == ["a"]
    assert asked[1:] == ([query] if query else [])


# Platforms and sizes


def listing(registry: ScriptedRegistry, cache: Path) -> CachingRegistry:
    reference = Reference.parse(f"{registry.host}/user/x")
    return CachingRegistry(reference, mirrored(reference), BlobCache(cache))


def test_platforms_and_sizes(registry: ScriptedRegistry, tmp_path: Path) -> None:
    registry.add_manifest("user/x", BOTH, OCI_INDEX, "both")
    registry.add_manifest("user/x", AMD.manifest, tag="amd")
    registry.add_manifest("user/x", b'{"schemaVersion": 1}', tag="ancient")
    chart = builders.small(manifest={"config": builders.descriptor(b"{}", "application/vnd.cncf.helm.config.v1+json")})
    registry.push("user/x", chart, "chart")
    documents, arm = listing(registry, tmp_path), Platform("linux", "arm64", "v8")
    found = list(with_offers(documents, ["both", "amd", "gone", "ancient", "chart"], 3))
    assert [(tag.name, [str(offer.platform) for offer in tag.offers]) for tag in found] == [
        ("both", ["linux/amd64", "linux/arm64/v8"]),
        ("amd", ["linux/amd64"]),
        *((name, []) for name in ("gone", "ancient", "chart")),
    ]
    sizes = [best.size if (best := tag.offer(arm)) else None for tag in with_sizes(documents, found, arm, 3)]
    assert sizes == [ARM_SIZE, None, None, None, None]


def test_the_newest_variant_that_runs_there_is_offered(registry: ScriptedRegistry, tmp_path: Path) -> None:
    variants = builders.index([(f"linux/arm/{variant}", ARM) for variant in ("v5", "v7", "v6")])
    registry.add_manifest("user/x", variants, OCI_INDEX, "arm")
    [tag] = with_offers(listing(registry, tmp_path), ["arm"], 1)
    best = {level: tag.offer(Platform("linux", "arm", level)) for level in ("v5", "v6", "v8")}
    assert [offer and offer.platform.variant for offer in best.values()] == ["v5", "v6", "v7"]
    assert tag.offer(Platform("linux", "arm64", "v8")) is None


def test_a_registry_that_fails_meanwhile(registry: ScriptedRegistry, tmp_path: Path) -> None:
    registry.add_manifest("user/x", AMD.manifest, tag="a")
    registry.on(MANIFESTS, Response.error(503, "UNAVAILABLE", "later"))
    with pytest.raises(NetworkError, match="503"):
        list(with_offers(listing(registry, tmp_path), ["a"], 2))


# The command


def push(host: str, name: str, image: builders.Image) -> None:
    """Put the blobs of an image into a real registry."""
    for blob in image.blobs:
        begun = requests.post(f"http://{host}/v2/{name}/blobs/uploads/", timeout=30)
        where = begun.headers["Location"]
        requests.put(where, params={"digest": builders.digest_of(blob)}, data=blob, timeout=30).raise_for_status()


def put(host: str, name: str, tag: str, document: bytes, media_type: str) -> None:
    """Put a manifest or an index into a real registry."""
    headers = {"Content-Type": media_type}
    requests.put(
        f"http://{host}/v2/{name}/manifests/{tag}", data=document, headers=headers, timeout=30
    ).raise_for_status()


@pytest.fixture(scope="module")
def many(docker_registry: DockerRegistry) -> str:
    """A repository of 300 tags: 1.0 to 1.199 for two platforms, 2.0 to 2.99 for arm64 alone."""
    name, both = "user/many", builders.index([("linux/amd64", AMD), ("linux/arm64/v8", ARM)])
    for image in (AMD, ARM):
        push(docker_registry.host, name, image)
        put(docker_registry.host, name, builders.digest_of(image.manifest), image.manifest, image.media_type)
    for number in range(200):
        put(docker_registry.host, name, f"1.{number}", both, OCI_INDEX)
    for number in range(100):
        put(docker_registry.host, name, f"2.{number}", ARM.manifest, ARM.media_type)
    return f"{docker_registry.host}/{name}"


def test_a_real_registry_newest_first_for_one_platform(many: str, tmp_path: Path) -> None:
    done = provision("tags", "--platform=amd64", many, cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == [*(f"1.{number}" for number in range(199, 174, -1)), ""]
    assert "25 tags for linux/amd64, of 300 in all" in done.stderr
    done = provision("tags", "--platform=arm64", "--limit=3", "--quiet", many, cache=tmp_path)
    assert (done.stdout, done.stderr) == ("2.99\n2.98\n2.97\n", "")


def test_all_tags_of_a_real_registry(many: str, tmp_path: Path) -> None:
    done = provision("tags", "--all", many, cache=tmp_path)
    newest = [f"2.{number}" for number in range(99, -1, -1)] + [f"1.{number}" for number in range(199, -1, -1)]
    assert (done.stdout.split(), done.stderr) == (newest, "")
    assert list(tmp_path.iterdir()) == []


def test_tags_that_begin_so(many: str, tmp_path: Path) -> None:
    done = provision("tags", "--platform=amd64", f"{many}:1.19", cache=tmp_path)
    assert done.stdout.split() == [*(f"1.{number}" for number in range(199, 189, -1)), "1.19"]
    done = provision("tags", f"{many}:latest", cache=tmp_path)
    assert done.returncode == 3
    assert "no tags that begin with 'latest'" in done.stderr


def test_json_of_a_real_registry(many: str, tmp_path: Path) -> None:
    done = provision("tags", "--json", "--limit=1", "--platform=linux/arm64", f"{many}:1.", cache=tmp_path)
    digest = builders.digest_of(builders.index([("linux/amd64", AMD), ("linux/arm64/v8", ARM)]))
    assert json.loads(done.stdout) == [
        {
            "name": "1.199",
            "digest": digest,
            "platforms": ["linux/amd64", "linux/arm64/v8"],
            "platform": "linux/arm64/v8",
            "size": ARM_SIZE,
            "updated": None,
        }
    ]


@pytest.mark.parametrize("columns", [40, 20, 100])
def test_a_table_on_a_terminal(many: str, tmp_path: Path, columns: int) -> None:
    status, text = on_terminal("tags", "--platform=arm64", "--limit=2", many, columns=columns, cache=tmp_path)
    lines = plain(text).splitlines()
    assert status == 0
    assert all(len(line) <= columns for line in lines)
    assert lines[0].split()[:2] == ["TAG", "SIZE"]
    assert lines[1].split()[:3] == ["2.99", str(ARM_SIZE), "B"]
    assert (builders.digest_of(ARM.manifest)[7:19] in text) == (columns > 20)


def test_nothing_for_the_platform(many: str, tmp_path: Path) -> None:
    done = provision("tags", "--platform=s390x", f"{many}:2.9", cache=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert "none of the 11 tags" in done.stderr
    assert "--all" in done.stderr


def test_tags_that_name_no_image(registry: ScriptedRegistry, tmp_path: Path) -> None:
    registry.on(LIST, json_response({"tags": ["chart", "gone"]}))
    chart = builders.small(manifest={"config": builders.descriptor(b"{}", "application/vnd.cncf.helm.config.v1+json")})
    registry.push("user/x", chart, "chart")
    done = provision("tags", f"{registry.host}/user/x", cache=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(
        "2 tags name no image; chart: this is no container image but 'application/vnd.cncf.helm"
    )


def test_an_unknown_repository(docker_registry: DockerRegistry, tmp_path: Path) -> None:
    done = provision("tags", f"{docker_registry.host}/user/nowhere", cache=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert "user/nowhere has no tags" in done.stderr


def test_a_digest_has_no_tags(tmp_path: Path) -> None:
    done = provision("tags", "localhost/x@sha256:" + "0" * 64, cache=tmp_path)
    assert done.returncode == 2


def test_a_second_listing_downloads_nothing(registry: ScriptedRegistry, tmp_path: Path) -> None:
    names = [f"1.{number}" for number in range(40)]
    for name in names:
        registry.add_manifest("user/x", BOTH, OCI_INDEX, name)
    registry.on(LIST, pages(names, 15))

    def methods() -> tuple[int, int]:
        registry.requests.clear()
        done = provision("tags", "--platform=arm64", "--json", "--limit=30", f"{registry.host}/user/x", cache=tmp_path)
        assert len(json.loads(done.stdout)) == 30, done.stderr
        asked = [request.method for request in registry.asked(MANIFESTS)]
        return asked.count("HEAD"), asked.count("GET")

    heads, gets = methods()
    # One index and one manifest, whatever number of tags they have.
    assert gets == 2
    assert 30 <= heads <= 40
    assert methods()[1] == 0


def test_a_registry_that_fails_for_a_moment(registry: ScriptedRegistry, tmp_path: Path) -> None:
    registry.on(LIST, json_response({"tags": ["1.0"]}))
    registry.add_manifest("user/x", BOTH, OCI_INDEX, "1.0")
    for path in (LIST, MANIFESTS):
        registry.on(path, Response(503), times=1)
    done = provision("tags", "--platform=amd64", f"{registry.host}/user/x", cache=tmp_path)
    assert (done.returncode, done.stdout) == (0, "1.0\n"), done.stderr
    assert done.stderr.count("503") == 2


def test_tags_of_a_mirror_where_the_registry_is_away(registry: ScriptedRegistry, tmp_path: Path) -> None:
    registry.on(LIST, json_response({"tags": ["1.0", "1.1"]}))
    for tag in ("1.0", "1.1"):
        registry.add_manifest("user/x", BOTH, OCI_INDEX, tag)
    words = ("tags", "--platform=amd64", "localhost:1/user/x", f"--mirror={registry.host}")
    done = provision(*words, cache=tmp_path)
    assert (done.returncode, done.stdout) == (0, "1.1\n1.0\n"), done.stderr
    assert done.stderr.splitlines()[-1] == f"the list of tags comes from the mirror {registry.host}"
    assert provision(*words, "--quiet", cache=tmp_path).stderr == ""


def test_hostile_names_reach_no_terminal(registry: ScriptedRegistry, tmp_path: Path) -> None:
    registry.on(LIST, json_response({"tags": ["\x1b]0;owned\x07", "1.0", "\x9b2J"]}))
    registry.add_manifest("user/x", BOTH, OCI_INDEX, "1.0")
    _, text = on_terminal(
        "tags", "--platform=amd64", f"{registry.host}/user/x", columns=40, cache=tmp_path, NO_COLOR="1"
    )
    assert [line.split()[0] for line in text.splitlines()] == ["TAG", "1.0"]
    assert text.replace("\n", "").isprintable()


def test_whoever_reads_may_go(many: str, tmp_path: Path) -> None:
    import subprocess

    from tests.support.tools import provision_command

    command, options = provision_command("tags", "--all", many, cache=tmp_path, env=clean_environment())
    with subprocess.Popen(command, **options) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141
