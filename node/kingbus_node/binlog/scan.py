"""Cuts a buffer of wire packets into packets and events, without making a Python object for each.

A binlog stream is a row of MySQL packets: 3 bytes length (little endian), a sequence byte, and the payload, which for a
binlog dump is a status byte 0x00 and one event. An event whose payload (status byte included) is 0xffffff bytes or more
continues in the next packets: each packet of exactly 0xffffff bytes is continued, and the last is shorter, possibly
empty. `packet_offsets` finds the packets; `Events` gathers the event headers into numpy columns.

An offset in a packet array is a u32. Bit 31 (`CONTINUATION`) marks a packet that continues the event of the packet
before it; the other bits are the offset of the packet's header, so a buffer is at most 2 GiB.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from struct import Struct
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from kingbus_node.binlog.constants import (
    CHECKSUM_LENGTH,
    HEADER_LENGTH,
    MAX_PACKET,
    Buffer,
    ChecksumAlgorithm,
    EventType,
)
from kingbus_node.binlog.errors import BinlogError

Offsets: TypeAlias = npt.NDArray[np.uint32]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

CONTINUATION: Final = 0x80000000
"""Bit of a packet offset: the packet continues the event of the packet before it."""
OFFSET_MASK: Final = 0x7FFFFFFF
PACKET_HEADER: Final = 4
EVENT_AT: Final = 5
"""From a packet's header to its event: 3 bytes length, 1 sequence, 1 status."""

_U32 = Struct("<I")

COMPLETE: Final = -1
"""Value of `Events.missing`: the block ends where an event ends."""

_FORMAT_DESCRIPTION: Final = int(EventType.FORMAT_DESCRIPTION)
_FORMAT_LEAST: Final = HEADER_LENGTH + 2 + 50 + 4 + 1 + 1 + CHECKSUM_LENGTH
_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9}))?")

_STATUS_AND_HEADER = np.dtype(
    [
        ("status", "u1"),
        ("timestamp", "<u4"),
        ("type", "u1"),
        ("server_id", "<u4"),
        ("size", "<u4"),
        ("log_pos", "<u4"),
        ("flags", "<u2"),
    ]
)


def packet_offsets(buf: Buffer, start: int, end: int, continued: bool = False) -> tuple[Offsets, int]:
    """Find the packets that lie wholly within `buf[start:end]`.

    `continued`: the first packet continues an event that began before `start`. Returns (offsets, next_start): one u32
    for each packet, its header's offset from the beginning of `buf`, with `CONTINUATION` set where it applies; and
    where the first incomplete packet begins (`end` if there is none). Whether that one will be a continuation:
    `is_continued`.
    """
    if not 0 <= start <= end <= len(buf):
        raise ValueError(f"expected 0 <= start <= end <= {len(buf)}, found start {start}, end {end}")
    if end > OFFSET_MASK:
        raise ValueError(f"a buffer of packets holds at most {OFFSET_MASK} bytes, found {end}")
    # A plain loop: each packet's place depends on the one before, so there is nothing to vectorise. ~7 M packets/s.
    unpack = _U32.unpack_from
    out: list[int] = []
    append = out.append
    at = start
    last = end - PACKET_HEADER
    full: list[int] = [0] if continued else []
    while at <= last:
        length = unpack(buf, at)[0] & MAX_PACKET
        following = at + PACKET_HEADER + length
        if following > end:
            break
        append(at)
        at = following
        if length == MAX_PACKET:
            full.append(len(out))
    offsets = np.array(out, dtype=np.uint32)
    if full:
        marked = [i for i in full if i < len(out)]
        offsets[marked] |= np.uint32(CONTINUATION)
    return offsets, at


def is_continued(buf: Buffer, packets: Offsets, continued: bool = False) -> bool:
    """Whether the packet after the last of `packets` continues its event; `continued` if there are no packets."""
    if not len(packets):
        return continued
    return bool(_U32.unpack_from(buf, int(packets[-1]) & OFFSET_MASK)[0] & MAX_PACKET == MAX_PACKET)


def packet_lengths(buf: Buffer, packets: Offsets) -> Ints:
    """The payload length of each packet, in bytes, without its 4 bytes of header."""
    if not len(packets):
        return np.zeros(0, dtype=np.int64)
    if int(packets[-1] & np.uint32(OFFSET_MASK)) + PACKET_HEADER > len(buf):
        raise ValueError(f"expected packets within a buffer of {len(buf)} bytes")
    # Every byte offset is a possible u32: a view with a stride of one byte lets one gather fetch them all.
    words: npt.NDArray[np.uint32] = np.ndarray((len(buf) - 3,), dtype="<u4", buffer=buf, strides=(1,))
    lengths: npt.NDArray[np.uint32] = words[packets & np.uint32(OFFSET_MASK)] & np.uint32(MAX_PACKET)
    return lengths.astype(np.int64)


def gather(buf: Buffer, at: Ints, dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
    """Copy one packed record of `dtype` from each offset in `at`; ValueError if one does not lie within `buf`."""
    if not len(at):
        return np.zeros(0, dtype=dtype)
    last = int(at.max())
    if last + dtype.itemsize > len(buf):
        raise ValueError(f"expected {dtype.itemsize} bytes at {last} in a buffer of {len(buf)}")
    records: npt.NDArray[np.void] = np.ndarray(
        (len(buf) - dtype.itemsize + 1,), dtype=f"V{dtype.itemsize}", buffer=buf, strides=(1,)
    )
    return records[at].view(dtype)


@dataclass(frozen=True, slots=True)
class Events:
    """The headers of the events that begin in a block of packets, one row to an event, in the order of the block.

    All columns have the length of the table. The last event may be longer than what the block holds of it (`missing`).
    """

    start: Ints
    """Offset in the buffer of the event's header (5 after its packet's)."""
    packet: Ints
    """Index, in the packet array, of the packet that the event begins in."""
    type: npt.NDArray[np.uint8]
    timestamp: npt.NDArray[np.uint32]
    server_id: npt.NDArray[np.uint32]
    size: npt.NDArray[np.uint32]
    """Bytes of the event: header, body and checksum, however many packets it takes."""
    log_pos: npt.NDArray[np.uint32]
    """Where the next event begins in the source's file, modulo 2**32. 0: not in a file."""
    flags: npt.NDArray[np.uint16]
    missing: int | None
    """Bytes of the last event that come in the packets after this block (0: an empty packet), `COMPLETE` if all is
    here. None: unknown (only after None was passed in)."""

    def __len__(self) -> int:
        return len(self.start)

    @classmethod
    def gather(cls, buf: Buffer, packets: Offsets, missing: int | None = COMPLETE) -> Events:
        """Read the event headers of `packets` (see `packet_offsets`). The last packet may go on past the end of `buf`.

        `missing`: what the block before reported; None if that is unknown, then leading continuation packets are
        skipped unchecked. Checked, else BinlogError with the offset: status byte 0, a whole event header, the size
        field against the bytes in the packets, continuation packets where they belong and only there, type not 0.
        """
        lengths = packet_lengths(buf, packets)
        at = (packets & np.uint32(OFFSET_MASK)).astype(np.int64)
        first = (packets < CONTINUATION).nonzero()[0]
        begins = at[first]
        short = lengths[first] < 1 + HEADER_LENGTH
        if short.any():
            i = int(np.argmax(short))
            found = max(int(lengths[first[i]]) - 1, 0)
            raise BinlogError(f"expected an event of at least {HEADER_LENGTH} bytes, found {found}", int(begins[i]))
        header = gather(buf, begins + PACKET_HEADER, _STATUS_AND_HEADER)
        status = header["status"]
        if status.any():
            i = int(np.argmax(status != 0))
            where = int(begins[i]) + PACKET_HEADER
            raise BinlogError(f"expected status byte 0x00 before an event, found 0x{int(status[i]):02x}", where)
        kind = np.ascontiguousarray(header["type"])
        if not kind.all():
            where = int(begins[int(np.argmax(kind == 0))]) + EVENT_AT
            raise BinlogError("expected a binlog event, found type 0", where)
        size = np.ascontiguousarray(header["size"])
        return cls(
            start=begins + EVENT_AT,
            packet=first,
            type=kind,
            timestamp=np.ascontiguousarray(header["timestamp"]),
            server_id=np.ascontiguousarray(header["server_id"]),
            size=size,
            log_pos=np.ascontiguousarray(header["log_pos"]),
            flags=np.ascontiguousarray(header["flags"]),
            missing=_check_sizes(begins, first, lengths, size, missing),
        )

    def checksummed(self, buf: Buffer, algorithm: ChecksumAlgorithm) -> tuple[Bools, ChecksumAlgorithm]:
        """Which events end in a CRC32, and the algorithm in force after the block, given the one before it.

        A FORMAT_DESCRIPTION event sets the algorithm for the events after it, and has the field itself, always, unless
        its server is older than checksums.
        """
        out = np.full(len(self), algorithm is ChecksumAlgorithm.CRC32)
        for i in (self.type == _FORMAT_DESCRIPTION).nonzero()[0].tolist():
            start = int(self.start[i])
            algorithm = format_checksum(memoryview(buf)[start : start + int(self.size[i])])
            out[i] = algorithm is not ChecksumAlgorithm.UNDEFINED
            out[i + 1 :] = algorithm is ChecksumAlgorithm.CRC32
        return out, algorithm


def _check_sizes(
    begins: Ints, first: Ints, lengths: Ints, size: npt.NDArray[np.uint32], missing: int | None
) -> int | None:
    """Compare size fields with the bytes at hand. Returns how many bytes of the last event are still to come."""
    if not len(lengths):
        return missing
    goes_on = int(lengths[-1]) == MAX_PACKET
    if len(first) == len(lengths) and not goes_on and missing in (COMPLETE, None):
        # The common block: each event in its own packet.
        wrong = size.astype(np.int64) + 1 != lengths
        if wrong.any():
            i = int(np.argmax(wrong))
            raise _wrong_size(int(size[i]), int(lengths[i]) - 1, int(begins[i]) + EVENT_AT)
        return COMPLETE
    total = np.concatenate(([0], np.cumsum(lengths)))
    leading = int(first[0]) if len(first) else len(lengths)
    if missing is not None:
        found = int(total[leading])
        unfinished = goes_on and not len(first)
        if missing == COMPLETE and leading:
            raise BinlogError("expected the beginning of an event, found a packet that continues one")
        if missing != COMPLETE and (not leading or found > missing or (found < missing and not unfinished)):
            raise BinlogError(f"expected {missing} more bytes of an event that began earlier, found {found}")
        if unfinished:
            return missing - found
    if not len(first):
        return None if missing is None and goes_on else COMPLETE
    # The packets of an event run from its first to the one before the next event's.
    held = np.diff(total[np.append(first, len(lengths))]) - 1
    wanted = size.astype(np.int64)
    wrong = held != wanted
    if goes_on and held[-1] <= wanted[-1]:
        wrong[-1] = False
    if wrong.any():
        i = int(np.argmax(wrong))
        raise _wrong_size(int(wanted[i]), int(held[i]), int(begins[i]) + EVENT_AT)
    return int(wanted[-1] - held[-1]) if goes_on else COMPLETE


def _wrong_size(field: int, held: int, offset: int) -> BinlogError:
    return BinlogError(f"expected an event of {held} bytes, as long as its packets, found size field {field}", offset)


def format_checksum(event: Buffer) -> ChecksumAlgorithm:
    """The checksum algorithm that a FORMAT_DESCRIPTION event announces; UNDEFINED when its server had none.

    Servers since MySQL 5.6.1 and MariaDB 5.3 end the event with the algorithm (u8) and four bytes of checksum, whatever
    the algorithm (WL#2540). Older ones do not, and are known by their version. BinlogError if neither makes sense.
    """
    view = memoryview(event)
    if len(view) < _FORMAT_LEAST:
        raise BinlogError(f"expected a FORMAT_DESCRIPTION event of at least {_FORMAT_LEAST} bytes, found {len(view)}")
    version = bytes(view[HEADER_LENGTH + 2 : HEADER_LENGTH + 52]).split(b"\0", 1)[0]
    if not has_checksums(version.decode("latin-1")):
        return ChecksumAlgorithm.UNDEFINED
    where = len(view) - CHECKSUM_LENGTH - 1
    byte = view[where]
    if byte not in (ChecksumAlgorithm.NONE, ChecksumAlgorithm.CRC32):
        raise BinlogError(f"expected checksum algorithm 0 (none) or 1 (CRC32), found {byte}", where)
    return ChecksumAlgorithm(byte)


def has_checksums(server_version: str) -> bool:
    """Whether a server of this version knows event checksums: MySQL since 5.6.1, MariaDB since 5.3."""
    match = _VERSION.match(server_version)
    if match is None:
        raise BinlogError(f"expected a server version like 8.4.0, found {server_version!r}")
    number = tuple(int(part or 0) for part in match.groups())
    return number >= ((5, 3, 0) if "mariadb" in server_version.lower() else (5, 6, 1))
