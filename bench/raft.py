"""What consensus costs: three nodes on this machine, each a process with its own log, every entry synced on all disks.

``python -m bench.raft [--megabytes N] [--one-by-one N] [--small N] [--rows N] [--directory D]``. Beside each figure
stands what the machine gives without Raft, measured in the same run: three processes that only write and sync the same
bytes, one socket over loopback, one fdatasync after another (of one process, and of three at once), and ``mysqlbinlog
--raw`` for catching up with a real source (`bench.catchup`). The ratios hold on other machines sooner than the figures
do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from bench import catchup
from bench.figures import figure, settle
from bench.nodes import NODES, PATIENCE, Nodes

WINDOW = 64 << 20
ROUNDS = 2


def percentile(values: Sequence[float], share: float) -> float:
    """In milliseconds."""
    return 1000 * sorted(values)[min(len(values) - 1, int(len(values) * share))]


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


def sync_alone(path: Path, size: int, count: int) -> list[float]:
    """Seconds of each of `count` writes behind one another in a new file, with an fdatasync behind each."""
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


def three_syncing(directory: Path, size: int, count: int) -> list[float]:
    """The same of three processes that do it at the same time, each in a file of its own, as three nodes do."""
    command = [sys.executable, "-m", "bench.raft", "--syncing", str(size), str(count)]
    runs = [
        subprocess.Popen([*command, "--directory", str(directory / f"sync-{i}")], stdout=subprocess.PIPE, text=True)
        for i in range(NODES)
    ]
    return [seconds for run in runs for seconds in json.loads(run.communicate(timeout=PATIENCE)[0])]


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


def stream(nodes: Nodes, directory: Path, size: int, total: int) -> None:
    """Entries of `size` bytes as fast as they go, beside three processes without Raft."""
    count = total // size
    big = size > 4096
    took = alone = 1e9
    commits: list[float] = []
    cpu: list[float] = []
    for _ in range(ROUNDS):
        settle()
        alone = min(alone, three_alone(directory, size if big else 256 << 10, max(1, total // (256 << 10))))
        settle()
        answer, spent = nodes.order("stream", size=size, count=count)
        if answer["took"] < took:
            took, commits, cpu = answer["took"], answer["commits"], spent
    speed = count * size / took
    print(f"\n{size >> 10} KiB entries, {count} of them, three nodes, all synced")
    print(f"  consensus       {speed / 1e6:8.1f} MB/s {count / took:10.0f} entries/s")
    print(f"  commit latency  p50 {percentile(commits, 0.5):.1f} ms, p99 {percentile(commits, 0.99):.1f} ms")
    per_entry = ", ".join(f"{1e6 * seconds / count:.0f}" for seconds in cpu)
    print(f"  processor time  {per_entry} µs an entry on the leader and the followers")
    print(f"  without Raft    {count * size / alone / 1e6:8.1f} MB/s (three processes write and sync as much)")
    if big:
        name = f"quorum append, {size >> 10} KiB entries, beside three processes without Raft"
        figure(name, f"{speed / 1e6:.0f} MB/s", alone / took, 0.6, "x", least=True)


def one_by_one(nodes: Nodes, directory: Path, count: int) -> None:
    """Entries of 1 KiB, each once the one before is committed, beside an fdatasync of the same."""
    size = 1024
    answer, cpu = nodes.order("one by one", size=size, count=count)
    commits = answer["commits"]
    alone, three = sync_alone(directory / "syncs", size, count), three_syncing(directory, size, count)
    print(f"\n1 KiB entries one by one, {count} of them")
    print(f"  commit          p50 {percentile(commits, 0.5):.2f} ms, p99 {percentile(commits, 0.99):.2f} ms")
    per_entry = ", ".join(f"{1000 * seconds / count:.2f}" for seconds in cpu)
    print(f"  processor time  {per_entry} ms an entry on the leader and the followers")
    for who, syncs in (("one process that appends 1 KiB and syncs", alone), ("three such processes at once", three)):
        p50, p99 = percentile(syncs, 0.5), percentile(syncs, 0.99)
        print(f"  {who}: p50 {p50:.2f} ms, p99 {p99:.2f} ms")
        value = f"p99 {percentile(commits, 0.99):.2f} ms"
        figure(f"1 KiB one by one, beside {who}", value, percentile(commits, 0.99) / p99, 3, "x", least=False)
    (led, _), *followed = nodes.tell()
    last = max(led)
    late = [max(0.0, seen[i] - led[i]) for seen, _ in followed for i in led if i > last - count and i in seen]
    print(f"  followers see it p50 {percentile(late, 0.5):.2f} ms, p99 {percentile(late, 0.99):.2f} ms later")
    value = f"p50 {percentile(late, 0.5):.2f} ms"
    figure("followers see a commit later than the leader, p99", value, percentile(late, 0.99), 5, "ms", least=False)


def report(directory: Path, megabytes: int, entries: int) -> None:
    """Measures and prints."""
    total = megabytes << 20
    if total:
        print(f"\nloopback, one connection            {loopback(total) / 1e6:8.0f} MB/s")
    nodes = Nodes(directory)
    try:
        if total:
            for size in (256 << 10, 1 << 10):
                stream(nodes, directory, size, total if size > 4096 else total // 16)
        if entries:
            one_by_one(nodes, directory, entries)
        peaks = ", ".join(f"{memory >> 20}" for _, memory in nodes.tell())
        print(f"\npeak memory        {peaks} MiB, the leader first")
    finally:
        nodes.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Consensus of three nodes, beside the same work without Raft.")
    parser.add_argument("--megabytes", type=int, default=512, help="of big entries; a sixteenth of that of small ones")
    parser.add_argument("--one-by-one", type=int, default=1000, metavar="N", help="entries of 1 KiB, 0 for none")
    parser.add_argument("--small", type=int, default=100, metavar="MB", help="to catch up with, 0 for none")
    parser.add_argument("--rows", type=int, default=400, metavar="MB", help="the same in big rows, 0 for none")
    parser.add_argument("--directory", type=Path, help="where to put the logs (default: a temporary directory)")
    parser.add_argument("--alone", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--syncing", type=int, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.alone is not None:
        print(write_alone(given.directory, *given.alone))
        return 0
    if given.syncing is not None:
        print(json.dumps(sync_alone(given.directory, *given.syncing)))
        return 0
    directory = Path(tempfile.mkdtemp(prefix="kingbus-bench-", dir=given.directory))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {directory}")
    print(f"load average before: {os.getloadavg()[0]:.1f}")
    try:
        if given.megabytes or given.one_by_one:
            report(directory, given.megabytes, given.one_by_one)
        for workload, megabytes in (("small", given.small), ("rows", given.rows)):
            if megabytes:
                catchup.report(workload, megabytes, directory)
    finally:
        shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
