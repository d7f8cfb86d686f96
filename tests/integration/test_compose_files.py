"""deploy/compose: three real nodes run with exactly its files and environment, at other addresses, on a real source.

There is no Docker in these tests: what is Docker's (names, ports, volumes) is looked at, and the rest is run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from servers.fixtures import Pool

from kingbus_node.demo.compare import differences
from kingbus_node.demo.instance import Server
from kingbus_node.demo.ports import ReservedPort
from kingbus_node.demo.replication import Upstream, replicate, wait_caught_up
from kingbus_node.demo.waiting import wait_until

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy" / "compose"
NODES = ("node-1", "node-2", "node-3")


def services() -> dict[str, dict[str, object]]:
    document = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
    found = document["services"]
    assert isinstance(found, dict)
    return found


def mapping(value: object) -> dict[str, str]:
    assert isinstance(value, dict)
    return value


def strings(value: object) -> list[str]:
    assert isinstance(value, list)
    return [str(item) for item in value]


@dataclass(frozen=True, slots=True)
class Status:
    """Some of what a node says of itself."""

    node: str
    role: str
    leader: str | None
    source: str
    ready: bool


@dataclass(frozen=True, slots=True)
class Running:
    """The three processes and where they are."""

    source: Server
    ports: Mapping[str, ReservedPort]
    admin: Mapping[str, ReservedPort]
    processes: Mapping[str, subprocess.Popen[bytes]]

    def kingbus(self, node: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command line as `docker compose exec` would run it: with the container's environment."""
        environment = {**os.environ, **mapping(services()[node]["environment"])}
        environment |= {
            "KINGBUS_ADMIN": f"http://127.0.0.1:{self.admin[node].number}",
            "KINGBUS_ADMIN_TOKEN_FILE": str(COMPOSE / "node" / "admin-token"),
        }
        command = [sys.executable, "-m", "kingbus_node.cli", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    def status(self, node: str) -> Status | None:
        """None while it does not answer."""
        done = self.kingbus(node, "status", "-o", "json")
        if done.returncode != 0:
            return None
        now = json.loads(done.stdout)
        return Status(now["node"], now["role"], now["leader"], now["source"]["state"], now["ready"])

    def ready(self, node: str) -> bool:
        status = self.status(node)
        return status is not None and status.ready

    def leader(self) -> str | None:
        """As the first node knows it; None during an election."""
        status = self.status(NODES[0])
        return None if status is None else status.leader


@pytest.fixture(scope="module")
def running(module_pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    command = [option.removeprefix("--").partition("=") for option in strings(services()["source"]["command"])]
    source = module_pool.server("mysql-9.7", {name: value for name, _, value in command if name != "server-id"})
    accounts = (COMPOSE / "source" / "accounts.sql").read_text()
    lines = [line for line in accounts.splitlines() if not line.startswith("--")]
    source.sql(*(statement for part in "\n".join(lines).split(";") if (statement := part.strip())))
    raft, serve, admin = ({node: ReservedPort() for node in NODES} for _ in range(3))
    folder = tmp_path_factory.mktemp("compose")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KINGBUS_")}
    with ExitStack() as stack:
        processes = {}
        for node in NODES:
            elsewhere = {
                "KINGBUS_NODE__DATA_DIR": str(folder / node),
                "KINGBUS_RAFT__LISTEN": f"127.0.0.1:{raft[node].number}",
                "KINGBUS_RAFT__ADVERTISE": f"127.0.0.1:{raft[node].number}",
                "KINGBUS_RAFT__PEERS": ",".join(f"127.0.0.1:{port.number}" for port in raft.values()),
                "KINGBUS_SERVE__LISTEN": f"127.0.0.1:{serve[node].number}",
                "KINGBUS_SOURCE__ENDPOINTS": f"127.0.0.1:{source.port}",
                "KINGBUS_ADMIN__LISTEN": f"127.0.0.1:{admin[node].number}",
            }
            environment = inherited | mapping(services()[node]["environment"]) | elsewhere
            log = stack.enter_context((folder / f"{node}.log").open("wb"))
            processes[node] = subprocess.Popen(
                [sys.executable, "-m", "kingbus_node.cli", "node", "--config", str(COMPOSE / "node" / "kingbus.yaml")],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
            stack.callback(processes[node].wait)
            stack.callback(processes[node].kill)
        running = Running(source, serve, admin, processes)
        for node in NODES:
            what = f"{node} to be ready"
            wait_until(
                lambda node=node: running.ready(node),  # type: ignore[misc]
                180, what, interval=0.1, found=lambda node=node: (folder / f"{node}.log").read_text(),  # type: ignore[misc]
            )  # fmt: skip
        yield running


def test_three_nodes_agree_on_a_leader_and_read_from_the_source(running: Running) -> None:
    def told() -> list[Status]:
        """They are asked one after another: when another leader is elected meanwhile, they do not fit together."""
        return [status for node in NODES if (status := running.status(node)) is not None]

    def agreed() -> bool:
        now = told()
        sources = [status.source for status in now if status.role == "leader"]
        return [status.node for status in now] == [*NODES] and (
            len({status.leader for status in now}) == 1 and sources == ["connected"]
        )

    wait_until(agreed, 90, "three nodes to agree on a leader that reads from the source", found=lambda: str(told()))


def test_the_readers_account_replicates_and_survives_the_leader(running: Running, module_pool: Pool) -> None:
    leader = wait_until(running.leader, 90, "a leader", interval=0.1)
    other = next(node for node in NODES if node != leader)
    (user,) = yaml.safe_load((COMPOSE / "node" / "users.yaml").read_text())
    replica = module_pool.server("mysql-9.7")
    replicate(replica, Upstream(running.ports[other].number, user["user"], user["password"]))
    running.source.sql(
        "CREATE DATABASE shop", "CREATE TABLE shop.t (id INT PRIMARY KEY)", "INSERT INTO shop.t VALUES (1)"
    )
    running.processes[leader].kill()
    running.source.sql("INSERT INTO shop.t VALUES (2)")
    wait_caught_up(running.source, replica, 90)
    assert differences(running.source, replica) == []


def test_the_admin_api_wants_the_token(running: Running) -> None:
    alive = next(node for node in NODES if running.processes[node].poll() is None)
    environment = {**os.environ, "KINGBUS_ADMIN": f"http://127.0.0.1:{running.admin[alive].number}"}
    command = [sys.executable, "-m", "kingbus_node.cli", "status"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "token" in done.stderr


def test_names_and_ports_of_the_file_fit_together() -> None:
    config = yaml.safe_load((COMPOSE / "node" / "kingbus.yaml").read_text())
    advertised = [mapping(services()[node]["environment"])["KINGBUS_RAFT__ADVERTISE"] for node in NODES]
    assert advertised == config["raft"]["peers"]
    assert config["source"]["endpoints"] == ["source:3306"]
    inside = {"3306": config["serve"]["listen"], "8080": config["admin"]["listen"]}
    published = []
    for node in NODES:
        for mapped in strings(services()[node]["ports"]):
            address, outside, port = mapped.split(":")
            assert address == "127.0.0.1"
            assert inside[port].endswith(f":{port}")
            published.append(outside)
    assert len(set(published)) == len(published)


def test_what_is_mounted_is_there_and_volumes_are_declared() -> None:
    document = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
    for service in services().values():
        for mount in strings(service["volumes"]):
            name, path = mount.split(":")[:2]
            assert path.startswith("/")
            assert (COMPOSE / name).is_dir() if name.startswith(".") else name in document["volumes"]
    assert all(mapping(services()[node])["read_only"] and services()[node]["cap_drop"] == ["ALL"] for node in NODES)
