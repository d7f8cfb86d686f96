"""Messages on a stream of bytes: frames, and the buffer in which they arrive. No I/O.

A frame is ``head length u32 | tail length u32 | CRC-32 u32 of the head | head | tail``, little-endian. The head is the
message without the bytes of entries, which are the tail: those carry checksums of their own, which a follower verifies
before it stores them, so nothing is computed twice. Heads that begin with a byte of 0x80 and more are the link's own
(`Ping`, `Pong`).

Nothing is believed before it is checked: lengths have limits, and memory grows with what arrives, not with what is
announced.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, TypeAlias

from kingbus_node.raft.errors import ProtocolError
from kingbus_node.raft.messages import Append, Message, Part, decode, encode
from kingbus_node.util.crc import crc32

FRAME_SIZE: Final = 12
MAX_HEAD: Final = 64 << 20
"""A snapshot's state is the biggest: GTID sets of many servers, and facts."""
MAX_TAIL: Final = 160 << 20
"""One entry may have 64 MiB of events, a packet table and a meta field."""

_FRAME = struct.Struct("<III")
_BEAT = struct.Struct("<BQ")
_PING, _PONG = 0xF0, 0xF1
_LONG = 64 << 10
_KEPT = 16 << 20  # bytes of a buffer that is kept for a while after it was needed
_PATIENCE = 256  # pieces that arrive before it goes


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there? `clock` comes back in the answer: microseconds of the sender's clock."""

    clock: int


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a `Ping`."""

    clock: int


Framed: TypeAlias = "Message | Ping | Pong"


def encode_frame(message: Framed) -> list[Part]:
    """A message as buffers to be sent one behind the other; entries are not copied."""
    tail: list[Part] = []
    match message:
        case Append():
            first, *tail = encode(message)
            head = bytes(first)
        case Ping(clock):
            head = _BEAT.pack(_PING, clock)
        case Pong(clock):
            head = _BEAT.pack(_PONG, clock)
        case _:
            head = b"".join(map(bytes, encode(message)))
    return [_FRAME.pack(len(head), sum(map(len, tail)), crc32(head)) + head, *tail]


def decode_frame(frame: memoryview, head_length: int) -> Framed:
    """The message of a frame without its first `FRAME_SIZE` bytes; the bytes of entries are views of it.

    :raises ProtocolError: it is not exactly one message
    """
    if head_length and frame[0] >= 0x80:
        try:
            kind, clock = _BEAT.unpack(frame)
        except struct.error as error:
            raise ProtocolError(f"a frame of {len(frame)} bytes cannot be read: {error}") from error
        if kind not in (_PING, _PONG):
            raise ProtocolError(f"a frame of unknown kind {kind:#x}")
        return Ping(clock) if kind == _PING else Pong(clock)
    return decode(frame)


class FrameReader:
    """The bytes that arrive on one connection, cut into frames. ::

        count = socket.recv_into(reader.space())
        reader.received(count)
        while (message := reader.next()) is not None: ...

    What a message refers to is valid until the next call of ``space``.

    :param size: bytes of the buffer, which grows for a longer frame, and shrinks again when none has come for a while:
        where there is one there are often more, and fresh memory costs more than what is received into it
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._data = bytearray(size)
        self._whole = memoryview(self._data)
        self._start = self._end = 0
        self._patience = 0

    def space(self) -> memoryview:
        """Where the next bytes belong: at least one byte."""
        held = self._end - self._start
        if not held and not self._patience and len(self._data) == self._size:  # the rule, with short messages
            self._start = self._end = 0
            return self._whole
        room = max(self._size, min(self._wanted(), 2 * held))
        if room > self._size:
            self._patience = _PATIENCE
        elif self._patience and len(self._data) <= _KEPT:
            self._patience -= 1
            room = len(self._data)
        if held == 0 and room == len(self._data):
            self._start = self._end = 0
        elif room > len(self._data) or (room < len(self._data) and held < room):
            data = bytearray(room)
            data[:held] = memoryview(self._data)[self._start : self._end]
            self._data, self._whole, self._start, self._end = data, memoryview(data), 0, held
        elif self._end == len(self._data) or self._start > len(self._data) // 2:
            view = memoryview(self._data)
            view[:held] = view[self._start : self._end]
            self._start, self._end = 0, held
        # A long frame is received to its end and not beyond it, so that what follows need not be moved up.
        end = self._start + self._wanted()
        return memoryview(self._data)[self._end : end if held >= _LONG and end <= len(self._data) else None]

    def received(self, count: int) -> None:
        """So many bytes were put into ``space``."""
        self._end += count

    def next(self) -> Framed | None:
        """The next message that is there as a whole.

        :raises ProtocolError: the peer does not keep to the protocol
        """
        wanted = self._wanted()
        if self._end - self._start < wanted or wanted == FRAME_SIZE:
            return None
        head_length, _, crc = _FRAME.unpack_from(self._data, self._start)
        frame = memoryview(self._data)[self._start + FRAME_SIZE : self._start + wanted]
        if crc32(frame[:head_length]) != crc:
            raise ProtocolError("a frame does not match its checksum")
        self._start += wanted
        return decode_frame(frame, head_length)

    def _wanted(self) -> int:
        """Bytes of the next frame, or of its lengths as long as these are not there."""
        if self._end - self._start < FRAME_SIZE:
            return FRAME_SIZE
        head, tail, _ = _FRAME.unpack_from(self._data, self._start)
        if not 0 < head <= MAX_HEAD or tail > MAX_TAIL:
            raise ProtocolError(f"a frame of {head} and {tail} bytes; expected 1 to {MAX_HEAD}, and 0 to {MAX_TAIL}")
        return FRAME_SIZE + int(head) + int(tail)
