"""A worker in this process: what it lacks, or fails at, for one connection is no harm to the others."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from unit.serve.clients import USERS

from kingbus_node.serve.channel import Channel
from kingbus_node.serve.control import ControlSocket, Message
from kingbus_node.serve.facts import SessionFacts
from kingbus_node.serve.keys import ensure_keys
from kingbus_node.serve.registry import Dump
from kingbus_node.serve.settings import ServeOptions, WorkerSettings
from kingbus_node.serve.worker import Worker
from kingbus_node.store.errors import CorruptLogError
from kingbus_node.store.log import Log
from kingbus_node.store.reader import LogReader
from kingbus_node.wire.commands import DumpKind, DumpRequest

SECONDS = 60.0


@dataclass
class Core:
    """The core's end of the control socket, and the worker at the other end."""

    worker: Worker
    control: ControlSocket

    def accept(self, number: int, sock: socket.socket) -> None:
        """Give the worker a connection, and let it take that."""
        self.control.send({"op": "accept", "id": number, "host": "127.0.0.1", "port": 7}, sock)
        self.worker._listen()

    def told(self) -> Message:
        """What the worker says next."""
        received = self.control.receive()
        assert received is not None
        return received[0]


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    (tmp_path / "users.yaml").write_text(USERS)
    ensure_keys(tmp_path / "keys", certificate=True)
    log = Log.open(tmp_path / "log")
    options = ServeOptions(tmp_path / "log", tmp_path / "keys", tmp_path / "users.yaml", "::", 0, 1, 101)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(SECONDS)
    wake = os.eventfd(0, os.EFD_NONBLOCK)
    with contextlib.closing(ControlSocket(ours)) as control:
        made = Worker(WorkerSettings(options, theirs.detach(), wake, 3306, 0.0))
        yield Core(made, control)
        for thread in threading.enumerate():
            if thread.name.startswith("connection-"):
                thread.join(SECONDS)
    made._control.close()
    os.close(wake)
    log.close()


def no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_connection_that_gets_no_thread_ends_alone(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, client = socket.socketpair()
    with client, monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        core.accept(5, ours)
        client.settimeout(SECONDS)
        assert not client.recv(1)
    core.worker._report({})
    assert core.told() == {"op": "closed", "id": 5}
    assert not core.worker.own_processes()


def test_a_log_that_cannot_be_read_is_the_trouble_of_the_connection_that_asks(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(_: LogReader) -> None:
        raise CorruptLogError(Path("a.log"), 0, "it cannot be read")

    core.worker._not_serving = None
    monkeypatch.setattr(LogReader, "state", unreadable)
    ours, client = socket.socketpair()
    with client:
        core.accept(5, ours)
        client.settimeout(SECONDS)
        assert b"Internal error" in client.recv(1000)
    assert core.told() == {"op": "closed", "id": 5}


@contextlib.contextmanager
def stream(number: int) -> Iterator[Dump]:
    """A dump that goes on."""
    ours, client = socket.socketpair()
    facts = SessionFacts(number, user_variables={"replica_uuid": str(number).encode()})
    with client, contextlib.closing(Channel(ours, timeout=None)) as channel:
        yield Dump(facts, channel, DumpRequest(DumpKind.FILE, 0, number, "", 4), 0.0)


def test_what_a_replica_has_may_be_unknown_but_not_how_far_it_and_others_are(core: Core) -> None:
    """Without reports, retention would keep what the replicas needed last, for ever."""

    def unknown() -> str:
        raise OSError(errno.EMFILE, "Too many open files")

    with stream(1) as first, stream(2) as second:
        first.gtid_sent, second.gtid_sent = unknown, lambda: "a:1"
        for dump in (first, second):
            core.worker._registry.add(dump)
            assert core.told()["op"] == "dump"
            dump.index = 7
        core.worker._report({})
        told = [core.told() for _ in range(2)]
        for dump in (first, second):
            core.worker._registry.remove(dump)
    assert [(one["op"], one["id"], one["index"], one["gtid_sent"]) for one in told] == [
        ("progress", 1, 7, ""),
        ("progress", 2, 7, "a:1"),
    ]
