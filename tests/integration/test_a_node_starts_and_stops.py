"""The life of a node's process: signals, exit codes, what it says when it cannot run. Its source does not answer."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from servers.processes import children

from kingbus_node.demo.node_process import NodeFailed, NodeProcess, Settings
from kingbus_node.demo.ports import ReservedPort
from kingbus_node.demo.waiting import wait_until


@dataclass(frozen=True)
class NobodyThere:
    """A source that does not answer."""

    port: int


Make = Callable[..., NodeProcess]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes nodes, which are ended with the test. Not started; each with the settings that are given."""
    nodes: list[NodeProcess] = []
    nowhere = ReservedPort()

    def make(settings: Settings | None = None) -> NodeProcess:
        name = f"node-{len(nodes) + 1}"
        nodes.append(NodeProcess(NobodyThere(nowhere.number), tmp_path / name, name=name, settings=settings))
        return nodes[-1]

    yield make
    for node in nodes:
        node.kill()


@pytest.fixture
def node(make: Make) -> NodeProcess:
    return make()


def refuses_to_start(node: NodeProcess) -> str:
    """What the node said before it ended with code 1."""
    with pytest.raises(NodeFailed, match="ended with code 1"):
        node.start(ready=False)
    return node.log_tail()


def ready(node: NodeProcess) -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{node.admin_port}/readyz", timeout=5) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def source_state(node: NodeProcess) -> object:
    source = node.status()["source"]
    return source["state"] if isinstance(source, dict) else None


def started(node: NodeProcess) -> int:
    """Starts it, and waits until it leads and has written that down; its term. It answers a moment before that."""
    node.start(ready=False)
    wait_until(lambda: source_state(node) == "connecting", 60, "the node to lead", found=node.log_tail)
    return int(str(node.status()["term"]))


def gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_code_0_and_leaves_no_process(node: NodeProcess, number: signal.Signals) -> None:
    node.start(ready=False)
    processes = [node.pid, *children(node.pid)]
    node.stop(number=number)
    wait_until(lambda: gone(processes), 60, "all processes of the node to end")
    assert "Traceback" not in node.log_tail()


def test_a_signal_to_all_of_its_processes_ends_them_in_order(make: Make) -> None:
    """As systemd does it: a serve process must not go before the leadership has been handed over."""
    node = make({"serve": {"workers": 1}})
    node.start(ready=False)
    wait_until(lambda: "no serve process is up" not in str(ready(node)[1]["reasons"]), 60, "the serve process")
    (worker,) = children(node.pid)
    processes = [node.pid, worker]
    os.kill(worker, signal.SIGTERM)
    node.stop()
    wait_until(lambda: gone(processes), 60, "all processes of the node to end")
    assert "serve process" not in node.log_tail()


def test_its_workers_end_when_it_is_killed(node: NodeProcess) -> None:
    node.start(ready=False)
    workers = wait_until(lambda: children(node.pid), 60, "the serve processes: the node answers a moment before")
    node.kill()
    wait_until(lambda: gone(workers), 60, "the serve processes to end")


def test_it_is_not_ready_while_nothing_has_come_from_the_source(node: NodeProcess) -> None:
    node.start(ready=False)
    status, body = ready(node)
    assert status == 503
    assert "nothing has come from the source" in str(body["reasons"])
    wait_until(lambda: source_state(node) == "connecting", 30, "the node to lead, and to look for its source")


def test_it_starts_again_on_its_own_log(node: NodeProcess) -> None:
    term = started(node)
    node.stop()
    assert started(node) == term + 1


def test_a_second_signal_ends_it_at_once(node: NodeProcess) -> None:
    node.start(ready=False)
    os.kill(node.pid, signal.SIGSTOP)  # so that both are there before it can do anything
    os.kill(node.pid, signal.SIGTERM)
    os.kill(node.pid, signal.SIGINT)
    with pytest.raises(NodeFailed, match=r"ended with code 1(30|43)"):
        node.stop(number=signal.SIGCONT)


def test_a_second_node_on_the_same_data_is_refused(node: NodeProcess, make: Make) -> None:
    node.start(ready=False)
    assert "another process has the log" in refuses_to_start(make({"node": {"data_dir": str(node.data)}}))


@pytest.mark.parametrize("section", ["serve", "admin"])
def test_a_taken_port_is_told_in_one_sentence(section: str, make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = refuses_to_start(make({section: {"listen": address}}))
    assert f"{section}.listen {address}" in said
    assert "in use" in said
    assert "Traceback" not in said


def test_damage_in_the_middle_of_the_log_is_refused_by_file_and_offset(node: NodeProcess) -> None:
    started(node)
    node.stop()
    segment = next((node.data / "log").glob("*.log"))
    damaged = bytearray(segment.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    segment.write_bytes(damaged)
    said = refuses_to_start(node)
    assert segment.name in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"source": {"server_id": 900_101}}, "source.server_id and serve.server_id are both 900101"),
        ({"raft": {"peers": ["127.0.0.1:7401", "127.0.0.1:7402"]}}, "does not hold this node's own address"),
        ({"serve": {"users_file": "nobody.yaml"}}, "serve.users_file"),
        ({"node": {"data_dir": "/proc/nowhere"}}, "node.data_dir /proc/nowhere cannot be used"),
    ],
)
def test_what_can_not_work_is_refused_with_its_key(settings: Settings, words: str, make: Make) -> None:
    said = refuses_to_start(make(settings))
    assert words in said
    assert "Traceback" not in said


def test_no_secret_is_in_its_log_status_or_arguments(node: NodeProcess) -> None:
    node.start(ready=False)
    arguments = subprocess.run(
        ["ps", "-o", "args=", "-p", str(node.pid)], capture_output=True, text=True, check=True
    ).stdout
    told = arguments + node.log.read_text() + json.dumps(node.status())
    assert "replication" not in told.replace("kingbus", "")
