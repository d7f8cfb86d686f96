"""What the processes of a node use, from proc(5)."""

from __future__ import annotations

import os
from pathlib import Path

from kingbus_node.demo.node_process import NodeProcess


def peak_memory(node: NodeProcess) -> dict[int, int]:
    """The most memory (bytes, VmHWM) that each process of a node has had resident so far, by pid."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            session = int((process / "stat").read_text().rpartition(") ")[2].split()[3])
            status = (process / "status").read_text() if session == node.pid else ""
        except FileNotFoundError:
            continue  # it has ended since
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                found[int(process.name)] = int(line.split()[1]) * 1024
    return found


def children(pid: int) -> list[int]:
    """The processes that any thread of `pid` has started, as far as they run."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted(int(child) for children in lists for child in children.read_text().split())


def processor_seconds(pid: int) -> float:
    """What a process has taken of a processor so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
