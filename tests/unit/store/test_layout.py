"""The bytes of every file besides entries (`test_entry`), written out as docs/format.md says them."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus_node.store.catalogue import Catalogue, CatalogueReader, FileInfo
from kingbus_node.store.durable import FileHandle
from kingbus_node.store.errors import CorruptLogError, FormatVersionError
from kingbus_node.store.index import RECORD, checks, intact, seal, sealed_row
from kingbus_node.store.marks import HardState, Mark, MarkFile, read_hard_state, write_hard_state
from kingbus_node.store.segment import SegmentHeader, list_segments, read_header
from kingbus_node.store.watermark import Watermark


def handle(path: Path) -> FileHandle:
    return FileHandle(path, os.O_RDONLY)


def test_a_segment_header_is_64_bytes_and_json_padded_to_64(tmp_path: Path) -> None:
    block = SegmentHeader(42, 7, {"index": 41}).encode()
    text = b'{"index":41}'
    rest = struct.pack("<QQII", 42, 7, 128, len(text)) + bytes(24) + text + bytes(64 - len(text))
    assert block == b"KINGBUSL\x01\0\0\0" + struct.pack("<I", zlib.crc32(rest)) + rest
    path = tmp_path / "00000000000000000042.log"
    path.write_bytes(block)
    header = read_header(handle(path), 42)
    assert (header.first_index, header.previous_term, header.snapshot, header.data_start) == (42, 7, {"index": 41}, 128)
    assert list_segments(tmp_path) == [42]


def test_a_damaged_segment_header_is_refused_by_file_and_offset(tmp_path: Path) -> None:
    block = SegmentHeader(42, 7, {"index": 41}).encode()
    path = tmp_path / "00000000000000000042.log"
    for at in range(len(block)):
        bad = bytearray(block)
        bad[at] ^= 1
        path.write_bytes(bad)
        with pytest.raises((CorruptLogError, FormatVersionError), match=r"42\.log"):
            read_header(handle(path), 42)
    path.write_bytes(block[:100])
    with pytest.raises(CorruptLogError):
        read_header(handle(path), 42)
    path.write_bytes(block)
    with pytest.raises(CorruptLogError, match="file's name 43"):
        read_header(handle(path), 43)


def test_an_index_record_is_64_bytes_with_a_check_word() -> None:
    row = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0)
    record = seal(np.array([row], RECORD))
    data = record.tobytes()
    assert data[:62] == struct.pack("<QQQIIIIQQIBB", *row[:-1])
    words = struct.unpack("<32H", data)
    weighted = sum(word * (2 * k + 1) for k, word in enumerate(words[:31]))
    assert words[31] == weighted % 65535 + 1


def test_a_hole_or_a_changed_byte_in_the_index_is_noticed() -> None:
    records = seal(np.array([(n, 1, n * 100, 4, 1, 50, 1, n, n + 1, 9, 1, 3, 0) for n in range(10, 20)], RECORD))
    assert intact(records, 10)
    assert not intact(records, 11)
    assert not intact(np.zeros(10, RECORD), 0)
    for at in range(8, 62):
        data = bytearray(records.tobytes())
        data[64 * 5 + at] ^= 0x40
        assert not intact(np.frombuffer(data, RECORD), 10)
    assert (checks(records) > 0).all()


def test_the_mark_alternates_between_two_slots_and_survives_a_torn_one(tmp_path: Path) -> None:
    marks = MarkFile(tmp_path)
    assert marks.mark is None
    marks.write(Mark(1, 1000, 10, 3, 9))
    marks.write(Mark(1, 2000, 20, 3, 19), durable=True)
    data = (tmp_path / "mark").read_bytes()
    rest = struct.pack("<QQQQQQ", 2, 1, 2000, 20, 3, 19) + bytes(8)
    assert data[:64] == b"KBBm" + struct.pack("<I", zlib.crc32(rest)) + rest
    assert data[4096:4100] == b"KBBm"
    assert MarkFile(tmp_path).mark == Mark(1, 2000, 20, 3, 19)
    (tmp_path / "mark").write_bytes(b"\0" * 30 + data[30:])
    assert MarkFile(tmp_path).mark == Mark(1, 1000, 10, 3, 9)
    (tmp_path / "mark").write_bytes(b"")
    assert MarkFile(tmp_path).mark is None


def test_a_commit_is_noted_only_as_far_as_the_log_is_durable(tmp_path: Path) -> None:
    marks = MarkFile(tmp_path)
    marks.note_commit(5)
    assert marks.mark is None
    marks.write(Mark(1, 1000, 10, 3, 2))
    marks.note_commit(15)
    assert MarkFile(tmp_path).mark == Mark(1, 1000, 10, 3, 10)
    marks.note_commit(4)
    assert MarkFile(tmp_path).mark == Mark(1, 1000, 10, 3, 10)


def test_term_and_vote_read_back_and_damage_is_refused(tmp_path: Path) -> None:
    assert read_hard_state(tmp_path) == HardState(0, None)
    write_hard_state(tmp_path, HardState(5, "node-1:7401"))
    rest = struct.pack("<QI", 5, 11) + b"node-1:7401"
    good = (tmp_path / "hardstate").read_bytes()
    assert good == b"KINGBUSH\x01\0\0\0" + struct.pack("<I", zlib.crc32(rest)) + rest
    assert read_hard_state(tmp_path) == HardState(5, "node-1:7401")
    write_hard_state(tmp_path, HardState(6))
    assert read_hard_state(tmp_path) == HardState(6, None)
    for bad in (good[:-1], good[:10], good.replace(b"node-1", b"node-2")):
        (tmp_path / "hardstate").write_bytes(bad)
        with pytest.raises(CorruptLogError):
            read_hard_state(tmp_path)


def test_the_catalogue_holds_512_bytes_for_each_file(tmp_path: Path) -> None:
    files = [FileInfo(n, f"b.{n}", f"s.{n}", n * 10, n * 1000, n % 2 == 0) for n in range(3, 1003)]
    catalogue = Catalogue.create(tmp_path, 3, files)
    data = (tmp_path / "files.cat").read_bytes()
    assert data[:512] == b"KINGBUSF\x01\0\0\0" + struct.pack("<IQ", zlib.crc32(struct.pack("<Q", 3)), 3) + bytes(488)
    rest = struct.pack("<IQQIHH", 4, 40, 4000, 1, 3, 3) + b"b.4s.4"
    rest = rest.ljust(508, b"\0")
    assert data[1024:1536] == struct.pack("<I", zlib.crc32(rest)) + rest
    reader = CatalogueReader(tmp_path)
    assert reader.last_id == 1002
    assert list(reader.range(1, 2000)) == files
    assert list(reader.range(500, 500)) == [files[497]]
    catalogue.cut(600)
    assert CatalogueReader(tmp_path).last_id == 600
    with pytest.raises(KeyError):
        CatalogueReader(tmp_path).get(601)


def test_a_damaged_catalogue_record_is_noticed(tmp_path: Path) -> None:
    Catalogue.create(tmp_path, 1, [FileInfo(n, "b", "b", n, n, False) for n in (1, 2, 3)])
    path = tmp_path / "files.cat"
    data = bytearray(path.read_bytes())
    data[512 * 2 + 20] ^= 1
    path.write_bytes(data)
    assert CatalogueReader(tmp_path).get(1).id == 1
    with pytest.raises(CorruptLogError, match="file 2"):
        CatalogueReader(tmp_path).get(2)
    data[20] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptLogError, match="header"):
        CatalogueReader(tmp_path)


def test_the_watermark_is_four_words_that_a_reader_sees_at_once(tmp_path: Path) -> None:
    writer = Watermark.create(tmp_path)
    writer.publish_first(7)
    writer.publish(100, 105)
    reader = Watermark.open(tmp_path)
    assert (reader.visible_index, reader.first_index, reader.commit_index) == (100, 7, 105)
    writer.publish(2**63, 2**63 + 1)
    assert (reader.visible_index, reader.commit_index) == (2**63, 2**63 + 1)
    data = (tmp_path / "watermark").read_bytes()
    assert len(data) == 4096
    assert data[:32] == b"KBWATER\x01" + struct.pack("<QQQ", 2**63, 7, 2**63 + 1)


@given(st.lists(st.integers(0, 255), min_size=62, max_size=62))
def test_a_record_made_alone_is_the_one_that_many_are_made_as(words: list[int]) -> None:
    record = np.frombuffer(bytes(words) + b"\0\0", RECORD).copy()
    row = tuple(int(record[0][name]) for name in record.dtype.names or ())
    assert sealed_row(row) == seal(record).tobytes()
