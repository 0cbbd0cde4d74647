"""A certificate authority of the tests, with certificates for servers on loopback and for clients."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.support.tools import need, run

_KEY = ("-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")


@dataclass(frozen=True)
class Authority:
    """An authority whose files are in a directory."""

    directory: Path

    @classmethod
    def create(cls, directory: Path, name: str = "tests") -> Authority:
        """Create an authority, the way that small companies do: without a word on what its key is for."""
        need("openssl")
        directory.mkdir(parents=True, exist_ok=True)
        made = cls(directory)
        subject = ("-subj", f"/CN=authority of the {name}", "-addext", "basicConstraints=CA:TRUE")
        run("openssl", "req", "-x509", "-days", "2", *_KEY, *subject, "-keyout", made.key, "-out", made.certificate)
        return made

    @property
    def certificate(self) -> Path:
        """Return the file of its own certificate."""
        return self.directory / "authority.pem"

    @property
    def key(self) -> Path:
        """Return the file of its key."""
        return self.directory / "authority.key"

    def issue(self, name: str, directory: Path | None = None) -> tuple[Path, Path]:
        """Issue a certificate for an IP address or a client; return `NAME.cert` and `NAME.key` in `directory`."""
        folder = directory or self.directory
        folder.mkdir(parents=True, exist_ok=True)
        request, certificate, key = (folder / f"{name}.{suffix}" for suffix in ("csr", "cert", "key"))
        run("openssl", "req", "-new", *_KEY, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        extensions = folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName=IP:{name}\n" if name[0].isdigit() else "extendedKeyUsage=clientAuth\n")
        signed = ("-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial", "-days", "2", "-extfile", extensions)
        run("openssl", "x509", "-req", "-in", request, *signed, "-out", certificate)
        request.unlink()
        extensions.unlink()
        return certificate, key

    def hashed(self, directory: Path) -> Path:
        """Put its certificate into `directory` as OpenSSL looks it up there, by a hash of its name; return that."""
        directory.mkdir(parents=True, exist_ok=True)
        name = str(run("openssl", "x509", "-in", self.certificate, "-noout", "-hash")).strip()
        (directory / f"{name}.0").write_bytes(self.certificate.read_bytes())
        return directory
