"""Certificates are renewed while a node runs: new connections see the new one, without a restart."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from unit.admin.fakes import FakeNode

from kingbus_node.admin import http
from kingbus_node.admin.http import AdminServer
from kingbus_node.admin.metrics import Metrics
from kingbus_node.config import Address, AdminSettings, AdminTls
from kingbus_node.demo.waiting import wait_until

_DEADLINE = 60.0


def write_certificate(folder: Path) -> int:
    """A new certificate and key, put in place as a whole. Its serial number."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now, serial = datetime.now(UTC), x509.random_serial_number()
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for file, data in (("tls.key", private), ("tls.crt", made.public_bytes(serialization.Encoding.PEM))):
        (folder / f"{file}.new").write_bytes(data)
        (folder / f"{file}.new").replace(folder / file)
    return serial


def shown(server: AdminServer) -> int:
    """The serial number of the certificate that a new connection sees."""
    pem = ssl.get_server_certificate((server.address.host, server.address.port), timeout=10)
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def test_a_renewed_certificate_is_shown_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_LOOK_SECONDS", 0.02)
    first = write_certificate(tmp_path)
    node = FakeNode()
    metrics = Metrics("1")
    metrics.attach(node)
    tls = AdminTls(cert=tmp_path / "tls.crt", key=tmp_path / "tls.key")
    server = AdminServer(AdminSettings(listen=Address("127.0.0.1", 0), tls=tls), "node-1", node, None, metrics)
    server.start()
    try:
        assert shown(server) == first
        (tmp_path / "tls.crt").write_text("half a file")
        assert shown(server) == first, "what can't be used changes nothing"
        second = write_certificate(tmp_path)
        wait_until(lambda: shown(server) == second, _DEADLINE, "the renewed certificate to be shown")
    finally:
        server.stop()
