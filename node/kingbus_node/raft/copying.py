"""A node that has no log, or one too old, copies segments from its leader as files.

That is faster than to be sent every entry, and leaves the same files. Raft goes on meanwhile: the node answers
heartbeats, and says that it is full, so that nobody sends it entries. When the copy is complete and adopted, the rest
of the log comes as entries. When it fails, or there is nothing to copy, all of it does: a copy is never needed.

It begins when the leader sends a snapshot (`Install`), which is kept back meanwhile, or when this node's log is empty
and the leader's is long. Only committed entries are copied, and no log is given up that holds more than the copy, so
nothing that was acknowledged is lost.

On the wire (a stream of kind "segments", see ``Cluster.open_stream``) the one that copies asks with lines of JSON:
``{"op": "list", "ages": true}`` is answered by a line with the offers, ``{"op": "read", "first": n, "offset": o}`` by a
line with the number of bytes and then as many of the segment's bytes from offset o on. Nodes of earlier releases do not
ask for ages, and tell none.
"""

from __future__ import annotations

import json
import logging
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO, Final

from kingbus_node.raft.api import CopyProgress
from kingbus_node.raft.errors import ProtocolError, RaftError
from kingbus_node.raft.hello import Hello
from kingbus_node.raft.journal import Journal
from kingbus_node.raft.messages import Append, Install, Message
from kingbus_node.store.adoption import INCOMING
from kingbus_node.store.entry import Json
from kingbus_node.store.errors import StoreError
from kingbus_node.store.log import Log
from kingbus_node.store.transfer import MENDING, CopyError, Intake, SegmentOffer, SegmentReader, Staged, offers

logger = logging.getLogger(__name__)

STREAM: Final = "segments"
BEHIND: Final = 1000
"""An empty log is filled by copying when the leader has committed that many entries at least."""
_BLOCK: Final = 1 << 20
_MAX_LINE: Final = 16 << 20
_IDLE_SECONDS: Final = 30.0
_REACH_SECONDS: Final = 5.0
_AGAIN_SECONDS: Final = 10.0
_ATTEMPTS: Final = 5

OpenStream = Callable[[str, str, float], AbstractContextManager[socket.socket]]


class Throttle:
    """Keeps to so many bytes in a second, 0 for any number.

    :param stopping: makes a wait end at once
    """

    def __init__(self, rate: int, stopping: threading.Event) -> None:
        self._rate = rate
        self._stopping = stopping
        self._due = time.monotonic()

    def spent(self, count: int) -> None:
        """Waits for as long as `count` bytes should take."""
        if not self._rate:
            return
        self._due = max(self._due, time.monotonic() - 0.1) + count / self._rate
        self._stopping.wait(max(0.0, self._due - time.monotonic()))


class SegmentServer:
    """The side that has the log.

    :param rate: bytes in a second for each copy, 0 for any number
    """

    def __init__(self, log: Log, rate: int) -> None:
        self._log = log
        self._rate = rate
        self._stopping = threading.Event()

    def close(self) -> None:
        """Ends what is under way soon."""
        self._stopping.set()

    def serve(self, connection: socket.socket, peer: Hello) -> None:
        """A `StreamHandler`."""
        connection.settimeout(_IDLE_SECONDS)
        throttle = Throttle(self._rate, self._stopping)
        try:
            with connection.makefile("rb") as requests:
                while not self._stopping.is_set() and (request := _receive(requests)) is not None:
                    self._answer(connection, request, throttle)
        except (OSError, RaftError, StoreError) as error:
            logger.info("segments are not copied to %s any more: %s", peer.name, error)

    def _answer(self, connection: socket.socket, request: Json, throttle: Throttle) -> None:
        match request:
            case {"op": "list", **more}:
                _send(connection, [offer.to_json(age="ages" in more) for offer in offers(self._log)])
            case {"op": "read", "first": int(first), "offset": int(offset)} if first > 0 and offset >= 0:
                if not any(offer.first_index == first for offer in offers(self._log)):
                    raise ProtocolError(f"no segment that begins with entry {first} may be copied")
                reader = SegmentReader(self._log.directory, first)
                offset = min(offset, reader.size)
                _send(connection, reader.size - offset)
                while not self._stopping.is_set() and (data := reader.read(offset, _BLOCK)):
                    connection.sendall(data)
                    offset += len(data)
                    throttle.spent(len(data))
            case _:
                raise ProtocolError(f"a copy asks for {str(request)[:100]!r}")


def mend(log: Log, first_index: int, peer: str, open_stream: OpenStream) -> None:
    """Fetches a damaged segment from a peer, and puts the copy in its place. Waits, also for another one that is being
    fetched; any thread but the loop's.

    :raises CopyError: the peer has no such segment, or it did not arrive whole
    :raises OSError: the peer cannot be reached, or the disk failed
    :raises RaftError: the peer refuses
    :raises StoreError: the segment is not sealed yet: entries of it may come from anywhere
    """
    mine = next((offer for offer in offers(log) if offer.first_index == first_index), None)
    if mine is None:
        raise StoreError(f"no segment that is sealed and committed begins with entry {first_index}")
    with (
        log.mending,
        open_stream(peer, STREAM, time.monotonic() + _REACH_SECONDS) as connection,
        connection.makefile("rb") as answers,
    ):
        connection.settimeout(_IDLE_SECONDS)
        if mine not in _offered(connection, answers, peer):
            raise CopyError(f"{peer} has no segment of entries {mine.first_index} to {mine.last_index}")
        intake = Intake(log.directory, [mine], MENDING)
        while (needed := intake.next()) is not None:
            for _ in _read(connection, answers, intake, *needed):
                pass
        intake.mend(log)


def _offered(connection: socket.socket, answers: BinaryIO, peer: str) -> list[SegmentOffer]:
    _send(connection, {"op": "list", "ages": True})
    listed = _receive(answers)
    if not isinstance(listed, list):
        raise ProtocolError(f"{peer} answers {str(listed)[:100]!r}, expected a list of segments")
    return [SegmentOffer.from_json(offer) for offer in listed]


def _read(
    connection: socket.socket, answers: BinaryIO, intake: Intake, offer: SegmentOffer, offset: int
) -> Iterator[int]:
    """Takes a segment from `offset` on; gives the bytes of each step."""
    _send(connection, {"op": "read", "first": offer.first_index, "offset": offset})
    left = _receive(answers)
    if left != offer.size - offset:
        raise CopyError(f"segment {offer.first_index} has {left} bytes from {offset} on, not as was offered")
    while offset < offer.size:
        data = answers.read(min(_BLOCK, offer.size - offset))
        if not data:
            raise CopyError(f"the connection ended inside segment {offer.first_index}")
        intake.write(offer, offset, data)
        offset += len(data)
        yield len(data)
    intake.finish(offer)


class Copier:
    """The side that lacks the log. Belongs to the loop: all but ``progress`` in its thread.

    :param wake: makes the loop call ``result``
    :param behind: an empty log is filled so when the leader has committed that many entries at least
    """

    def __init__(
        self, log: Log, journal: Journal, open_stream: OpenStream, wake: Callable[[], None], *, behind: int = BEHIND
    ) -> None:
        self._log = log
        self._journal = journal
        self._open_stream = open_stream
        self._wake = wake
        self._behind = behind
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._staged: Staged | None = None
        self._kept: tuple[str, Install] | None = None
        self._not_before = 0.0
        self._progress: CopyProgress | None = None
        self._left = (log.directory / INCOMING).exists()  # what was copied, of a copy that is not complete
        self._clearing: threading.Thread | None = None

    @property
    def progress(self) -> CopyProgress | None:
        """Of the copy that is under way; None if there is none. Any thread."""
        return self._progress

    def close(self) -> None:
        """Ends the copy; what came is kept for the next time."""
        self._stopping.set()
        for thread in (self._thread, self._clearing):
            if thread is not None:
                thread.join()

    def keeps(self, peer: str, message: Message) -> bool:
        """Looks at a message before the core does. True: the core shall not see it, or not yet."""
        if self._thread is not None:
            if isinstance(message, Install):
                self._kept = (peer, message)
                return True
            return False
        if isinstance(message, Install) and message.index > self._log.commit_index:
            if not self._begin(peer):
                return False
            self._kept = (peer, message)
            return True
        if isinstance(message, Append):
            if not self._log.last_index:
                if message.commit >= self._behind:
                    self._begin(peer)
            elif self._left and message.entries:
                self._clear()
        return False

    def _clear(self) -> None:
        """The log comes as entries: nothing will go on with what an earlier copy has left, which takes its room."""
        self._left = False
        folder = self._log.directory / INCOMING
        self._clearing = threading.Thread(
            target=shutil.rmtree, args=(folder,), kwargs={"ignore_errors": True}, name="clear-copy", daemon=True
        )
        self._clearing.start()

    def _begin(self, peer: str) -> bool:
        if time.monotonic() < self._not_before or (self._clearing is not None and self._clearing.is_alive()):
            return False
        logger.info("copying the log from %s", peer)
        self._journal.held = True
        self._progress = CopyProgress(peer, 0, 0)
        self._thread = threading.Thread(target=self._run, args=(peer,), name="copy-segments", daemon=True)
        self._thread.start()
        return True

    @property
    def ended(self) -> bool:
        """Whether a copy is over, and ``result`` tells how."""
        return self._thread is not None and not self._thread.is_alive()

    def result(self) -> tuple[Staged | None, tuple[str, Install] | None]:
        """What was copied, and the message that was kept back. The next copy may begin."""
        found = self._staged, self._kept
        self._left = (self._log.directory / INCOMING).exists()
        self._staged = self._kept = self._thread = self._progress = None
        self._not_before = time.monotonic() + _AGAIN_SECONDS
        self._journal.held = False
        return found

    # In the copy's thread

    def _run(self, peer: str) -> None:
        try:
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    self._staged = self._copy(peer)
                    return
                except (OSError, RaftError, StoreError, ValueError) as error:
                    logger.warning("copying the log from %s, attempt %d of %d: %s", peer, attempt, _ATTEMPTS, error)
                if self._stopping.wait(0.2 * attempt):
                    return
        finally:
            self._wake()

    def _copy(self, peer: str) -> Staged | None:
        with (
            self._open_stream(peer, STREAM, time.monotonic() + _REACH_SECONDS) as connection,
            connection.makefile("rb") as answers,
        ):
            connection.settimeout(_IDLE_SECONDS)
            wanted = _offered(connection, answers, peer)
            if not wanted or wanted[-1].last_index <= self._log.last_index:
                shutil.rmtree(self._log.directory / INCOMING, ignore_errors=True)
                return None
            return self._fetch(Intake(self._log.directory, wanted), connection, answers, peer)

    def _fetch(self, intake: Intake, connection: socket.socket, answers: BinaryIO, peer: str) -> Staged | None:
        done, total = intake.done_bytes, intake.total_bytes
        self._journal.check_room(total - done)
        begun, before, told = time.monotonic(), done, time.monotonic()
        while (needed := intake.next()) is not None:
            for count in _read(connection, answers, intake, *needed):
                if self._stopping.is_set():
                    return None
                done += count
                self._progress = CopyProgress(peer, done, total)
                if time.monotonic() - told > 5:
                    told = time.monotonic()
                    logger.info("copied %d of %d MiB of the log", done >> 20, total >> 20)
        staged = intake.complete(self._log.segment_bytes)
        seconds = time.monotonic() - begun
        logger.info("copied %d bytes of the log from %s in %.1f s", done - before, peer, seconds)
        return staged


def _send(connection: socket.socket, value: object) -> None:
    connection.sendall(json.dumps(value, separators=(",", ":")).encode() + b"\n")


def _receive(lines: BinaryIO) -> Json:
    """The next line; None at the end."""
    line = lines.readline(_MAX_LINE)
    if not line:
        return None
    try:
        value: Json = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a copy says {line[:100]!r}, which is not JSON") from error
    return value
