"""The operator's client and the node's real admin API: with the certificates that the operator makes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from unit.admin.fakes import STATUS, FakeControl, FakeNode

from kingbus_node.admin.http import AdminServer
from kingbus_node.admin.metrics import Metrics
from kingbus_node.admin.views import Member
from kingbus_node.config import Address, AdminSettings, AdminTls
from kingbus_operator.build.certificates import host_names, renewed
from kingbus_operator.build.common import Names
from kingbus_operator.kube import nodes as module
from kingbus_operator.kube.nodes import HttpNodes, NodeError, Target

NAMES = Names("orders", "shop")
OTHER = renewed(None, "x", ("x",), datetime.now(UTC))
MADE = renewed(None, "orders.shop", host_names(NAMES, "cluster.local"), datetime.now(UTC))


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look has as much time as an order: nobody is silent because the machine stood still for a moment."""
    monkeypatch.setattr(module, "_LOOK", module._ORDER)


@pytest.fixture
def control() -> FakeControl:
    return FakeControl()


@pytest.fixture
def target(tmp_path: Path, control: FakeControl) -> Iterator[Target]:
    """A node that leads, as it runs in a pod."""
    for name, text in MADE.tls_secret.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "token").write_text("secret")
    members = [
        Member("orders-0", NAMES.address("orders-0"), "leader", 42, True),
        Member(NAMES.address("orders-1"), NAMES.address("orders-1"), "follower", None, False),
    ]
    node = FakeNode()
    node.now = replace(STATUS, node="orders-0", leader="orders-0", members=members)
    metrics = Metrics("1")
    metrics.attach(node)
    settings = AdminSettings(
        listen=Address("127.0.0.1", 0),
        token_file=tmp_path / "token",
        tls=AdminTls(cert=tmp_path / "tls.crt", key=tmp_path / "tls.key", ca=tmp_path / "ca.crt"),
    )
    server = AdminServer(settings, "orders-0", node, control, metrics)
    server.start()
    try:
        yield Target("127.0.0.1", NAMES.host("orders-0"), MADE.tls_secret["ca.crt"], "secret", server.address.port)
    finally:
        server.stop()


def run(work: Callable[[HttpNodes], Awaitable[None]]) -> None:
    async def main() -> None:
        async with HttpNodes() as nodes:
            await work(nodes)

    asyncio.run(main())


def test_a_leader_is_seen_with_its_members_by_the_names_of_their_pods(target: Target) -> None:
    async def story(nodes: HttpNodes) -> None:
        view = await nodes.look(target)
        assert (view.role, view.term, view.quorum) == ("leader", 3, True)
        assert [(member.name, member.connected) for member in view.members] == [("orders-0", True), ("orders-1", False)]
        assert view.source.state == "connected"
        assert view.source.configured is not None

    run(story)


def test_orders_reach_the_node(target: Target, control: FakeControl) -> None:
    async def story(nodes: HttpNodes) -> None:
        await nodes.add_member(target, "orders-3", NAMES.address("orders-3"))
        await nodes.remove_member(target, NAMES.address("orders-1"))
        await nodes.transfer(target, NAMES.address("orders-1"))
        await nodes.set_source(target, {"semi_sync": False, "tls": {"mode": "required"}})
        await nodes.switch_source(target, ("other:3306",))

    run(story)
    orders = [order for order in control.told if order != ("source",)]
    assert orders == [
        ("add", "orders-3", NAMES.address("orders-3"), "voter", 0),
        ("remove", NAMES.address("orders-1")),
        ("transfer", NAMES.address("orders-1")),
        ("set", {"semi_sync": False, "tls": {"mode": "required"}}),
        ("switch", {"endpoints": ["other:3306"]}, False),
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda it: replace(it, host=NAMES.host("orders-0").replace("shop", "other")), "does not answer"),
        (lambda it: replace(it, ca=OTHER.tls_secret["ca.crt"]), "does not answer"),
        (lambda it: replace(it, token="wrong"), "token"),
    ],
)
def test_a_pod_that_cannot_prove_itself_or_refuses_us_is_an_error(
    target: Target, change: Callable[[Target], Target], words: str
) -> None:
    async def story(nodes: HttpNodes) -> None:
        with pytest.raises(NodeError, match=words) as caught:
            await nodes.look(change(target))
        assert "wrong" not in str(caught.value)

    run(story)


def test_a_pod_that_is_not_there_is_an_error(target: Target) -> None:
    async def story(nodes: HttpNodes) -> None:
        with pytest.raises(NodeError, match="does not answer"):
            await nodes.look(replace(target, port=1))

    run(story)
    assert "secret" not in repr(target)
