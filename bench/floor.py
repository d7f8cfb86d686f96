"""What a machine gives for the bytes of an ingest alone: receive, sum up, write, sync, in three threads.

No event is looked at, and nothing is done per transaction: what is left is what the kernel and the checksums cost, and
how three threads and the server share the processors. A node cannot be faster than this with the same system calls.
"""

from __future__ import annotations

import mmap
import os
import queue
import struct
import threading
import time
from contextlib import closing
from pathlib import Path

from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER, Server, connect
from kingbus_node.util.crc import crc32
from kingbus_node.wire.commands import Command, DumpFlag

_PORTION = 8 << 20
_BUFFERS = 4


class _Disk:
    """A file that one thread writes and another one syncs."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT)
        self._changed = threading.Condition()
        self._written = self._synced = 0
        self._ended = False

    def write(self, data: memoryview) -> None:
        os.pwrite(self._fd, data, self._written)
        with self._changed:
            self._written += len(data)
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def sync(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._written > self._synced)
                target = self._written
                if target == self._synced:
                    break
            os.fdatasync(self._fd)
            self._synced = target
        os.close(self._fd)


def floor_seconds(server: Server, path: Path) -> tuple[float, float]:
    """Seconds until all of the server's binlog is received, summed up, written and synced, and of processor time."""
    flags = DumpFlag.NON_BLOCK
    command = struct.pack("<BIHI", Command.BINLOG_DUMP, 4, flags, 0)
    free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
    filled: queue.SimpleQueue[tuple[memoryview, int] | None] = queue.SimpleQueue()
    for _ in range(_BUFFERS):
        memory = mmap.mmap(-1, _PORTION, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
        free.put(memoryview(memory))
    disk = _Disk(path)

    def write() -> None:
        while (portion := filled.get()) is not None:
            buffer, count = portion
            disk.write(buffer[:count])
            free.put(buffer)
        disk.end()

    threads = [threading.Thread(target=write), threading.Thread(target=disk.sync)]
    with closing(connect(server.port, user=REPLICATION_USER, password=REPLICATION_PASSWORD)) as connection:
        with connection.cursor() as cursor:
            cursor.execute("SET @master_binlog_checksum = 'CRC32', @source_binlog_checksum = 'CRC32'")
        sock = connection._sock  # type: ignore[attr-defined]  # noqa: SLF001  # PyMySQL shows no other way
        processor, begun = time.process_time(), time.perf_counter()
        for thread in threads:
            thread.start()
        sock.sendall(len(command).to_bytes(3, "little") + b"\0" + command)
        more = True
        while more:
            buffer, count = free.get(), 0
            while count < _PORTION and more:
                got = sock.recv_into(buffer[count:])
                count += got
                more = got > 0
            crc32(buffer[:count])
            filled.put((buffer, count))
        filled.put(None)
        for thread in threads:
            thread.join()
    return time.perf_counter() - begun, time.process_time() - processor
