"""`kingbus demo` as a newcomer runs it: it proves equality, and however it ends it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until

KINGBUS = [sys.executable, "-m", "kingbus_node.cli"]


def start(flavor: Flavor, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*KINGBUS, "demo", "--check", "--flavor", flavor.value, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "TMPDIR": str(folder)},
    )  # fmt: skip


def processes_in(folder: Path) -> list[str]:
    """The command lines of all processes that work in `folder` or were told of it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            working = str((process / "cwd").readlink())
        except OSError:
            continue  # it has ended meanwhile
        if str(folder) in line or working.startswith(str(folder)):
            found.append(line)
    return found


def assert_nothing_is_left(folder: Path) -> None:
    wait_until(lambda: not processes_in(folder), 10, "all processes to end", found=lambda: str(processes_in(folder)))
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("flavor", list(Flavor))
def test_it_ends_with_equal_tables_and_code_0(flavor: Flavor, tmp_path: Path) -> None:
    with start(flavor, tmp_path, "--seconds", "6") as demo:
        said, _ = demo.communicate(timeout=150)
    assert demo.returncode == 0, said
    assert "the leader, was killed (SIGKILL)" in said
    assert "the replica had the next transaction after" in said
    assert "all nodes ended with code 0" in said
    assert "Source and replica are equal." in said
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    with start(Flavor.MARIADB, tmp_path, "--seconds", "60") as demo:
        assert demo.stdout is not None
        said = ""
        while "replica now replicates" not in said:
            line = demo.stdout.readline()
            assert line, said
            said += line
        demo.send_signal(number)
        rest, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, said + rest
    assert "Traceback" not in rest
    assert_nothing_is_left(tmp_path)
