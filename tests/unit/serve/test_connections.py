"""The supervisor's table of connections, and the messages that fill it."""

from __future__ import annotations

import os
import socket

import pytest

from kingbus_node.serve.connections import (
    ConnectionTable,
    process_from_json,
    process_to_json,
    replica_from_json,
    replica_to_json,
)
from kingbus_node.serve.control import ControlClosedError, ControlSocket, Message, number_of, text_of
from kingbus_node.serve.view import ConnectedReplica, Process


def dumping(table: ConnectionTable, worker: int, *, uuid: str = "", server_id: int = 0) -> int:
    """A new connection of `worker` that dumps."""
    number = table.open(worker, "10.0.0.1", 5000)
    table.note(worker, {"op": "login", "id": number, "user": "repl"})
    table.note(worker, {"op": "dump", "id": number, "uuid": uuid, "server_id": server_id, "registered": True})
    return number


def test_the_next_connection_goes_to_the_worker_with_the_fewest_dumps() -> None:
    table = ConnectionTable()
    assert table.least_loaded([0, 1]) == 0
    dumping(table, 0)
    for _ in range(3):
        assert table.least_loaded([0, 1]) == 1
        table.open(1, "h", 1)
    dumping(table, 1)
    assert table.least_loaded([0, 1]) == 0
    assert table.least_loaded([1]) == 1


def test_ids_are_unique_and_wrap_at_32_bits() -> None:
    table = ConnectionTable()
    table._last_id = 0xFFFFFFFE
    assert [table.open(0, "h", 1) for _ in range(3)] == [0xFFFFFFFF, 1, 2]
    table._last_id = 0xFFFFFFFF
    assert table.open(0, "h", 1) == 3


def test_a_dump_is_reported_with_its_progress() -> None:
    table = ConnectionTable()
    number = dumping(table, 1, uuid="u", server_id=7)
    progress: Message = {
        "op": "progress",
        "id": number,
        "file": "binlog.000002",
        "position": 99,
        "index": 5,
        "sent": 10,
    }
    table.note(1, progress)
    (report,) = table.reports()
    assert (report.connection_id, report.uuid, report.server_id, report.user) == (number, "u", 7, "repl")
    assert (report.file, report.position, report.index, report.sent_bytes) == ("binlog.000002", 99, 5, 10)
    table.note(1, {"op": "undump", "id": number, "code": 1236, "sent": 12})
    assert table.reports() == []
    assert table.refusals == {1236: 1}
    assert table.sent_bytes_ended == 12


def test_the_same_replica_is_found_in_other_workers() -> None:
    table = ConnectionTable()
    first, second = dumping(table, 0, uuid="u"), dumping(table, 1, uuid="u")
    assert table.same_replica("u", 0, second) == {0}
    assert table.same_replica("u", 0, first) == {1}
    third = dumping(table, 0, server_id=5)
    assert table.same_replica("", 5, 0) == {0}
    assert table.same_replica("", 5, third) == set()
    assert table.same_replica("", 0, 0) == set()


def test_a_worker_that_is_gone_takes_its_connections_with_it() -> None:
    table = ConnectionTable()
    gone, stays = dumping(table, 0), dumping(table, 1)
    table.note(0, {"op": "progress", "id": gone, "sent": 50})
    table.worker_gone(0)
    assert [report.connection_id for report in table.reports()] == [stays]
    assert table.sent_bytes_ended == 50
    assert table.worker_of(gone) is None
    assert len(table) == 1


def test_messages_about_connections_of_others_change_nothing() -> None:
    table = ConnectionTable()
    number = dumping(table, 0)
    table.note(1, {"op": "closed", "id": number})
    table.note(0, {"op": "closed", "id": 4711})
    table.note(0, {"op": "what is this", "id": number})
    assert len(table) == 1
    table.note(0, {"op": "closed", "id": number})
    assert len(table) == 0


def test_processes_tell_what_is_known() -> None:
    table = ConnectionTable()
    table.open(0, "h", 1)
    dumping(table, 0)
    assert [process.command for process in table.processes()] == ["Connect", "Binlog Dump"]


def test_rows_of_answers_come_back() -> None:
    replica = ConnectedReplica(1, 2, "h", 3, "u")
    assert replica_from_json(replica_to_json(replica)) == replica
    assert replica_from_json([1, 2]) is None
    process = Process(1, "u", "h:1", None, "Sleep", 4, "", None)
    assert process_from_json(process_to_json(process)) == process
    assert process_from_json("x") is None


# -- the control socket


def pair() -> tuple[ControlSocket, ControlSocket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ControlSocket(ours), ControlSocket(theirs)


def test_messages_keep_their_boundaries_and_sockets_go_along() -> None:
    ours, theirs = pair()
    read, write = socket.socketpair()
    ours.send({"op": "a", "n": 1})
    ours.send({"op": "b"}, write)
    assert write.fileno() == -1, "what was handed over is closed here"
    first, second = theirs.receive(), theirs.receive()
    assert first == ({"op": "a", "n": 1}, None)
    assert second is not None
    message, passed = second
    assert passed is not None
    passed.sendall(b"hello")
    assert read.recv(10) == b"hello"
    for one in (passed, read):
        one.close()
    ours.close()
    with pytest.raises(ControlClosedError):
        theirs.receive()
    with pytest.raises(ControlClosedError):
        theirs.send({"op": "c"})
    theirs.close()
    assert (text_of(message, "op"), text_of(message, "n"), number_of(message, "op")) == ("b", "", 0)


def test_what_does_not_fit_is_queued_in_order() -> None:
    ours, theirs = pair()
    assert ours.receive() is None
    count = 0
    while not ours.queued:
        ours.send({"n": count, "text": "x" * 10_000})
        count += 1
    read, write = socket.socketpair()
    ours.send({"n": count}, write)
    for number in range(count):
        received = theirs.receive()
        assert received is not None
        assert received[0]["n"] == number
        ours.flush()
    last = theirs.receive()
    assert last is not None
    assert last[1] is not None
    last[1].close()
    assert ours.queued == 0
    read.close()
    ours.close()
    theirs.close()


def test_closing_closes_what_was_not_handed_over() -> None:
    ours, theirs = pair()
    while not ours.queued:
        ours.send({"text": "x" * 10_000})
    read, write = socket.socketpair()
    fd = write.fileno()
    ours.send({"op": "accept"}, write)
    ours.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    read.close()
    theirs.close()


def progress(table: ConnectionTable, worker: int, number: int, sent: int) -> None:
    table.note(worker, {"op": "progress", "id": number, "file": "b", "position": 4, "index": 1, "sent": sent})


def test_what_a_replica_was_sent_is_not_forgotten_when_it_comes_back_elsewhere() -> None:
    table = ConnectionTable()
    first = dumping(table, 0, uuid="u", server_id=7)
    progress(table, 0, first, 1000)
    table.worker_gone(0)
    assert table.reports() == []
    progress(table, 1, dumping(table, 1, uuid="u", server_id=7), 10)
    (report,) = table.reports()
    assert (report.identity, report.sent_before, report.sent_bytes) == ("u", 1000, 10)
    assert table.sent_bytes() == 1010


def test_a_replica_without_uuid_is_known_by_its_server_id_and_a_client_without_either_by_nothing() -> None:
    table = ConnectionTable()
    for server_id in (7, 0):
        number = dumping(table, 0, server_id=server_id)
        table.note(0, {"op": "undump", "id": number, "code": 0, "sent": 5})
        dumping(table, 0, server_id=server_id)
    assert [(report.identity, report.sent_before) for report in table.reports()] == [("server-7", 5), ("", 0)]
    assert table.sent_bytes() == 10


def test_only_so_many_replicas_that_are_gone_are_remembered() -> None:
    table = ConnectionTable()
    for server_id in range(1, 1102):
        number = dumping(table, 0, server_id=server_id)
        table.note(0, {"op": "undump", "id": number, "code": 1236, "sent": 1})
        table.note(0, {"op": "closed", "id": number})
    assert len(table._sent_before) == 1000
    assert table.sent_bytes() == 1101
    assert table.refusals == {1236: 1101}


def test_a_message_may_be_of_any_size() -> None:
    ours, theirs = pair()
    read, write = socket.socketpair()
    long: Message = {"op": "a", "text": "ü" * 200_000}
    theirs.send({"n": 1})
    ours.send(long, write)
    ours.send({"op": "b"})
    assert ours.queued
    found: list[tuple[Message, socket.socket | None]] = []
    while len(found) < 2:
        received = theirs.receive()
        if received is not None:
            found.append(received)
        ours.flush()
    assert (found[0][0], found[1]) == (long, ({"op": "b"}, None))
    assert found[0][1] is not None
    assert ours.receive() == ({"n": 1}, None)
    for one in (found[0][1], read, ours, theirs):
        one.close()
