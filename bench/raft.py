"""What consensus costs: three nodes on this machine, each a process with its own log, every entry synced on all disks.

``python -m bench.raft [--megabytes N] [--directory D]``. Beside each figure stands what the machine gives without Raft,
measured in the same run: three processes that only write and sync the same bytes, one socket over loopback, and one
fdatasync after another. The ratios hold on other machines sooner than the figures do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.store import make_entry

from kingbus_node.raft.api import Leadership
from kingbus_node.raft.cluster import Cluster
from kingbus_node.raft.options import ClusterOptions
from kingbus_node.store.entry import WHOLE, Entry, Flag, Kind, Meta, SourceFile
from kingbus_node.store.log import Log

NODES = 3
WINDOW = 64 << 20
PATIENCE = 600.0


def percentile(values: Sequence[float], share: float) -> float:
    """In milliseconds."""
    return 1000 * sorted(values)[min(len(values) - 1, int(len(values) * share))]


def processor_seconds(pid: int) -> float:
    """That a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_memory() -> int:
    """Bytes that this process has had in memory at most."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


# Without Raft


def write_alone(path: Path, size: int, count: int) -> float:
    """Seconds to write `count` blocks of `size` bytes while another thread syncs all the time, as a node does."""
    block = os.urandom(size)
    written = synced = 0
    changed = threading.Condition()
    fd = os.open(path, os.O_RDWR | os.O_CREAT)

    def is_behind() -> bool:
        return written > synced

    def sync() -> None:
        nonlocal synced
        while synced < count:
            with changed:
                changed.wait_for(is_behind)
                target = written
            os.fdatasync(fd)
            with changed:
                synced = target
                changed.notify_all()

    thread = threading.Thread(target=sync)
    begun = time.perf_counter()
    thread.start()
    for number in range(count):
        with changed:
            changed.wait_for(lambda n=number: (n - synced) * size < WINDOW)  # type: ignore[misc]
        os.pwrite(fd, block, number * size)
        with changed:
            written += 1
            changed.notify_all()
    thread.join()
    took = time.perf_counter() - begun
    os.close(fd)
    path.unlink()
    return took


def three_alone(directory: Path, size: int, count: int) -> float:
    """Seconds until three processes have done it, side by side."""
    command = [sys.executable, "-m", "bench.raft", "--alone", str(size), str(count)]
    runs = [
        subprocess.Popen([*command, "--directory", str(directory / f"plain-{i}")], stdout=subprocess.PIPE, text=True)
        for i in range(NODES)
    ]
    return max(float(run.communicate(timeout=PATIENCE)[0]) for run in runs)


def sync_alone(directory: Path, size: int, count: int) -> list[float]:
    """Seconds of each of `count` writes with an fdatasync behind it."""
    path = directory / "syncs"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    block = os.urandom(size)
    took = []
    for number in range(count):
        begun = time.perf_counter()
        os.pwrite(fd, block, number * size)
        os.fdatasync(fd)
        took.append(time.perf_counter() - begun)
    os.close(fd)
    path.unlink()
    return took


def loopback(total: int) -> float:
    """Bytes a second over one connection of this machine with itself."""
    block = memoryview(os.urandom(1 << 20))
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = threading.Event()

        def take() -> None:
            connection, _ = server.accept()
            buffer = bytearray(2 << 20)
            with connection:
                left = total
                while left > 0:
                    left -= connection.recv_into(buffer)
            taken.set()

        threading.Thread(target=take).start()
        with socket.create_connection(server.getsockname()[:2]) as connection:
            begun = time.perf_counter()
            for _ in range(total >> 20):
                connection.sendall(block)
            taken.wait(PATIENCE)
            return total / (time.perf_counter() - begun)


# A node


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
        if work.number == 0 and work.position == 4:
            cluster.wait_committed(cluster.propose(work.begin()), time.monotonic() + PATIENCE)
        make = work.entries(order["size"])
        commits.clear()
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
            command = [sys.executable, "-m", "bench.raft", "--node", str(number), "--ports", *ports]
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

    def order(self, do: str, size: int, count: int) -> tuple[float, list[float], list[float]]:
        """Seconds that it took, those of each commit, and each node's seconds of processor time, the leader's first."""
        before = [processor_seconds(one.pid) for one in self._runs]
        answer = self._ask(self._leader, {"do": do, "size": size, "count": count})
        spent = [processor_seconds(one.pid) - was for one, was in zip(self._runs, before, strict=True)]
        spent.insert(0, spent.pop(self._leader))
        return answer["took"], answer["commits"], spent

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


def report(directory: Path, megabytes: int) -> None:
    """Measures and prints."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {directory}")
    print(f"load average before: {os.getloadavg()[0]:.1f}")
    total = megabytes << 20
    print(f"\nloopback, one connection            {loopback(total) / 1e6:8.0f} MB/s")
    nodes = Nodes(directory)
    try:
        for size in (256 << 10, 1 << 10):
            count = (total if size > 4096 else total // 16) // size
            took, commits, cpu = nodes.order("stream", size, count)
            alone = three_alone(directory, size if size > 4096 else 256 << 10, max(1, count * size // (256 << 10)))
            speed = count * size / took
            print(f"\n{size >> 10} KiB entries, {count} of them, three nodes, all synced")
            print(f"  consensus       {speed / 1e6:8.1f} MB/s {count / took:10.0f} entries/s")
            print(f"  commit latency  p50 {percentile(commits, 0.5):.1f} ms, p99 {percentile(commits, 0.99):.1f} ms")
            per_entry = ", ".join(f"{1e6 * seconds / count:.0f}" for seconds in cpu)
            print(f"  processor time  {per_entry} µs an entry on the leader and the followers")
            print(f"  without Raft    {count * size / alone / 1e6:8.1f} MB/s (three processes write and sync as much)")
            print(f"  ratio           {alone / took:8.2f}")
        count = 1000
        syncs = sync_alone(directory, 1024, count)
        _, commits, _ = nodes.order("one by one", 1024, count)
        print(f"\n1 KiB entries one by one, {count} of them")
        print(f"  commit          p50 {percentile(commits, 0.5):.2f} ms, p99 {percentile(commits, 0.99):.2f} ms")
        print(f"  local fdatasync p50 {percentile(syncs, 0.5):.2f} ms, p99 {percentile(syncs, 0.99):.2f} ms")
        ratio = percentile(commits, 0.99) / percentile(syncs, 0.99)
        print(f"  ratio of p99    {ratio:8.2f}")
        (led, _), *followed = told = nodes.tell()
        last = max(led)
        late = [max(0.0, seen[i] - led[i]) for seen, _ in followed for i in led if i > last - count and i in seen]
        print(f"  followers see it p50 {percentile(late, 0.5):.2f} ms, p99 {percentile(late, 0.99):.2f} ms later")
        peaks = ", ".join(f"{memory >> 20}" for _, memory in told)
        print(f"\npeak memory        {peaks} MiB, the leader first")
    finally:
        nodes.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Consensus of three nodes, beside the same work without Raft.")
    parser.add_argument("--megabytes", type=int, default=1024, help="of big entries; a sixteenth of that of small ones")
    parser.add_argument("--directory", type=Path, help="where to put the logs (default: a temporary directory)")
    parser.add_argument("--node", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--ports", type=int, nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--alone", type=int, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.alone is not None:
        print(write_alone(given.directory, *given.alone))
    elif given.node is not None:
        run_node(given.directory, given.node, given.ports)
    else:
        directory = Path(tempfile.mkdtemp(prefix="kingbus-bench-", dir=given.directory))
        try:
            report(directory, given.megabytes)
        finally:
            shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
