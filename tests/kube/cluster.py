"""Starts a private etcd and kube-apiserver: on loopback, on ports of their own, with RBAC, ended with the tests.

There is no kubelet, no scheduler and no controller: nobody makes pods of a StatefulSet here. Tests do by hand what a
controller would do, and see exactly what the operator does.
"""

from __future__ import annotations

import ipaddress
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kingbus_node.demo.ports import ReservedPort
from kingbus_operator.kube.credentials import Credentials
from kube.binaries import Binaries

DEADLINE = 180.0


@dataclass(slots=True)
class ControlPlane:
    """An API server, and an identity that may do everything in it."""

    admin: Credentials
    _command: list[str]
    _log: Path
    _server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the API server, and waits until it is ready."""
        with self._log.open("ab") as output:
            self._server = subprocess.Popen(self._command, stdout=output, stderr=subprocess.STDOUT)
        _wait_ready(self.admin, self._server, self._log)

    def stop(self) -> None:
        """Ends it; what it knows is in etcd."""
        if self._server is not None:
            _end(self._server)
            self._server = None

    def as_token(self, token: str) -> Credentials:
        """Another identity."""
        return Credentials(self.admin.server, ca_data=self.admin.ca_data, token=token)


@contextmanager
def control_plane(binaries: Binaries, folder: Path) -> Iterator[ControlPlane]:
    """Runs one while the context lasts."""
    admin_pem = _pki(folder)
    # Kept for as long as this lasts: while the API server is stopped, a client's connection could take a port of the
    # range of outgoing ones.
    ports = [ReservedPort() for _ in range(3)]
    etcd_port, peer_port, port = (reserved.number for reserved in ports)
    etcd = [
        str(binaries.etcd),
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls=http://127.0.0.1:{etcd_port}",
        f"--advertise-client-urls=http://127.0.0.1:{etcd_port}",
        f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
        "--unsafe-no-fsync",
    ]
    apiserver = [
        str(binaries.apiserver),
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        "--service-cluster-ip-range=10.96.0.0/24",
        "--authorization-mode=RBAC",
        f"--client-ca-file={folder / 'ca.crt'}",
        f"--tls-cert-file={folder / 'server.crt'}",
        f"--tls-private-key-file={folder / 'server.key'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={folder / 'sa.pub'}",
        f"--service-account-signing-key-file={folder / 'sa.key'}",
        "--disable-admission-plugins=ServiceAccount",  # it waits for ServiceAccounts that a controller would make
        "--endpoint-reconciler-type=none",
    ]
    credentials = Credentials(
        f"https://127.0.0.1:{port}",
        ca_data=(folder / "ca.crt").read_text(),
        certificate_data=admin_pem[0],
        key_data=admin_pem[1],
    )
    plane = ControlPlane(credentials, apiserver, folder / "apiserver.log")
    with (folder / "etcd.log").open("wb") as output:
        store = subprocess.Popen(etcd, stdout=output, stderr=subprocess.STDOUT)
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()
        _end(store)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_ready(credentials: Credentials, server: subprocess.Popen[bytes], log: Path) -> None:
    context = credentials.context()
    port = int(credentials.server.rpartition(":")[2])
    end = time.monotonic() + DEADLINE
    while True:
        try:
            with (
                socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
            ):
                secure.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
                if b" 200 " in secure.recv(64):
                    return
        except OSError:
            pass
        if server.poll() is not None or time.monotonic() > end:
            raise AssertionError(f"kube-apiserver is not ready: {log.read_text()[-3000:]}")
        time.sleep(0.1)


def _pki(folder: Path) -> tuple[str, str]:
    """CA, server certificate and ServiceAccount key as files; the administrator's certificate and key as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
    now = datetime.now(UTC)
    ca = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=False,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .sign(key, hashes.SHA256())
    )

    def issue(subject: x509.Name) -> tuple[str, str]:
        own = ec.generate_private_key(ec.SECP256R1())
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name)
            .public_key(own.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
                ),
                critical=False,
            )
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return _pem(made), _key_pem(own)

    (folder / "ca.crt").write_text(_pem(ca))
    certificate, private = issue(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")]))
    (folder / "server.crt").write_text(certificate)
    (folder / "server.key").write_text(private)
    signer = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (folder / "sa.key").write_text(_key_pem(signer))
    (folder / "sa.pub").write_bytes(
        signer.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return issue(
        x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:masters"),
                x509.NameAttribute(NameOID.COMMON_NAME, "admin"),
            ]
        )
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
