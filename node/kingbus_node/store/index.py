"""Index records: 64 bytes per entry, derived from the ``.log``, read as numpy structured arrays.

They answer "where is entry n", "which entry holds position p of file f" and "what comes next" for thousands of entries
with one read. Nothing depends on them being durable: a record that is missing or damaged is made again from the
``.log``.

A record differs from its entry's header in two derived ways. Control entries carry the file and position that the log
had reached, so that (file, position) never falls along the log. And entries that a committed CANCEL covers have
`Flag.CANCELLED`, with both positions moved back to the start of the cancelled transaction, from the first fragment up
to the CANCEL itself.
"""

from __future__ import annotations

from operator import mul
from struct import Struct
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from kingbus_node.binlog.constants import Buffer
from kingbus_node.store.durable import FileHandle, read_at
from kingbus_node.store.entry import HEADER_SIZE

RECORD = np.dtype(
    [
        ("index", "<u8"),
        ("term", "<u8"),
        ("offset", "<u8"),  # of the entry's header in the .log
        ("meta_len", "<u4"),
        ("packet_count", "<u4"),
        ("payload_len", "<u4"),
        ("file_id", "<u4"),
        ("start_pos", "<u8"),
        ("end_pos", "<u8"),
        ("timestamp", "<u4"),
        ("kind", "u1"),
        ("flags", "u1"),
        ("check", "<u2"),
    ]
)
RECORD_SIZE = RECORD.itemsize
if RECORD_SIZE != 64:
    raise AssertionError("an index record is 64 bytes")

Records: TypeAlias = npt.NDArray[np.void]
# Weights tell records apart that hold the same words in another order; all odd, so that every bit of a word counts.
_WEIGHTS = np.arange(1, 63, 2, dtype=np.uint64)
_PLAIN_WEIGHTS = tuple(range(1, 63, 2))
_ROW = Struct("<QQQIIIIQQIBBH")
_WORDS = Struct("<31H2x")


def checks(records: Records) -> npt.NDArray[np.uint16]:
    """The check word of each record: 1 + (sum of its other 31 little-endian words, times 1, 3, 5 …) modulo 65535.

    It is there to notice lost pages and stray writes; never 0, so a hole full of zeros does not pass.
    """
    words = np.ascontiguousarray(records).view("<u2").reshape(len(records), 32)[:, :31]
    return np.asarray((words @ _WEIGHTS) % 65535 + 1, np.uint16)


def seal(records: Records) -> Records:
    """Sets the check words in place."""
    records["check"] = checks(records)
    return records


def sealed_row(row: tuple[int, ...]) -> bytes:
    """A record's 64 bytes, with its check word, from its other fields in order: for a few of them this is quicker."""
    words = _ROW.pack(*row[:-1], 0)
    check: int = sum(map(mul, _WORDS.unpack(words), _PLAIN_WEIGHTS)) % 65535 + 1
    return words[:-2] + check.to_bytes(2, "little")


def intact(records: Records, first_index: int) -> bool:
    """Whether these are the records of entries first_index, first_index + 1, … of one segment, undamaged."""
    if not len(records):
        return True
    expected = np.arange(first_index, first_index + len(records), dtype=np.uint64)
    return bool((records["index"] == expected).all() and (records["check"] == checks(records)).all())


def from_bytes(data: Buffer) -> Records:
    """Whole records of a piece of an ``.idx`` file (a partial last one is left out)."""
    return np.frombuffer(data, RECORD, len(data) // RECORD_SIZE)


def read_records(file: FileHandle, position: int, count: int) -> Records:
    """Up to `count` records from record number `position` of an ``.idx`` file: fewer at its end."""
    return from_bytes(read_at(file.fd, count * RECORD_SIZE, position * RECORD_SIZE))


def entry_sizes(records: Records) -> npt.NDArray[np.int64]:
    """Bytes of each record's entry in the ``.log``."""
    sizes: npt.NDArray[np.int64] = records["meta_len"].astype(np.int64)
    sizes += 4 * records["packet_count"].astype(np.int64)
    sizes += records["payload_len"]
    sizes += HEADER_SIZE
    return sizes


def end_of(records: Records) -> int:
    """Byte offset behind the last of some records' entries."""
    return int(records[-1]["offset"]) + int(entry_sizes(records[-1:])[0])
