"""The TLS context for replicas' connections, loaded again when its files change (a renewed certificate needs no
restart).
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from pathlib import Path
from typing import Final

from kingbus_node.util.files import Stamp, stamp

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
        self._lock = threading.Lock()
        self._seen = stamp(self._files)
        self._checked = time.monotonic()
        self._trouble = ""
        self._context = self._load()

    def get(self) -> ssl.SSLContext:
        """The context of now. When changed files cannot be used, the old context stays, and the log says so."""
        with self._lock:
            now = time.monotonic()
            if now - self._checked >= _CHECK_SECONDS:
                self._checked = now
                found = stamp(self._files)
                if found != self._seen:
                    self._renew(found)
            return self._context

    def _renew(self, found: Stamp) -> None:
        try:
            self._context = self._load()
        except TlsError as problem:  # tried again next time: who may read the files now would not show in their stamp
            if str(problem) != self._trouble:
                _log.error("the certificate stays as it was: %s", problem)
            self._trouble = str(problem)
            return
        self._seen, self._trouble = found, ""
        _log.info("loaded the certificate again from %s", self._files[0])

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
