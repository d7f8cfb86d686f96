"""Keys and certificates that a server needs although nobody gave it any, made once and kept in the data directory.

MySQL does the same at its first start ("Creating SSL and RSA Certificates and Keys using MySQL"), with these file
names: so SOURCE_SSL=1 and caching_sha2_password without TLS work at once, and a DBA who wants replicas to verify the
server copies ca.pem to them, as with MySQL. Private keys are readable by the owner only. A configured certificate takes
the place of the made one.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

_BITS: Final = 2048
_YEARS: Final = 10
PRIVATE_KEY: Final = "private_key.pem"
PUBLIC_KEY: Final = "public_key.pem"
CA_CERTIFICATE: Final = "ca.pem"
SERVER_CERTIFICATE: Final = "server-cert.pem"
SERVER_KEY: Final = "server-key.pem"


def ensure_keys(folder: Path, *, certificate: bool) -> None:
    """Make what is missing in `folder`: the RSA pair of caching_sha2_password, and, if asked for, a certificate.

    The CA's private key is not kept: the certificate is made once, for ten years.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (folder / PRIVATE_KEY).exists():
        key = rsa.generate_private_key(65537, _BITS)
        _write(folder / PUBLIC_KEY, _public_pem(key), secret=False)
        _write(folder / PRIVATE_KEY, _private_pem(key), secret=True)  # last: it says that all is there
    if certificate and not (folder / SERVER_KEY).exists():
        ca_key, server_key = rsa.generate_private_key(65537, _BITS), rsa.generate_private_key(65537, _BITS)
        ca = _certificate("Kingbus_Auto_Generated_CA_Certificate", ca_key, None, ca_key)
        server = _certificate("Kingbus_Auto_Generated_Server_Certificate", server_key, ca, ca_key)
        _write(folder / CA_CERTIFICATE, ca.public_bytes(serialization.Encoding.PEM), secret=False)
        _write(folder / SERVER_CERTIFICATE, server.public_bytes(serialization.Encoding.PEM), secret=False)
        _write(folder / SERVER_KEY, _private_pem(server_key), secret=True)


def _public_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _private_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, data: bytes, *, secret: bool) -> None:
    """Appear whole or not at all, with the right permissions from the start."""
    made = path.with_name(path.name + ".new")
    made.unlink(missing_ok=True)
    fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    made.replace(path)


def _certificate(
    name: str, key: rsa.RSAPrivateKey, issuer: x509.Certificate | None, issuer_key: rsa.RSAPrivateKey
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    authority = issuer is None
    names = x509.SubjectAlternativeName(
        [
            x509.DNSName(socket.gethostname()),
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            x509.IPAddress(ipaddress.ip_address("::1")),
        ]
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365 * _YEARS))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not authority:
        builder = builder.add_extension(names, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


class RsaPair:
    """The key pair of caching_sha2_password's full authentication without TLS."""

    def __init__(self, folder: Path) -> None:
        """Reads the pair that `ensure_keys` made."""
        key = serialization.load_pem_private_key((folder / PRIVATE_KEY).read_bytes(), None)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise ValueError(f"{folder / PRIVATE_KEY}: expected an RSA private key")
        self._key = key
        self.public_pem = _public_pem(key)
        self.decrypt: Callable[[bytes], bytes | None] = self._decrypt

    def _decrypt(self, data: bytes) -> bytes | None:
        scheme = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
        try:
            return self._key.decrypt(data, scheme)
        except ValueError:
            return None
