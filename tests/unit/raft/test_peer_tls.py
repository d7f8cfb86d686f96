"""Which certificates may speak for which addresses, and when they are read."""

from __future__ import annotations

import errno
import logging
import shutil
import ssl
from pathlib import Path

import pytest

from kingbus_node.raft.errors import ProtocolError
from kingbus_node.raft.options import TlsFiles
from kingbus_node.raft.tls import PeerTls, check_certificate
from kingbus_node.serve.keys import CA_CERTIFICATE, SERVER_CERTIFICATE, SERVER_KEY, ensure_keys


@pytest.mark.parametrize(
    ("names", "address"),
    [
        (["node-1.kingbus.svc"], "node-1.kingbus.svc:7401"),
        (["NODE-1.Kingbus.svc"], "node-1.kingbus.svc.:7401"),
        (["other", "*.kingbus.svc"], "node-1.kingbus.svc:7401"),
        (["10.0.0.1"], "10.0.0.1:7401"),
        (["2001:db8::1"], "[2001:DB8:0::1]:7401"),
    ],
)
def test_a_certificate_covers(names: list[str], address: str) -> None:
    check_certificate(names, address)


@pytest.mark.parametrize(
    ("names", "address"),
    [
        ([], "node-1:7401"),
        (["node-2"], "node-1:7401"),
        (["*.kingbus.svc"], "a.b.kingbus.svc:7401"),
        (["*.kingbus.svc"], "kingbus.svc:7401"),
        (["*.svc"], "node-1.kingbus.svc:7401"),
        (["*"], "node-1:7401"),
        (["*."], "node-1:7401"),
        (["node-*.kingbus.svc"], "node-1.kingbus.svc:7401"),
        (["10.0.0.10"], "10.0.0.1:7401"),
        (["*.0.0.1"], "10.0.0.1:7401"),
        (["node-1"], "no address"),
    ],
)
def test_a_certificate_does_not_cover(names: list[str], address: str) -> None:
    with pytest.raises(ProtocolError):
        check_certificate(names, address)


def test_a_certificate_that_could_not_be_read_at_first_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Leave to read it comes after it: that changes neither its size nor its time."""
    ensure_keys(tmp_path, certificate=True)
    peers = PeerTls(TlsFiles(tmp_path / CA_CERTIFICATE, tmp_path / SERVER_CERTIFICATE, tmp_path / SERVER_KEY))
    first = peers.client()
    shutil.copy(tmp_path / SERVER_KEY, tmp_path / "new")
    (tmp_path / "new").replace(tmp_path / SERVER_KEY)

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(ssl.SSLContext, "load_cert_chain", forbidden)
        assert peers.client() is first
        assert peers.client() is first
    assert caplog.text.count("stays as it was") == 1
    assert peers.client() is not first
