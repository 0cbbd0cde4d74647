from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from provisioner.errors import UsageError
from provisioner.image.digest import Digest
from provisioner.image.reference import Reference, is_loopback

SHA = "sha256:" + "0123456789abcdef" * 4
SHA512 = "sha512:" + "0123456789abcdef" * 8

GOOD = {
    "ubuntu": "docker.io/library/ubuntu:latest",
    "ubuntu:24.04": "docker.io/library/ubuntu:24.04",
    "library/ubuntu": "docker.io/library/ubuntu:latest",
    "user/img": "docker.io/user/img:latest",
    "user/a/b/c": "docker.io/user/a/b/c:latest",
    "docker.io/ubuntu": "docker.io/library/ubuntu:latest",
    "index.docker.io/ubuntu": "docker.io/library/ubuntu:latest",
    "registry-1.docker.io/library/ubuntu": "docker.io/library/ubuntu:latest",
    "registry.hub.docker.com/ubuntu": "docker.io/library/ubuntu:latest",
    "Docker.IO/ubuntu": "docker.io/library/ubuntu:latest",
    "docker://ubuntu": "docker.io/library/ubuntu:latest",
    "docker://ghcr.io/o/i:t": "ghcr.io/o/i:t",
    "ghcr.io/o/i:t": "ghcr.io/o/i:t",
    "ghcr.io/i": "ghcr.io/i:latest",
    "localhost": "docker.io/library/localhost:latest",
    "localhost/x": "localhost/x:latest",
    "localhost:5000/a/b": "localhost:5000/a/b:latest",
    "localhost:5000": "docker.io/library/localhost:5000",  # a tag, by the grammar
    "127.0.0.1:1/x": "127.0.0.1:1/x:latest",
    "[::1]:5000/x": "[::1]:5000/x:latest",
    "[::1]/x:t": "[::1]/x:t",
    "[2001:DB8::1]:5000/x": "[2001:db8::1]:5000/x:latest",
    "host:65535/x": "host:65535/x:latest",
    "Host/x": "Host/x:latest",
    f"name@{SHA}": f"docker.io/library/name@{SHA}",
    f"name@{SHA512}": f"docker.io/library/name@{SHA512}",
    f"name:tag@{SHA}": f"docker.io/library/name:tag@{SHA}",
    f"localhost:5000/x@{SHA}": f"localhost:5000/x@{SHA}",
    "x:_A.b-9": "docker.io/library/x:_A.b-9",
    "x:" + "t" * 128: "docker.io/library/x:" + "t" * 128,
    "docker.io/library/oci:latest": "docker.io/library/oci:latest",
    "docker://oci:latest": "docker.io/library/oci:latest",
    "search": "docker.io/library/search:latest",
    "xn--bcher-kva.example/x": "xn--bcher-kva.example/x:latest",
    "u/a.b_c__d-e---f": "docker.io/u/a.b_c__d-e---f:latest",
}

BAD = {
    "": "name of the image is missing",
    "docker://": "name of the image is missing",
    ":tag": "name of the image is missing",
    "ghcr.io/": "name of the image is missing",
    "https://ghcr.io/o/i": "URL scheme",
    "docker://docker://x": "URL scheme",
    "Ubuntu": "'Ubuntu' has capital letters",
    "user/Image": "'Image' has capital letters",
    "ubuntu:": "the tag ''",
    "ubuntu:a b": "the tag 'a b'",
    "ubuntu:-x": "the tag '-x'",
    "ubuntu:.x": "the tag '.x'",
    "ubuntu:a:b": "the tag 'a:b'",
    "ubuntu:x\n": "the tag 'x\\n'",
    "x:" + "t" * 129: "1 to 128",
    "a//b": "empty part",
    "/a": "this is a path",
    "a/": "empty part",
    "a/b/": "empty part",
    "a..b": "'a..b'",
    "-a": "'-a'",
    "a_": "'a_'",
    "a___b": "'a___b'",
    "a/b%2f": "'b%2f'",
    "a/../b": "'..'",
    "user/ü": "'ü'",
    "user/\x1b[31m": "'\\x1b[31m'",
    "host:0/x": "port 0",
    "host:65536/x": "port 65536",
    "host:/x": "'host:'",
    "host:x/y": "'host:x'",
    "host:123456/y": "'host:123456'",
    "-host.example/x": "'-host.example'",
    "a..b/x": "'a..b'",
    "a_b.example/x": "'a_b.example'",
    "[::1/x": "'[::1'",
    "[:::::]/x": "'[:::::]'",
    "[127.0.0.1]x/y": "'[127.0.0.1]x'",
    "user:password@host/x": "'host/x' is not a sha256 or sha512 digest",
    "x@": "'' is not a sha256",
    "x@sha256:12": "'sha256:12'",
    f"x@{SHA}@{SHA}": "digest",
    f"x:@{SHA}": "the tag ''",
    "a" * 256: "has 264 characters",
    "oci:directory": "names a file or a directory",
    "oci-archive:file.tar": "names a file or a directory",
    "docker-archive:file.tar:x": "names a file or a directory",
    "rootfs:/tmp/x.tar": "names a file or a directory",
}


@pytest.mark.parametrize("text", GOOD)
def test_good_references_are_spelled_out(text: str) -> None:
    assert str(Reference.parse(text)) == GOOD[text]


@pytest.mark.parametrize("text", BAD)
def test_bad_references_say_what_is_wrong(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Reference.parse(text)
    assert BAD[text] in caught.value.message
    assert caught.value.message.isprintable()
    assert caught.value.hint


def test_a_digest_decides_and_the_tag_is_kept() -> None:
    reference = Reference.parse(f"ghcr.io/o/i:t@{SHA}")
    assert (reference.tag, reference.selector) == ("t", SHA)
    assert Reference.parse(f"i@{SHA}").tag is None
    assert Reference.parse("i").at(Digest.parse(SHA)) == Reference.parse(f"i:latest@{SHA}")


_COMPONENTS = st.from_regex(r"[a-z0-9]{1,6}((\.|_|__|-{1,3})[a-z0-9]{1,6}){0,2}", fullmatch=True)
_HOSTS = st.one_of(
    st.sampled_from(["docker.io", "localhost", "[::1]", "[fe80::1]", "127.0.0.1"]),
    st.from_regex(r"[a-z0-9]{1,5}(-[a-z0-9]{1,3})?(\.[a-z0-9]{1,5}){1,3}", fullmatch=True),
)


@st.composite
def references(draw: st.DrawFn) -> Reference:
    registry = draw(_HOSTS)
    if registry != "docker.io" and draw(st.booleans()):
        registry += f":{draw(st.integers(1, 65535))}"
    path = draw(st.lists(_COMPONENTS, min_size=1 + (registry == "docker.io"), max_size=4))
    tag = draw(st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", fullmatch=True))
    digest = draw(st.none() | st.binary(max_size=4).map(Digest.of))
    return Reference(registry, "/".join(path), tag if tag or digest else "latest", digest)


@given(references())
def test_what_is_spelled_out_is_parsed_back(reference: Reference) -> None:
    assert Reference.parse(str(reference)) == reference
    assert Reference.parse(reference.familiar) == reference
    assert len(reference.familiar) <= len(str(reference))


@example("A/0")
@given(st.text() | st.text(alphabet="ab:/@.[]-_5A", max_size=20))
def test_any_text_is_a_reference_or_a_usage_error(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except UsageError as error:
        said = error.message
        assert said.isprintable()
    else:
        assert Reference.parse(str(reference)) == reference


@pytest.mark.parametrize(
    ("text", "familiar"),
    [
        ("docker.io/library/ubuntu:24.04", "ubuntu:24.04"),
        ("ubuntu", "ubuntu:latest"),
        ("docker.io/user/x", "user/x:latest"),
        ("docker.io/library/a/b", "library/a/b:latest"),  # a/b would be another repository
        ("docker.io/localhost/x", "docker.io/localhost/x:latest"),  # localhost/x would be another registry
        ("docker.io/library/oci", "library/oci:latest"),  # oci:latest would be a directory
        ("ghcr.io/o/i", "ghcr.io/o/i:latest"),
    ],
)
def test_the_familiar_spelling_is_short_and_says_the_same(text: str, familiar: str) -> None:
    assert Reference.parse(text).familiar == familiar


@pytest.mark.parametrize(
    ("registry", "expected"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("registry.localhost:80", True),
        ("127.0.0.1", True),
        ("127.9.9.9:5000", True),
        ("[::1]", True),
        ("[::1]:5000", True),
        ("[0:0:0:0:0:0:0:1]:5000", True),
        ("localhost.example", False),
        ("127.0.0.1.example:5000", False),
        ("127.0.0.999", False),
        ("10.0.0.1:5000", False),
        ("[fe80::1]:5000", False),
        ("docker.io", False),
        ("notlocalhost", False),
    ],
)
def test_loopback_by_name_or_address(registry: str, expected: bool) -> None:
    assert is_loopback(registry) is expected
