"""Which certificates may speak for which addresses."""

from __future__ import annotations

import pytest

from kingbus_node.raft.errors import ProtocolError
from kingbus_node.raft.tls import check_certificate


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
