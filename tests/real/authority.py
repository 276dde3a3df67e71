"""A certificate authority for the tests: LiveKit's Rust SDKs take no self-signed certificate."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
_DAYS = ("-days", "3650")


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """
    What a server shows, all PEM files.

    Attributes:
        path: the certificate.
        key: its private key.
        authority: the certificate of who signed it.
    """

    path: Path
    key: Path
    authority: Path

    def serving(self) -> ssl.SSLContext:
        """A context for the server that has it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path, self.key)
        return context

    def trusting(self) -> ssl.SSLContext:
        """A context for a client that trusts its authority and nobody else."""
        return ssl.create_default_context(cafile=self.authority)


class Authority:
    """
    Signs certificates.

    Attributes:
        path: its own certificate, a PEM file: what those who trust it need (SSL_CERT_FILE).
    """

    def __init__(self, folder: Path) -> None:
        """Make one, whose files are in ``folder``."""
        self.path = folder / "authority.pem"
        self._folder = folder
        self._key = folder / "authority.key"
        subject = ("-subj", "/CN=the tests' authority")
        extensions = ("-addext", "keyUsage=critical,keyCertSign")
        self._openssl(
            *("req", "-x509", *_NEW_KEY, *_DAYS, *subject, *extensions),
            *("-keyout", self._key, "-out", self.path),
        )

    def issue(self, names: str = "IP:127.0.0.1") -> Certificate:
        """A certificate for ``names``, as OpenSSL writes them."""
        stem = self._folder / f"certificate{len(list(self._folder.iterdir()))}"
        request, extensions = stem.with_suffix(".csr"), stem.with_suffix(".cnf")
        made = Certificate(
            path=stem.with_suffix(".pem"), key=stem.with_suffix(".key"), authority=self.path
        )
        extensions.write_text(f"subjectAltName={names}\nbasicConstraints=critical,CA:FALSE\n")
        self._openssl(
            *("req", "-new", *_NEW_KEY, "-subj", "/CN=a server"),
            *("-keyout", made.key, "-out", request),
        )
        self._openssl(
            *("x509", "-req", *_DAYS, "-in", request, "-extfile", extensions, "-out", made.path),
            *("-CA", self.path, "-CAkey", self._key, "-CAcreateserial"),
        )
        return made

    def _openssl(self, *arguments: str | Path) -> None:
        openssl = shutil.which("openssl")
        assert openssl, "openssl is missing: Debian's package has that name"
        subprocess.run([openssl, *arguments], check=True, capture_output=True, timeout=30)
