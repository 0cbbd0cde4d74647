"""The authorities by which registries' certificates are verified, and the client's certificates.

The files and directories are those of OpenSSL, Go, Docker and podman. Authorities are loaded in two steps, since
reading a whole bundle takes longer than a request: first the ones that load fastest, and the others only if a
certificate can't be verified.
"""

from __future__ import annotations

import os
import re
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.util.ssl_ import create_urllib3_context

from provisioner.errors import UsageError
from provisioner.filesystem.user_directories import home_directory, user_directory
from provisioner.registry.address import Address
from provisioner.terminal.escaping import printable

_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/pki/tls/cacert.pem",
    "/etc/ssl/cert.pem",
)
_DIRECTORIES = ("/etc/ssl/certs", "/etc/pki/tls/certs")
"""The files and directories with the authorities of Linux systems, as in Go."""

_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+").fullmatch
"""The names by which OpenSSL looks up an authority in a directory, when it is needed."""

_HUB_HOST, _HUB_NAME = "registry-1.docker.io", "docker.io"


class Certificates:
    """The TLS contexts for one registry, `host[:port]` as users name it, and for hosts that it redirects to.
    Thread-safe.

    The authorities that a user or an administrator has added for the registry apply to these hosts too. A client's
    certificate is sent only to its own host. With `insecure`, contexts verify nothing. `etc` are the directories of the
    system's settings.
    """

    def __init__(
        self,
        registry: str = "",
        *,
        insecure: bool = False,
        environment: Mapping[str, str] = os.environ,
        etc: tuple[Path, ...] | None = None,
    ) -> None:
        self._registry = registry
        self._insecure = insecure
        self._environment = environment
        self._prefix = (
            Path(environment.get("PREFIX", "")) if os.path.isabs(environment.get("PREFIX", "")) else Path("/")
        )
        self._etc = etc or (Path("/etc"), self._prefix / "etc")
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._extended: set[str] = set()
        self._lock = threading.Lock()

    def context(self, address: Address) -> ssl.SSLContext:
        """Return the context for connections to `address`. Raises UsageError for files that can't be used."""
        with self._lock:
            key = self._key(address)
            if key not in self._contexts:
                self._contexts[key] = self._new_context(address)
            return self._contexts[key]

    def extend(self, address: Address) -> bool:
        """Load the remaining authorities, after a certificate of `address` could not be verified.

        Return whether that was done, so that another try makes sense.
        """
        with self._lock:
            key = self._key(address)
            context = self._contexts.get(key)
            if context is None or self._insecure or self._has_bundle or key in self._extended:
                return False
            self._extended.add(key)
            for path in (Path(DEFAULT_CA_BUNDLE_PATH), *self._system_files, *self._system_directories):
                _load_all(context, path)
            return True

    def _key(self, address: Address) -> str:
        """Return the key of the context: the host if it has directories of its own in certs.d, else empty."""
        return address.host_and_port if any(True for _ in self._folders(address)) else ""

    def _new_context(self, address: Address) -> ssl.SSLContext:
        # Without the flags that Python sets since 3.13: they refuse authorities that Go and OpenSSL accept.
        required = ssl.CERT_NONE if self._insecure else ssl.CERT_REQUIRED
        context = create_urllib3_context(cert_reqs=required, verify_flags=0)
        for folder in self._folders(address):
            for path in _list_files(folder, ".crt"):
                _load_all(context, path)
        for folder in self._folders(address, of_registry=False):
            for path in _list_files(folder, ".cert"):
                _load_client(context, path)
        if not self._insecure:
            self._load_first(context)
        return context

    def _load_first(self, context: ssl.SSLContext) -> None:
        """Load the authorities that the environment names, else the system's that load fastest, else certifi's."""
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            if value := self._environment.get(name):
                if not os.path.exists(value) or not _load_all(context, Path(value)):
                    what = f"{name} names {printable(value)}, where no certificate can be read"
                    raise UsageError(what, f"name a file in PEM format, or: unset {name}")
                break
        has_any = False
        for path in self._named_authorities:
            has_any = _load_all(context, path) or has_any
        if has_any or self._has_bundle:
            return
        for directory in filter(_is_hashed, self._system_directories):
            context.load_verify_locations(capath=directory)
            has_any = True
        for path in (*self._system_files, Path(DEFAULT_CA_BUNDLE_PATH)):
            has_any = has_any or _load_all(context, path)

    @property
    def _has_bundle(self) -> bool:
        """Whether the environment names a bundle for Python's and curl's programs, which replaces all other
        authorities."""
        return bool(self._environment.get("REQUESTS_CA_BUNDLE") or self._environment.get("CURL_CA_BUNDLE"))

    @cached_property
    def _named_authorities(self) -> list[Path]:
        """The files and directories that the environment names for all programs with OpenSSL."""
        directories = self._environment.get("SSL_CERT_DIR", "").split(":")
        return [Path(name) for name in (self._environment.get("SSL_CERT_FILE", ""), *directories) if name]

    @cached_property
    def _system_files(self) -> list[Path]:
        if self._environment.get("SSL_CERT_FILE"):
            return []
        own = [self._prefix / "etc/tls/cert.pem"]  # Termux
        own += [Path(name) for name in (ssl.get_default_verify_paths().openssl_cafile, *_FILES)]
        return [path for path in own if path.is_file()]

    @cached_property
    def _system_directories(self) -> list[Path]:
        if self._environment.get("SSL_CERT_DIR"):
            return []
        own = [self._prefix / "etc/tls/certs"]
        own += [Path(name) for name in (ssl.get_default_verify_paths().openssl_capath, *_DIRECTORIES)]
        return [path for path in own if path.is_dir()]

    def _folders(self, address: Address, *, of_registry: bool = True) -> Iterator[Path]:
        """Yield the existing directories in `certs.d` for a host, and with `of_registry` those for the registry."""
        names = [self._registry] if of_registry and self._registry else []
        names += [address.host_and_port, f"{address.host}:{address.port}"]
        names += [_HUB_NAME] if address.host == _HUB_HOST else []
        for place in self._places:
            for name in dict.fromkeys(names):
                if (folder := place / name).is_dir():
                    yield folder

    @cached_property
    def _places(self) -> list[Path]:
        """The existing directories `certs.d` of podman, Docker and containerd, the user's own first."""
        homes = [user_directory("XDG_CONFIG_HOME", ".config", self._environment, "")]
        if home := home_directory(self._environment):
            homes.append(home / ".config")
        parents = [parent for parent in (*homes, *self._etc) if parent]
        found = [parent / name / "certs.d" for parent in parents for name in ("containers", "docker", "containerd")]
        return [place for place in dict.fromkeys(found) if place.is_dir()]


def _load_all(context: ssl.SSLContext, path: Path) -> bool:
    """Load the authorities in a file or a directory; return whether there are any. Other files are skipped."""
    if not path.is_dir():
        with suppress(OSError, ssl.SSLError):
            context.load_verify_locations(cafile=path)
            return True
        return False
    if _is_hashed(path):
        context.load_verify_locations(capath=path)
        return True
    return sum(_load_all(context, each) for each in _list_files(path, "") if each.is_file()) > 0


def _load_client(context: ssl.SSLContext, certificate: Path) -> None:
    """Load the client's certificate in `NAME.cert`, with the key in `NAME.key`. Raises UsageError."""
    shown, key = printable(str(certificate)), certificate.with_suffix(".key")
    if not key.exists():
        hint = "put its key beside it; the certificate of an authority is named NAME.crt"
        raise UsageError(f"{shown} is a client's certificate without a key: {key.name} is missing", hint)
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "they don't match"
        reason = "they are not a certificate and its key" if isinstance(error, ssl.SSLError) else reason
        raise UsageError(f"{shown} and its key can't be used: {reason}", "replace them, or remove them") from None


def _list_files(folder: Path, suffix: str) -> list[Path]:
    """Return the sorted files of a directory that end in `suffix`; none if it can't be read."""
    try:
        return sorted(path for path in folder.iterdir() if path.name.endswith(suffix))
    except OSError:
        return []


def _is_hashed(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(_HASHED(entry.name) for entry in entries)
    except OSError:
        return False
