"""A token server for a real docker-registry: it signs the tokens that distribution's token specification describes."""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from scripts.loopback_registry import Response
from tests.support.scripted_registry import Request, ScriptedRegistry, json_response
from tests.support.tools import need, run

ISSUER, SERVICE = "tests", "registry.tests"


@dataclass
class TokenIssuer:
    """Issues tokens: to pull from repositories below `public/` to everybody, all others to one user."""

    server: ScriptedRegistry
    directory: Path
    basic: str
    """The value of `Authorization` of the user."""
    scopes: list[str] = field(default_factory=list)
    """What was asked for."""

    def __post_init__(self) -> None:
        need("openssl")
        subject = ("-subj", f"/CN={ISSUER}", "-days", "2")
        run(
            "openssl",
            "req",
            "-x509",
            "-nodes",
            "-newkey",
            "rsa:2048",
            *subject,
            "-keyout",
            self._key,
            "-out",
            self.bundle,
        )
        self.server.on("/token", self._issue)

    @property
    def bundle(self) -> Path:
        """Return the certificate by which a registry knows its tokens."""
        return self.directory / "tokens.pem"

    @property
    def configuration(self) -> str:
        """Return the part of docker-registry's configuration that names it."""
        realm = f"realm: '{self.server.url}/token'"
        return f"auth: {{token: {{{realm}, service: {SERVICE}, issuer: {ISSUER}, rootcertbundle: '{self.bundle}'}}}}\n"

    @property
    def _key(self) -> Path:
        return self.directory / "tokens.key"

    def _issue(self, request: Request) -> Response:
        given = request.headers.get("Authorization", "")
        if given not in ("", self.basic):
            return Response.error(401, "UNAUTHORIZED", "wrong password")
        access: list[dict[str, object]] = []
        for scope in request.query.get("scope", []):
            self.scopes.append(scope)
            kind, name, actions = scope.split(":")
            allowed = actions.split(",") if given else ["pull"] if name.startswith("public/") else []
            access.append({"type": kind, "name": name, "actions": allowed})
        return json_response({"token": self._sign(access), "expires_in": 60})

    def _sign(self, access: list[dict[str, object]]) -> str:
        """Return a JSON Web Token (RFC 7519) with the certificate of its key (RFC 7515, x5c)."""
        certificate = "".join(self.bundle.read_text().splitlines()[1:-1])
        now = int(time.time())
        claims = {"iss": ISSUER, "sub": "", "aud": SERVICE, "exp": now + 60, "nbf": now - 10, "iat": now}
        claims |= {"jti": secrets.token_hex(8), "access": access}
        head = {"typ": "JWT", "alg": "RS256", "x5c": [certificate]}
        signed = ".".join(_encoded(json.dumps(part).encode()) for part in (head, claims))
        command = ["openssl", "dgst", "-sha256", "-sign", str(self._key)]
        signature = subprocess.run(command, input=signed.encode(), capture_output=True, check=True).stdout
        return f"{signed}.{_encoded(signature)}"


@contextmanager
def run_token_issuer(
    directory: Path, basic: str, certificate: tuple[Path, Path] | None = None
) -> Iterator[TokenIssuer]:
    """Run a token server, with TLS if it has a `certificate` and key."""
    with ScriptedRegistry(certificate) as server:
        yield TokenIssuer(server, directory, basic)


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
