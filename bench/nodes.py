"""Three nodes on this machine, each a process with its own log, that do what a measurement tells them.

``python -m bench.nodes --node I --ports P P P --directory D`` is one of them; `Nodes` starts all three.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.ingest import fetch, source_settings
from bench.store import make_entry

from kingbus_node.raft.api import Leadership
from kingbus_node.raft.cluster import Cluster
from kingbus_node.raft.options import ClusterOptions
from kingbus_node.store.entry import WHOLE, Entry, Flag, Kind, Meta, SourceFile
from kingbus_node.store.log import Log

NODES = 3
PATIENCE = 600.0


def processor_seconds(pid: int) -> float:
    """That a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_memory() -> int:
    """Bytes that this process has had in memory at most."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


class Work:
    """The entries of one source file, one behind the other."""

    def __init__(self) -> None:
        self.position = 4
        self.number = 0

    def begin(self) -> list[Entry]:
        """What a log must begin with."""
        first = make_entry(4, 1, 1, 100)
        self.position = first.end_pos
        names = SourceFile("binlog.000001", "binlog.000001")
        header = Entry(
            Kind.DATA, WHOLE | Flag.FILE_START, 1, 1, 4, first.end_pos, Meta(file=names), first.packets, first.payload
        )
        return [Entry(Kind.STATE, meta=Meta(json={"flavor": "mysql"})), header]

    def entries(self, size: int) -> Callable[[], Entry]:
        """Makes entries of about `size` bytes, with few copies: their payload is one and the same buffer."""
        shape = make_entry(4, 1, 1, size - 200)

        def make() -> Entry:
            self.number += 1
            start, self.position = self.position, self.position + size - 200
            return replace(shape, start_pos=start, end_pos=self.position, meta=Meta())

        return make


def run_node(directory: Path, number: int, ports: Sequence[int]) -> None:
    """One of the three: says when it leads, and does what it is told in lines on its standard input."""
    addresses = [f"127.0.0.1:{port}" for port in ports]
    commits: list[float] = []
    seen: dict[int, float] = {}
    log = Log.open(directory / f"node-{number}")
    listener = socket.create_server(("127.0.0.1", ports[number]))
    options = ClusterOptions(address=addresses[number], founders=tuple(addresses), priority=0, min_free_bytes=1 << 20)
    cluster = Cluster(log, f"node-{number}", options, listener=listener, on_commit=commits.append)

    def tell(leadership: Leadership | None) -> None:
        if leadership is not None and leadership.ready:
            print(json.dumps({"leads": number}), flush=True)

    cluster.add_leadership_listener(tell)
    cluster.add_commit_listener(lambda index: seen.__setitem__(index, time.monotonic()))
    sys.setswitchinterval(0.0005)  # as a node does
    work = Work()
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "stop":
            break
        if order["do"] == "tell":
            print(json.dumps({"seen": seen, "memory": peak_memory()}), flush=True)
            continue
        commits.clear()
        if order["do"] == "fetch":
            settings = source_settings(order["port"], directory)
            took, events = fetch(log, cluster, settings, order["last"], order["end"])
            print(json.dumps({"took": took, "events": events}), flush=True)
            continue
        if work.number == 0 and work.position == 4:
            cluster.wait_committed(cluster.propose(work.begin()), time.monotonic() + PATIENCE)
        make = work.entries(order["size"])
        begun = time.perf_counter()
        index = 0
        for _ in range(order["count"]):
            index = cluster.propose([make()])
            if order["do"] == "one by one":
                cluster.wait_committed(index, time.monotonic() + PATIENCE)
        cluster.wait_committed(index, time.monotonic() + PATIENCE)
        took = time.perf_counter() - begun
        print(json.dumps({"took": took, "commits": commits}), flush=True)
    cluster.close()
    log.close()


class Nodes:
    """The three processes."""

    def __init__(self, directory: Path) -> None:
        self._runs: list[subprocess.Popen[str]] = []
        reserved = [socket.create_server(("127.0.0.1", 0)) for _ in range(NODES)]
        ports = [str(one.getsockname()[1]) for one in reserved]
        for one in reserved:
            one.close()
        for number in range(NODES):
            command = [sys.executable, "-m", "bench.nodes", "--node", str(number), "--ports", *ports]
            self._runs.append(
                subprocess.Popen(
                    [*command, "--directory", str(directory)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        self._answers: list[queue.SimpleQueue[dict[str, Any]]] = [queue.SimpleQueue() for _ in self._runs]
        self._leader = -1
        self._led = threading.Event()
        for number in range(NODES):
            threading.Thread(target=self._read, args=(number,), daemon=True).start()
        if not self._led.wait(60):
            raise RuntimeError("no node leads after a minute")

    def _read(self, number: int) -> None:
        for line in self._runs[number].stdout or ():
            answer = json.loads(line)
            if "leads" in answer:
                self._leader = number
                self._led.set()
            else:
                self._answers[number].put(answer)

    def _ask(self, number: int, order: dict[str, Any]) -> dict[str, Any]:
        print(json.dumps(order), file=self._runs[number].stdin, flush=True)
        return self._answers[number].get(timeout=PATIENCE)

    def order(self, do: str, **how: int | str) -> tuple[dict[str, Any], list[float]]:
        """What the leader answers, and each node's seconds of processor time, the leader's first."""
        before = [processor_seconds(one.pid) for one in self._runs]
        answer = self._ask(self._leader, {"do": do, **how})
        spent = [processor_seconds(one.pid) - was for one, was in zip(self._runs, before, strict=True)]
        spent.insert(0, spent.pop(self._leader))
        return answer, spent

    def tell(self) -> list[tuple[dict[int, float], int]]:
        """When each node saw which commit (one clock for all), and its peak memory in bytes; the leader first."""
        others = [number for number in range(NODES) if number != self._leader]
        answers = [self._ask(number, {"do": "tell"}) for number in (self._leader, *others)]
        return [({int(index): at for index, at in one["seen"].items()}, one["memory"]) for one in answers]

    def stop(self) -> None:
        """Ends them."""
        for run in self._runs:
            assert run.stdin is not None
            print(json.dumps({"do": "stop"}), file=run.stdin, flush=True)
        for run in self._runs:
            run.wait(60)


def main() -> None:
    """One node."""
    parser = argparse.ArgumentParser(description="One node of a measurement.")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--node", type=int, required=True)
    parser.add_argument("--ports", type=int, nargs="*", required=True)
    given = parser.parse_args()
    logging.getLogger("kingbus_node.raft").setLevel(logging.ERROR)  # that others do not listen yet is no news here
    run_node(given.directory, given.node, given.ports)


if __name__ == "__main__":
    main()
