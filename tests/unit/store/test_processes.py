"""One process writes, others read: what the serve workers do."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from unit.store.samples import CANCEL, Source, event, executed, started, write

from kingbus_node.store.errors import PurgedError
from kingbus_node.store.log import Log
from kingbus_node.store.reader import LogReader

TRANSACTIONS = 1500


def _follow(directory: Path, pipe: Connection) -> None:
    """Reads everything from the beginning while it is written, checks it, and sends what it found."""
    reader = LogReader(directory)
    cursor, expected, count, position = reader.cursor(1), 1, 0, 4
    deadline = time.monotonic() + 120
    pipe.send("ready")
    while count < TRANSACTIONS:
        block = cursor.read(65536)
        if block is None:
            assert time.monotonic() < deadline, f"only {count} transactions came"
            if reader.visible_index >= expected:
                expected = reader.state().index + 1  # folds while the writer goes on
            continue
        deadline = time.monotonic() + 120
        data = np.frombuffer(block.data, np.uint8)
        visible = reader.visible_index
        assert block.last_index <= visible
        if block.starts_file:
            position = 4
        for offset in block.packets.tolist():
            size = int.from_bytes(data[offset + 14 : offset + 18].tobytes(), "little")
            fill = bytes([97 + (position + size) % 26])
            assert data[offset + 5 : offset + 5 + size].tobytes() == event(position, size, fill)
            position += size
        count += int((block.records["flags"] & 0x0E == 2).sum())
    pipe.send((count, str(reader.state().executed), [info.end_pos for info in reader.files()]))


def test_processes_read_whole_transactions_while_another_writes(tmp_path: Path) -> None:
    """Promises 1 and 4, at the level of the store: exact bytes, never a transaction that is later cancelled."""
    context = multiprocessing.get_context("spawn")
    log, source = started(tmp_path, segment_bytes=32 << 10)
    followers = []
    for _ in range(2):
        here, there = context.Pipe()
        process = context.Process(target=_follow, args=(tmp_path, there))
        process.start()
        there.close()
        followers.append((process, here))
    for _, pipe in followers:
        assert pipe.poll(60)
        assert pipe.recv() == "ready"
    while source.number < TRANSACTIONS:
        number = source.number
        if number % 7 == 3:
            position = source.position
            write(log, source.fragment(first=True), source.fragment((3000,)), source.fragment())
            write(log, CANCEL)
            source.position, source.number = position, number
        if number % 11 == 5:
            log.append([source.fragment(first=True), source.fragment((3000,))], 1)
            log.commit(log.last_index)
            write(log, source.fragment(last=True))
        if number % 50 == 49:
            write(log, source.end_of_file(), source.file())
        room = TRANSACTIONS - source.number
        write(log, *(source.transaction((79, 100 + n, 31)) for n in range(min(3, room))))
    ends = [info.end_pos for info in LogReader(tmp_path).files()]
    for process, pipe in followers:
        assert pipe.poll(120)
        count, gtids, files = pipe.recv()
        assert (count, gtids) == (TRANSACTIONS, executed(TRANSACTIONS))
        assert files == ends
        process.join(30)
        assert process.exitcode == 0
        pipe.close()
    log.close()


def _read_until_purged(directory: Path, pipe: Connection) -> None:
    reader = LogReader(directory)
    cursor = reader.cursor(1)
    block = cursor.read(65536)
    pipe.send(None if block is None else block.last_index)
    pipe.recv()
    try:
        while cursor.read(65536) is not None:
            continue
        pipe.send("the end")
    except PurgedError as error:
        pipe.send(str(error))
    oldest = reader.oldest_file()
    pipe.send(None if oldest is None else oldest.id)


def test_a_purge_in_another_process_gives_a_clear_error(tmp_path: Path) -> None:
    log, source = started(tmp_path, segment_bytes=4096, transactions=100)
    write(log, source.end_of_file(), source.file(), source.transaction())
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_read_until_purged, args=(tmp_path, there))
    process.start()
    assert here.poll(60)
    assert here.recv() >= 2
    write(log, log.purge_entry(2))
    here.send("go")
    assert here.poll(60)
    assert "was purged: the oldest retained is" in here.recv()
    assert here.recv() == 2
    process.join(30)
    assert process.exitcode == 0
    log.close()


def test_a_new_writer_after_a_restart_serves_the_same_readers_directory(tmp_path: Path) -> None:
    log, source = started(tmp_path, transactions=5)
    log.close()
    log = Log.open(tmp_path)
    reader = LogReader(tmp_path)
    again = Source()
    again.file_id, again.position, again.number = 1, source.position, 5
    write(log, again.transaction())
    assert str(reader.state().executed) == executed(6)
    log.close()
