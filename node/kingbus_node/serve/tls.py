"""The TLS context for replicas' connections, loaded again when its files change (a renewed certificate needs no
restart).
"""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Final

from kingbus_node.util.followed import Followed

_log = logging.getLogger(__name__)
_CHECK_SECONDS: Final = 1.0


class TlsError(Exception):
    """The certificate, key or CA cannot be used; the text names the file and never shows what is in it."""


class TlsContext:
    """Gives the context for a new connection. Thread-safe.

    ca: whose certificates clients may present; one that is presented must then be valid, none need be.
    """

    def __init__(self, certificate: Path, key: Path, ca: Path | None) -> None:
        """Loads the files. Raises `TlsError`."""
        self._files = (certificate, key) if ca is None else (certificate, key, ca)
        self._context = Followed(self._files, self._load, TlsError, "the certificate", _log, interval=_CHECK_SECONDS)

    def get(self) -> ssl.SSLContext:
        """The context of now. When changed files cannot be used, the old context stays, and the log says so."""
        return self._context.get()

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        certificate, key = self._files[:2]
        try:
            context.load_cert_chain(certificate, key, password=_no_passphrase)
        except (OSError, ValueError) as problem:
            raise TlsError(
                f"{certificate} and {key}: expected a certificate and its private key in PEM: {problem}"
            ) from problem
        if len(self._files) == 3:
            try:
                context.load_verify_locations(self._files[2])
            except (OSError, ValueError) as problem:
                raise TlsError(f"{self._files[2]}: expected CA certificates in PEM: {problem}") from problem
            context.verify_mode = ssl.CERT_OPTIONAL
        return context


def _no_passphrase() -> str:
    """OpenSSL would ask for it on the terminal."""
    raise ValueError("the private key has a passphrase, which a server cannot be asked for")
