"""The certificates and kubeconfigs of a cluster, written into one folder."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_AGE = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA that writes what it issues into `folder`."""

    folder: Path
    _key: ec.EllipticCurvePrivateKey
    _name: x509.Name

    @classmethod
    def create(cls, folder: Path) -> Authority:
        """Writes ca.crt too, and sa.key and sa.pub, which sign tokens of ServiceAccounts."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = cls(folder, key, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kingbus e2e CA")]))
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        builder = made._builder(made._name, key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(usage, critical=True).add_extension(own, critical=False)
        (folder / "ca.crt").write_bytes(_pem(builder.sign(key, hashes.SHA256())))
        signer = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        (folder / "sa.key").write_bytes(_private(signer))
        public = serialization.PublicFormat.SubjectPublicKeyInfo
        (folder / "sa.pub").write_bytes(signer.public_key().public_bytes(serialization.Encoding.PEM, public))
        return made

    def issue(self, file: str, name: str, group: str = "", hosts: Sequence[str] = ()) -> None:
        """Writes FILE.crt and FILE.key, for clients and servers."""
        key = ec.generate_private_key(ec.SECP256R1())
        parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group)] if group else []
        subject = x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, name)])
        uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = self._builder(subject, key.public_key())
        builder = builder.add_extension(uses, critical=False).add_extension(issuer, critical=False)
        if hosts:
            names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        (self.folder / f"{file}.crt").write_bytes(_pem(builder.sign(self._key, hashes.SHA256())))
        (self.folder / f"{file}.key").write_bytes(_private(key))

    def kubeconfig(self, file: str, server: str, name: str, group: str = "", hosts: Sequence[str] = ()) -> None:
        """Issues a certificate, and writes FILE.kubeconfig with it."""
        self.issue(file, name, group, hosts)

        def data(part: str) -> str:
            return base64.b64encode((self.folder / part).read_bytes()).decode()

        user = {"client-certificate-data": data(f"{file}.crt"), "client-key-data": data(f"{file}.key")}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "e2e", "cluster": {"server": server, "certificate-authority-data": data("ca.crt")}}],
            "users": [{"name": file, "user": user}],
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": file}}],
            "current-context": "e2e",
        }
        (self.folder / f"{file}.kubeconfig").write_text(yaml.safe_dump(config))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(now - timedelta(minutes=5)).not_valid_after(now + _AGE)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
