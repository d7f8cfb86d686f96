"""What the processes of a node use, from proc(5)."""

from __future__ import annotations

import os
from pathlib import Path

from kingbus_node.demo.node_process import NodeProcess


def peak_memory(node: NodeProcess) -> dict[int, int]:
    """The most memory (bytes, VmHWM) that each process of a node has had resident so far, by pid."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        fields = _told(process / "stat").rpartition(b") ")[2].split()
        status = _told(process / "status") if fields and int(fields[3]) == node.pid else b""
        for line in status.decode().splitlines():
            if line.startswith("VmHWM:"):
                found[int(process.name)] = int(line.split()[1]) * 1024
    return found


def children(pid: int) -> list[int]:
    """The processes that any thread of `pid` has started, as far as they run."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted(int(child) for children in lists for child in _told(children).split())


def command_line(pid: int) -> bytes:
    """How a process was started, in proc(5)'s form; empty when it has ended."""
    return _told(Path(f"/proc/{pid}/cmdline"))


def processor_seconds(pid: int) -> float:
    """What a process has taken of a processor so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _told(path: Path) -> bytes:
    """What a file of proc(5) says; nothing when its process or thread has ended since it was found, open or not."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
