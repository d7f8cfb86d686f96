"""Three admin servers: what only the leader can do is passed on to it, and lists are put together from all."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from unit.admin.fakes import REPLICA, STATUS, FakeControl, FakeNode
from unit.admin.test_admin_http import Answer, ask, self_signed, serving

from kingbus_node.admin import peers
from kingbus_node.admin.http import AdminServer
from kingbus_node.admin.views import Member, Refused, Role, Source
from kingbus_node.config import AdminTls

NAMES = ("node-1", "node-2", "node-3")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who answers is not left out because the machine stood still for a moment."""
    monkeypatch.setattr(peers, "_CONNECT_SECONDS", 60.0)
    monkeypatch.setattr(peers, "_LOOK_SECONDS", 60.0)


@dataclass
class Trio:
    """``node-1`` leads; the others follow."""

    servers: dict[str, AdminServer]
    nodes: dict[str, FakeNode]
    controls: dict[str, FakeControl]

    def ask(self, node: str, path: str, token: str | None = None, method: str = "GET", body: object = None) -> Answer:
        return ask(self.servers[node], path, token, method, body)

    def knows(self, node: str, urls: dict[str, str | None], leader: str | None = "node-1") -> None:
        """What a node believes of the others."""
        members = [
            Member(name, f"10.0.0.{at}:7401", "leader" if name == leader else "follower", None, True, 0, urls[name])
            for at, name in enumerate(NAMES, 1)
        ]
        role: Role = "leader" if node == leader else "follower"
        now = self.nodes[node].now
        self.nodes[node].now = replace(now, node=node, role=role, leader=leader, members=members)


@contextmanager
def trio(token: Path | None = None) -> Iterator[Trio]:
    with ExitStack() as stack:
        nodes = {name: FakeNode() for name in NAMES}
        controls = {name: FakeControl(leads=name == "node-1", leader="node-1") for name in NAMES}
        servers = {name: stack.enter_context(serving(nodes[name], token, controls[name], name)) for name in NAMES}
        made = Trio(servers, nodes, controls)
        urls: dict[str, str | None] = {name: f"http://{server.address}" for name, server in servers.items()}
        for number, name in enumerate(NAMES, 1):
            made.nodes[name].now = replace(
                STATUS,
                replicas=[replace(REPLICA, id=f"replica-{number}", node=name)],
                source=replace(STATUS.source, state="connected")
                if number == 1
                else Source("db", "stopped", None, False, None, "binlog.000002", 900),
            )
            made.knows(name, urls)
        yield made


def ids(answer: Answer) -> list[str]:
    value = json.loads(answer.body)
    rows = value if isinstance(value, list) else value["replicas"]
    return sorted(row["id"] for row in rows)


@pytest.mark.parametrize("node", NAMES)
def test_an_order_to_any_node_is_carried_out_by_the_leader(node: str) -> None:
    with trio() as cluster:
        answer = cluster.ask(node, "/v1/members", method="POST", body={"address": "h:1"})
        stopped = cluster.ask(node, "/v1/source/stop", method="POST")
        assert (answer.status, stopped.status) == (200, 204)
        assert cluster.controls["node-1"].told == [("add", "", "h:1", "voter", 0), ("stop",)]


def test_the_leaders_errors_come_back_unchanged() -> None:
    with trio() as cluster:
        cluster.controls["node-1"].refusal = Refused(409, "it lacks 2 transactions", missing="u:7-8")
        direct, passed = (
            cluster.ask(node, "/v1/source/switch", method="POST", body={"endpoints": ["db2:1"]})
            for node in ("node-1", "node-2")
        )
        assert (passed.status, passed.kind, passed.body) == (direct.status, direct.kind, direct.body)


def test_the_callers_token_is_passed_on_and_a_wrong_one_is_not_asked_about(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret")
    with trio(token) as cluster:
        assert cluster.ask("node-3", "/v1/source/stop", "wrong", "POST").status == 401
        assert cluster.ask("node-3", "/v1/source/stop", "s3cret", "POST").status == 204
        assert ids(cluster.ask("node-3", "/v1/status", "s3cret")) == ["replica-1", "replica-2", "replica-3"]


def test_without_a_leader_an_order_is_refused_with_503() -> None:
    with trio() as cluster:
        cluster.controls["node-2"].leader = None
        answer = cluster.ask("node-2", "/v1/source/stop", method="POST")
        assert answer.status == 503
        assert "there is no leader now" in str(answer.json["detail"])


def test_two_nodes_that_each_take_the_other_for_the_leader_do_not_play_ball() -> None:
    with trio() as cluster:
        for control in cluster.controls.values():
            control.leads = False
        cluster.controls["node-1"].leader = "node-2"
        answer = cluster.ask("node-2", "/v1/source/stop", method="POST")
        assert answer.status == 503
        assert answer.json["detail"] == (
            "node-1 is not the leader any more, and the request was passed on once already: try again"
        )


def test_a_leader_that_cannot_be_reached_is_named_with_its_address() -> None:
    with trio() as cluster, socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # and does not listen; were it closed, the port could become somebody else's
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        cluster.knows("node-2", {"node-1": url, "node-2": None, "node-3": None})
        answer = cluster.ask("node-2", "/v1/source/stop", method="POST")
        assert answer.status == 502
        assert url in str(answer.json["detail"])
        cluster.knows("node-2", dict.fromkeys(NAMES))
        answer = cluster.ask("node-2", "/v1/source/stop", method="POST")
        assert answer.status == 503
        assert "its admin address is not known here" in str(answer.json["detail"])


@pytest.mark.parametrize("node", NAMES)
def test_status_holds_the_replicas_of_all_nodes_and_what_the_leader_knows(node: str) -> None:
    with trio() as cluster:
        status = cluster.ask(node, "/v1/status")
        assert ids(status) == ["replica-1", "replica-2", "replica-3"]
        assert ids(cluster.ask(node, "/v1/replicas")) == ["replica-1", "replica-2", "replica-3"]
        assert (status.json["node"], status.json["silent"]) == (node, [])
        source = status.json["source"]
        assert isinstance(source, dict)
        assert source["state"] == "connected"
        assert ids(cluster.ask(node, "/v1/status?local=true")) == [f"replica-{node[-1]}"]


def test_a_node_that_does_not_answer_is_named_and_the_others_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_LOOK_SECONDS", 5.0)  # in which the other one must answer
    with trio() as cluster, socket.create_server(("127.0.0.1", 0)) as hangs:
        urls: dict[str, str | None] = {name: f"http://{server.address}" for name, server in cluster.servers.items()}
        urls["node-3"] = f"http://127.0.0.1:{hangs.getsockname()[1]}"  # accepts, and never answers
        cluster.knows("node-2", urls)
        status = cluster.ask("node-2", "/v1/status")
        assert ids(status) == ["replica-1", "replica-2"]
        assert status.json["silent"] == ["node-3"]


def test_a_replica_is_killed_wherever_it_is() -> None:
    with trio() as cluster:
        for node in cluster.nodes.values():
            node.killable = {replica.id for replica in node.now.replicas}
        assert cluster.ask("node-2", "/v1/replicas/replica-3", method="DELETE").status == 204
        assert cluster.nodes["node-3"].killed == ["replica-3"]
        assert cluster.ask("node-2", "/v1/replicas/replica-9", method="DELETE").status == 404


def test_a_replica_is_not_said_to_be_gone_while_a_node_has_not_said_so() -> None:
    """One that is down, or answers something else: that it failed, that it does not take the token any more or yet."""
    with trio() as cluster:
        for node in cluster.nodes.values():
            node.killable = set()
        cluster.nodes["node-3"].killing_fails = True
        answer = cluster.ask("node-2", "/v1/replicas/replica-3", method="DELETE")
        assert (answer.status, answer.json["silent"]) == (502, ["node-3"])
        cluster.servers["node-1"].stop()
        answer = cluster.ask("node-2", "/v1/replicas/replica-3", method="DELETE")
        assert (answer.status, answer.json["silent"]) == (502, ["node-1", "node-3"])
        assert "node-1, node-3 did not" in str(answer.json["detail"])


def test_members_are_those_that_the_leader_sees() -> None:
    with trio() as cluster:
        now = cluster.nodes["node-1"].now
        cluster.nodes["node-1"].now = replace(now, members=[replace(one, match_index=41) for one in now.members])
        answer = json.loads(cluster.ask("node-3", "/v1/members").body)
        assert [(member["name"], member["match_index"]) for member in answer] == [(name, 41) for name in NAMES]


@pytest.mark.parametrize("trusted", [True, False])
def test_nodes_that_speak_https_verify_one_another(trusted: bool, tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path)
    tls = AdminTls(cert=cert, key=key, ca=cert if trusted else None)
    control = FakeControl()
    follows = FakeControl(leads=False, leader="node-1")
    asked = FakeNode(replace(STATUS, node="node-2", role="follower"))
    with (
        serving(FakeNode(), control=control, tls=tls) as leader,
        serving(asked, control=follows, name="node-2", tls=AdminTls(ca=tls.ca)) as follower,
    ):
        member = Member("node-1", "10.0.0.1:7401", "leader", None, True, 0, f"https://{leader.address}")
        asked.now = replace(asked.now, members=[member])
        answer = ask(follower, "/v1/source/stop", method="POST")
    assert answer.status == (204 if trusted else 502)
    assert control.told == ([("stop",)] if trusted else [])
