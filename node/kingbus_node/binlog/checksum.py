"""CRC32 of events: made for one, verified for thousands in one pass.

Every event ends in the CRC32 (zlib's polynomial, little endian) of the bytes before it. Calling `crc32` for each
event of a block costs more than the checksums themselves, so a block is verified with a single call, which rests on two
properties of the CRC register (the value before the final inversion):

1. After an event that ends in its own correct CRC, the register holds a constant, the residue, whatever the event.
2. For any register value there are four bytes that take it to any other value.

The five bytes before each event (packet length, sequence, status) are overwritten with a constant that takes the
residue to 0xffffffff, the register's start value. So if all events are right, the register begins each at the start
value and holds the residue at the end of the block. If one is wrong, it is off from there on, and ends at the residue
by chance only (1 in 2**32, what any CRC32 misses). Then the culprit is looked for, one event at a time.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from kingbus_node.binlog.constants import CHECKSUM_LENGTH, HEADER_LENGTH, MAX_PACKET, Buffer
from kingbus_node.binlog.scan import CONTINUATION, EVENT_AT, OFFSET_MASK, PACKET_HEADER, Ints, Offsets, packet_lengths
from kingbus_node.util.crc import combine, crc32

CORRECT: Final = 0x2144DF1C
"""`crc32` of any bytes followed by their own CRC32, little endian. (Inverted: the residue, 0xdebb20e3.)"""

_START: Final = 0xFFFFFFFF
_RESIDUE: Final = CORRECT ^ _START


def _bytes_to_start(register: int) -> bytes:
    """The four bytes that take the CRC register from `register` to its start value (solved over GF(2))."""

    def step(data: bytes) -> int:
        return crc32(data, register ^ _START) ^ _START

    zero = step(bytes(4))
    basis: dict[int, tuple[int, int]] = {}
    for bit in range(32):
        value, combination = step((1 << bit).to_bytes(4, "little")) ^ zero, 1 << bit
        while value:
            high = value.bit_length()
            if high not in basis:
                basis[high] = (value, combination)
                break
            value ^= basis[high][0]
            combination ^= basis[high][1]
    wanted, solution = zero ^ _START, 0
    while wanted:
        value, combination = basis[wanted.bit_length()]
        wanted ^= value
        solution ^= combination
    return solution.to_bytes(4, "little")


def _bridge() -> bytes:
    """Five bytes (the first is 0) that take the register from the residue to the start value."""
    return b"\0" + _bytes_to_start(crc32(b"\0", CORRECT) ^ _START)


BRIDGE: Final = _bridge()
_BRIDGE_ROW: Final = np.frombuffer(BRIDGE, dtype="V5")


def with_checksum(event: Buffer) -> bytes:
    """`event`, given without a checksum but with a size field that counts it, followed by its CRC32."""
    return bytes(event) + crc32(event).to_bytes(CHECKSUM_LENGTH, "little")


def is_correct(event: Buffer) -> bool:
    """Whether `event` ends in its own CRC32."""
    return len(event) >= HEADER_LENGTH + CHECKSUM_LENGTH and crc32(event) == CORRECT


def crc_if_correct(buf: Buffer, at: Ints, end: int, crc: int = 0, *, least: int = 0, before: int = EVENT_AT) -> int:
    """The CRC-32, begun with `crc`, that ``buf[at[0]:end]`` has if each event in it ends in its own CRC32.

    `at`: where adjacent packets begin, rising, each with one whole event behind `before` bytes of its own. Packets of
    `least` bytes and more count as correct; only what is before their events is read, and packets that are shorter. So
    this tells the sum of bytes whose events are known to be correct, and whether they are, if the sum is known.
    ValueError if a packet is shorter than `before`, RuntimeError without `combine`.
    """
    if combine is None:
        raise RuntimeError("expected ISA-L, which can combine checksums: only zlib is installed")
    ends = np.append(at[1:], end)
    sizes = ends - at
    if len(at) and int(sizes.min()) < before:
        raise ValueError(f"expected packets of at least {before} bytes, found one of {int(sizes.min())}")
    view = memoryview(buf)
    done = int(at[0]) if len(at) else end
    known = np.flatnonzero(sizes >= least)
    for start, stop in zip(at[known].tolist(), ends[known].tolist(), strict=True):
        crc = combine(crc32(view[done : start + before], crc), CORRECT, stop - start - before)
        done = stop
    return crc32(view[done:end], crc)


class BlockVerifier:
    """Verifies the checksums of a stream of blocks; an event may span blocks. Memory: one CRC."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: int | None = None

    def reset(self) -> None:
        """Forget the event that the last block left unfinished (the connection was cut)."""
        self._open = None

    def verify(self, buf: bytearray | memoryview, packets: Offsets) -> int | None:
        """Verify the events of `packets`, adjacent packets of `buf` that all carry a CRC32, in one pass.

        Returns None if all are right, else the offset of the first wrong event's header (of the packet that completes
        it, if it began in an earlier block). The event that the block leaves unfinished is judged with its last packet.
        The five bytes before each event are overwritten during the call and restored before it returns, so the buffer
        must be writable, and nobody may read it meanwhile.
        """
        if not len(packets):
            return None
        at = (packets & np.uint32(OFFSET_MASK)).astype(np.int64)
        lengths = packet_lengths(buf, packets)
        if (np.diff(at) != lengths[:-1] + PACKET_HEADER).any():
            raise ValueError("expected adjacent packets")
        if int(at[-1] + lengths[-1]) + PACKET_HEADER > len(buf):
            raise ValueError(f"expected whole packets, found the end of the buffer at {len(buf)}")
        view = memoryview(buf)
        whole = (packets < CONTINUATION) & (lengths != MAX_PACKET)
        if whole.all():
            self._open = None
            return _verify_run(view, at, int(at[-1] + PACKET_HEADER + lengths[-1]))
        return self._verify_mixed(view, packets, at, lengths, whole)

    def _verify_mixed(
        self,
        view: memoryview,
        packets: Offsets,
        at: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
        whole: npt.NDArray[np.bool_],
    ) -> int | None:
        """Runs of one-packet events in one pass each; the packets of longer events with a running CRC."""
        edges = np.flatnonzero(np.diff(whole)) + 1
        bounds = [0, *(int(e) for e in edges), len(packets)]
        for low, high in pairwise(bounds):
            if whole[low]:
                self._open = None
                wrong = _verify_run(view, at[low:high], int(at[high - 1] + PACKET_HEADER + lengths[high - 1]))
                if wrong is not None:
                    return wrong
                continue
            for i in range(low, high):
                packet, length = int(at[i]), int(lengths[i])
                continues = int(packets[i]) >= CONTINUATION
                body = view[packet + (PACKET_HEADER if continues else EVENT_AT) : packet + PACKET_HEADER + length]
                if continues and self._open is None:
                    continue  # the beginning was never seen: nothing to judge
                crc = crc32(body, self._open if continues and self._open is not None else 0)
                self._open = crc if length == MAX_PACKET else None
                if self._open is None and crc != CORRECT:
                    return packet if continues else packet + EVENT_AT
        return None


def verify_block(buf: bytearray | memoryview, packets: Offsets) -> int | None:
    """`BlockVerifier.verify` for a block that begins and ends between events."""
    return BlockVerifier().verify(buf, packets)


def _verify_run(view: memoryview, at: npt.NDArray[np.int64], end: int) -> int | None:
    """Verify adjacent one-packet events. `at`: offsets of their packets' headers; `end`: where the last one ends."""
    if view.readonly:
        raise ValueError("expected a writable buffer: the bytes between events are overwritten while checking")
    # Five bytes at every offset, so that one assignment reaches them all.
    rows: npt.NDArray[np.void] = np.ndarray((len(view) - EVENT_AT + 1,), dtype="V5", buffer=view, strides=(1,))
    saved = rows[at]
    rows[at] = _BRIDGE_ROW
    try:
        # Starting from the residue makes the bridge before the first event as good as any other.
        right = crc32(view[int(at[0]) : end], CORRECT) == CORRECT
    finally:
        rows[at] = saved
    if right:
        return None
    ends = np.append(at[1:], end)
    for start, stop in zip(at, ends, strict=True):
        if not is_correct(view[int(start) + EVENT_AT : int(stop)]):
            return int(start) + EVENT_AT
    raise AssertionError("unreachable: correct events leave the residue in the register")
