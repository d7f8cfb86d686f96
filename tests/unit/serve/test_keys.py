"""Keys that are made at the first start: they work, they stay, and only their owner can read them."""

from __future__ import annotations

import errno
import logging
import shutil
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from kingbus_node.serve import tls as tls_module
from kingbus_node.serve.keys import (
    CA_CERTIFICATE,
    PRIVATE_KEY,
    SERVER_CERTIFICATE,
    SERVER_KEY,
    RsaPair,
    ensure_keys,
)
from kingbus_node.serve.tls import TlsContext, TlsError


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys") / "tls"
    ensure_keys(folder, certificate=True)
    return folder


def test_keys_are_made_once(keys: Path) -> None:
    before = {path.name: path.read_bytes() for path in keys.iterdir()}
    ensure_keys(keys, certificate=True)
    assert {path.name: path.read_bytes() for path in keys.iterdir()} == before


def test_private_keys_are_for_their_owner_only(keys: Path) -> None:
    for name in (PRIVATE_KEY, SERVER_KEY):
        assert stat.S_IMODE((keys / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700


def test_a_half_made_set_is_completed(keys: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    shutil.copytree(keys, folder)
    (folder / SERVER_KEY).unlink()
    ensure_keys(folder, certificate=True)
    TlsContext(folder / SERVER_CERTIFICATE, folder / SERVER_KEY, None)


def test_no_certificate_is_made_when_one_is_configured(tmp_path: Path) -> None:
    ensure_keys(tmp_path, certificate=False)
    assert not (tmp_path / SERVER_KEY).exists()


def test_the_rsa_pair_decrypts_what_its_public_key_encrypts(keys: Path) -> None:
    pair = RsaPair(keys)
    assert pair.public_pem.startswith(b"-----BEGIN PUBLIC KEY-----\n")
    assert len(pair.public_pem) == 451  # as captured from MySQL 9.7.4
    public = serialization.load_pem_public_key(pair.public_pem)
    assert isinstance(public, rsa.RSAPublicKey)
    scheme = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
    assert pair.decrypt(public.encrypt(b"secret\0", scheme)) == b"secret\0"
    assert pair.decrypt(b"x" * 256) is None
    assert pair.decrypt(b"short") is None


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> str | None:
    """The protocol that both ends come to."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with server.wrap_socket(theirs, server_side=True) as wrapped:
            wrapped.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname="localhost") as wrapped:
            return wrapped.version()
    finally:
        thread.join(10)


def test_a_client_with_the_ca_verifies_the_made_certificate_and_its_host(keys: Path) -> None:
    server = TlsContext(keys / SERVER_CERTIFICATE, keys / SERVER_KEY, None).get()
    assert handshake(server, ssl.create_default_context(cafile=str(keys / CA_CERTIFICATE))) == "TLSv1.3"


def test_what_is_no_certificate_is_told_by_its_file(tmp_path: Path, keys: Path) -> None:
    (tmp_path / "bad.pem").write_text("nothing")
    with pytest.raises(TlsError, match=r"bad\.pem"):
        TlsContext(tmp_path / "bad.pem", keys / SERVER_KEY, None)
    with pytest.raises(TlsError, match=r"bad\.pem: expected CA certificates"):
        TlsContext(keys / SERVER_CERTIFICATE, keys / SERVER_KEY, tmp_path / "bad.pem")
    with pytest.raises(TlsError, match=r"missing\.pem"):
        TlsContext(tmp_path / "missing.pem", keys / SERVER_KEY, None)


def renewable(keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, TlsContext]:
    """A folder with a certificate of its own, and who follows that, with a look each time."""
    monkeypatch.setattr(tls_module, "_CHECK_SECONDS", 0.0)
    folder = tmp_path / "tls"
    shutil.copytree(keys, folder)
    return folder, TlsContext(folder / SERVER_CERTIFICATE, folder / SERVER_KEY, None)


def test_a_renewed_certificate_is_used_without_a_restart(
    keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, context = renewable(keys, tmp_path, monkeypatch)
    first = context.get()
    assert context.get() is first
    (folder / SERVER_CERTIFICATE).write_text("damaged")
    with caplog.at_level(logging.ERROR):
        assert context.get() is first
    assert "stays as it was" in caplog.text
    for name in (SERVER_CERTIFICATE, SERVER_KEY):
        shutil.copy(keys / name, folder / "new")
        (folder / "new").replace(folder / name)
    assert context.get() is not first


def test_a_certificate_that_could_not_be_read_at_first_is_tried_again(
    keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Leave to read it comes after it: that changes neither its size nor its time."""
    folder, context = renewable(keys, tmp_path, monkeypatch)
    first = context.get()
    shutil.copy(keys / SERVER_KEY, folder / "new")
    (folder / "new").replace(folder / SERVER_KEY)

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(ssl.SSLContext, "load_cert_chain", forbidden)
        assert context.get() is first
        assert context.get() is first
    assert caplog.text.count("stays as it was") == 1
    assert context.get() is not first
