"""A damaged segment is replaced by a peer's."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from unit.store.samples import started, write

from kingbus_node.raft.copying import SegmentServer, mend
from kingbus_node.raft.hello import Hello
from kingbus_node.store.log import Log
from kingbus_node.store.segment import log_path
from kingbus_node.store.verify import verify


def test_two_who_mend_at_once_do_not_write_to_each_others_copy(tmp_path: Path) -> None:
    """The second one wrote on, unverified, to what the first one had put in place."""
    log, source = started(tmp_path / "ours", segment_bytes=64 * 1024)
    for _ in range(6):
        write(log, source.file(), *(source.transaction([20_000]) for _ in range(3)))
    log.close()
    shutil.copytree(tmp_path / "ours", tmp_path / "theirs")
    log, other = (Log.open(tmp_path / name, segment_bytes=64 * 1024) for name in ("ours", "theirs"))
    log.commit(log.last_index)
    other.commit(other.last_index)
    path = log_path(log.directory, 1)
    intact = path.read_bytes()
    path.write_bytes(intact[:-1] + b"?")
    server = SegmentServer(other, 0)
    beside = threading.Event()
    open_streams: list[int] = []

    @contextlib.contextmanager
    def open_stream(_peer: str, _kind: str, _deadline: float) -> Iterator[socket.socket]:
        open_streams.append(1)
        if sum(open_streams) > 1:
            beside.set()
        beside.wait(1)  # nobody comes
        ours, theirs = socket.socketpair()
        with ours, theirs, ThreadPoolExecutor(1) as serving:
            served = serving.submit(server.serve, theirs, cast("Hello", SimpleNamespace(name="peer")))
            yield ours
            ours.shutdown(socket.SHUT_RDWR)
            served.result(60)
        open_streams.append(-1)

    with ThreadPoolExecutor(2) as pool:
        mending = [pool.submit(mend, log, 1, "peer", open_stream) for _ in range(2)]
        for one in mending:
            one.result(60)
    assert not beside.is_set()
    assert path.read_bytes() == intact
    assert verify(log.directory).damages == []
    server.close()
    log.close()
    other.close()
