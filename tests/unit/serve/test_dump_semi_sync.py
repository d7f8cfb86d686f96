"""A replica that acknowledges gets the same events behind a prefix, and what it acknowledges is noted."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from binlogs.captured import MARIADB, MYSQL, events
from binlogs.make import UUID, Maker
from unit.serve.dumps import CAPABLE, CRC32, Served, at, beyond, placed

from kingbus_node.binlog.constants import EventType, Flavor
from kingbus_node.binlog.gtid import format_uuid
from kingbus_node.demo.waiting import wait_until
from kingbus_node.serve.facts import UserValue
from kingbus_node.serve.registry import StopReason
from kingbus_node.serve.semisync import ENDS_TRANSACTION, Acknowledgements
from kingbus_node.wire.commands import DumpFlag
from kingbus_node.wire.errors import ProtocolError

LIMIT = 0xFFFFFF
_T = EventType


def wants(flavor: Flavor) -> dict[str, UserValue]:
    if flavor is Flavor.MYSQL:
        return CRC32 | {"rpl_semi_sync_replica": 1}
    return CAPABLE | {"rpl_semi_sync_slave": 1}


def stripped(payloads: list[bytes], sequences: list[int]) -> tuple[list[bytes], list[bytes]]:
    """The events without prefix, and those of them that are to be acknowledged; checks prefixes and numbers."""
    out, asked = [], []
    numbers = iter(sequences)
    expected = 1
    for payload in payloads:
        if payload[0] == 0:
            assert payload[1] == 0xEF
            assert payload[2] in (0, 1)
            out.append(payload[3:])
        for _ in range(len(payload) // LIMIT + 1):
            assert next(numbers) == expected % 256
            expected += 1
        if payload[0] == 0 and payload[2]:
            asked.append(out[-1])
            expected = 1
    assert next(numbers, None) is None
    return out, asked


def ask(served: Served) -> tuple[list[bytes], list[bytes]]:
    client = served.start(at(), wants(served.flavor))
    payloads = []
    with client:
        while (payload := client.packet()) is not None:
            payloads.append(payload)
        assert client.ended() is None
    assert payloads[-1][0] == 0xFE  # without prefix
    return stripped(payloads, client.sequences)


@pytest.mark.parametrize("block", [65536, 1 << 20])
@pytest.mark.parametrize("target", [1, 300, 1 << 20])
@pytest.mark.parametrize("name", MYSQL + MARIADB)
def test_the_events_are_the_same(name: str, target: int, block: int, tmp_path: Path) -> None:
    flavor = Flavor.MYSQL if name in MYSQL else Flavor.MARIADB
    with Served(tmp_path, flavor, target=target) as served:
        served.importer.events(name, events(name))
        served.with_block(block)
        found, asked = ask(served)
        assert found == served.ask(at()).events
    assert {event[4] for event in asked} <= ENDS_TRANSACTION
    assert (asked[-1:] == found[-1:]) == (found[-1][4] in ENDS_TRANSACTION)


@pytest.mark.parametrize("block", [65536, 1 << 20])
@pytest.mark.parametrize("over", [-5, -4, -3, -2, -1, 0, 1, LIMIT - 4, LIMIT - 3, LIMIT - 2, LIMIT - 1, LIMIT])
def test_events_near_the_limit_of_a_packet_are_split_with_their_prefix(over: int, block: int, tmp_path: Path) -> None:
    """`over`: bytes by which the packet without prefix is longer than a packet can be."""
    maker = Maker()
    row = maker.event(_T.WRITE_ROWS, b"r" * (LIMIT + over - 1 - 19 - 4))
    assert len(row) + 1 == LIMIT + over
    group = [maker.gtid(1), maker.query(b"BEGIN"), maker.event(_T.TABLE_MAP, b"t"), row, maker.xid()]
    again = [maker.gtid(2), maker.query(b"DROP TABLE t")]
    with Served(tmp_path, Flavor.MYSQL) as served:
        served.importer.events("binlog.000001", placed([maker.format_description(), *group, *again]))
        served.with_block(block)
        found, asked = ask(served)
        assert [event[4] for event in asked][-1:] == [_T.QUERY]
        assert found == served.ask(at()).events


def test_what_a_replica_has_is_left_out_and_the_rest_has_its_prefix(tmp_path: Path) -> None:
    maker = Maker()
    groups = [event for number in range(1, 400) for event in (maker.gtid(number), maker.query(b"DROP TABLE t"))]
    gtids = ":".join(str(number) for number in range(2, 400, 2))
    held = f"{format_uuid(UUID)}:{gtids}"
    with Served(tmp_path, Flavor.MYSQL) as served:
        served.importer.events("binlog.000001", placed([maker.format_description(), *groups]))
        client = served.start(beyond(held), wants(Flavor.MYSQL))
        payloads = []
        with client:
            while (payload := client.packet()) is not None:
                payloads.append(payload)
        found, asked = stripped(payloads, client.sequences)
        assert found == served.ask(beyond(held)).events
        assert len(asked) == 1


def test_acknowledgements_are_counted_and_say_how_far_the_replica_is(tmp_path: Path) -> None:
    maker = Maker()
    group = [maker.gtid(1), maker.query(b"DROP TABLE t")]
    with Served(tmp_path, Flavor.MYSQL) as served:
        served.importer.events("binlog.000001", placed([maker.format_description(), *group]))
        with served.start(at(flags=0), wants(Flavor.MYSQL)) as client:
            while client.packet()[2] != 1:  # type: ignore[index]
                pass
            dump = client.dump
            packet = b"\xef" + struct.pack("<Q", 777) + b"binlog.000001"
            client.sock.sendall(len(packet).to_bytes(3, "little") + b"\0" + packet)
            told = dump.acknowledged  # noted part by part, the count first
            wait_until(
                lambda: (told.count, told.file, told.position) == (1, "binlog.000001", 777), 60, "the acknowledgement"
            )
            dump.request_stop(StopReason.SHUTDOWN)
            end = client.packet()
            assert end is not None
            assert end[0] == 0xFE


@pytest.mark.parametrize("flags", [0, int(DumpFlag.NON_BLOCK)])
def test_what_is_no_acknowledgement_ends_the_dump(flags: int) -> None:
    told = Acknowledgements()
    good = b"\x0a\0\0\0\xef" + struct.pack("<Q", 4) + b"f"
    for byte in good * 3:
        told.feed(bytes((byte,)))
    told.feed(b"\x01\0\0\0\x01")  # COM_QUIT
    assert (told.count, told.position, told.file) == (3, 4, "f")
    with pytest.raises(ProtocolError):
        told.feed(b"\x0a\0\0\0\x03SELECT 12" if flags else b"\0\0\x10\0")
