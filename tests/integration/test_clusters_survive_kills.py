"""Real processes that are killed without a warning, again and again, while they write: what was seen to be committed
stays, in one order, once, on every disk.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters.lab import contents, notes, until

from kingbus_node.demo.ports import ReservedPort
from kingbus_node.store.log import Log
from kingbus_node.store.reader import LogReader

TESTS = Path(__file__).parents[1]
ROUNDS = 3
"""Of each kind. ``KINGBUS_KILL_ROUNDS`` asks for more."""


class Member:
    """One process."""

    def __init__(self, directory: Path, number: int, address: str, founders: list[str]) -> None:
        self.name = f"node-{number}"
        self.directory = directory / self.name
        self.committed: list[str] = []
        self._address = address
        self._founders = founders
        self._errors = (directory / f"{self.name}.log").open("ab")
        self.process: subprocess.Popen[str]
        self._reader: threading.Thread

    def start(self) -> None:
        port = self._address.rpartition(":")[2]
        command = [sys.executable, "-m", "clusters.member", str(self.directory), self.name, self._address, port]
        self.process = subprocess.Popen(
            [*command, *self._founders],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent / 'node'}"},
        )
        self._reader = threading.Thread(target=self._read, args=(self.process,))
        self._reader.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.endswith("\n"):
                self.committed.append(line.removeprefix("committed ").strip())

    def kill(self) -> None:
        self.process.kill()
        self._end()

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._end()
        assert self.process.returncode == 0

    def _end(self) -> None:
        self.process.wait(120)
        self._reader.join(120)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()
        self._errors.close()


class Trio:
    """Three processes."""

    def __init__(self, directory: Path, addresses: list[str]) -> None:
        self.members = [Member(directory, i, address, addresses) for i, address in enumerate(addresses, 1)]
        for member in self.members:
            member.start()

    def count(self) -> int:
        return sum(len(member.committed) for member in self.members)

    def go_on(self, count: int = 100) -> Member:
        """Waits for that many commits more; gives who saw the last ones."""
        before = {member.name: len(member.committed) for member in self.members}
        goal = self.count() + count
        until(lambda: self.count() >= goal, f"{count} more commits")
        return max(self.members, key=lambda member: len(member.committed) - before[member.name])


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[Trio]:
    ports = [ReservedPort() for _ in range(3)]
    trio = Trio(tmp_path, [f"127.0.0.1:{port.number}" for port in ports])
    yield trio
    for member in trio.members:
        member.close()


@pytest.mark.timeout(1200)  # every round starts processes, which takes its time on a machine that does much else
def test_whoever_is_killed_what_was_committed_stays(trio: Trio) -> None:
    rounds = int(os.environ.get("KINGBUS_KILL_ROUNDS", ROUNDS))
    dice = random.Random(7)
    plan = [kind for kind in ("leader", "follower", "all", "frozen leader") for _ in range(rounds)]
    dice.shuffle(plan)
    for kind in plan:
        leader = trio.go_on()
        others = [member for member in trio.members if member is not leader]
        if kind == "frozen leader":  # it comes back and believes to lead still
            os.kill(leader.process.pid, signal.SIGSTOP)
            before = sum(len(member.committed) for member in others)
            until(lambda b=before, o=others: sum(len(m.committed) for m in o) > b, "another one leads")  # type: ignore[misc]
            os.kill(leader.process.pid, signal.SIGCONT)
            continue
        victims = {"leader": [leader], "follower": [dice.choice(others)], "all": trio.members}[kind]
        for victim in victims:
            victim.kill()
        if kind != "all" and dice.random() < 0.7:
            trio.go_on()
        for victim in victims:
            victim.start()
    trio.go_on()
    for member in trio.members:
        member.stop()
    check(trio)


def check(trio: Trio) -> None:
    """Compares the three disks with one another, and with what was seen to be committed."""
    logs = [Log.open(member.directory) for member in trio.members]
    try:
        shortest = min((contents(log) for log in logs), key=len)
        for log in logs:
            assert contents(log)[: len(shortest)] == shortest, "the logs differ"
        longest = max((notes(log) for log in logs), key=len)
    finally:
        for log in logs:
            log.close()
    assert len(set(longest)) == len(longest), "something was committed twice"
    for member in trio.members:
        places = {text: place for place, text in enumerate(longest)}
        assert not [text for text in member.committed if text not in places], "what was committed is gone"
        order = [places[text] for text in member.committed]
        assert order == sorted(order)
        reader = LogReader(member.directory)
        assert reader.state().facts["note"] in places
        reader.close()
