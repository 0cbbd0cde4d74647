"""Unusual answers to the ping of a registry, `/v2/`. Requests for the repository decide whether they matter."""

from __future__ import annotations

from dataclasses import dataclass

import requests

from provisioner.errors import NetworkError, NotAllowed, ProvisionError
from provisioner.registry.http import status_text
from provisioner.registry.refusals import error_reason

RETRIED = (408, 429, 500, 502, 503, 504)
"""The statuses after which another try may succeed."""


@dataclass(frozen=True)
class PingProblem:
    """Why the server may not be a registry, or may refuse access. It is shown if the repository can't be read
    either."""

    kind: type[ProvisionError]
    message: str
    hint: str

    @classmethod
    def of(cls, response: requests.Response, registry: str) -> PingProblem | None:
        """Return the problem in a response without a challenge to a ping; None for a registry's usual answer."""
        if response.status_code == 401:
            hint = f"log in: provision login {registry}"
            return cls(NotAllowed, f"{registry} wants a user name and a password", hint)
        if response.status_code == 403:
            hint = "ask its owner, or use another registry"
            return cls(NotAllowed, f"{registry} refuses access{error_reason(response)}", hint)
        if response.status_code == 200 and not is_web_page(response):
            return None
        found = "a web page" if is_web_page(response) else status_text(response)
        what = f"{registry} is not a registry: it answers with {found}"
        return cls(NetworkError, what, "check the host and the port")

    def explains(self, response: requests.Response) -> bool:
        """Return whether this problem is more precise than the repository's response, an error or a web page."""
        if self.kind is NotAllowed and response.status_code in (401, 403):
            return True
        is_of_registry = "json" in response.headers.get("Content-Type", "")
        return not is_of_registry and "Docker-Distribution-Api-Version" not in response.headers

    def error(self) -> ProvisionError:
        """Return the error to show."""
        return self.kind(self.message, self.hint)


def is_web_page(response: requests.Response) -> bool:
    """Return whether the Content-Type of a response is that of a web page, such as a captive portal's."""
    return response.headers.get("Content-Type", "").startswith("text/html")
