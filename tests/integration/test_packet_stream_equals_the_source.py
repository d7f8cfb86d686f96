"""For the same dump request a node sends the packets that its source sends: same bytes, same sequence numbers, same
end.

Permitted differences:

1. The server id of events that a server makes up while it serves (artificial ROTATE and GTID_LIST, HEARTBEAT) is the
   serving server's, and so their checksum differs. The nodes here carry the source's id, so even these must be equal.
2. An artificial GTID_LIST names the same GTIDs in another order: MariaDB's is that of a hash table in its memory.
3. MySQL refuses a replica that has more transactions under the server's own UUID than the server has. A node is no
   origin of transactions, and such a replica may come from a node that was further on: it is served what it lacks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
from servers.chain import SOURCE, Chain
from servers.fixtures import Pool
from servers.raw import NON_BLOCK, SEND_ANNOTATE_ROWS, Dump, Packet, dump, file_command, gtid_command
from servers.workload import PACKET_LIMIT, Workload

from kingbus_node.binlog.constants import HEADER_LENGTH, EventFlag, EventType, type_name
from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.demo.instance import text
from kingbus_node.demo.node_process import Settings
from kingbus_node.demo.replication import executed
from kingbus_node.demo.servers import Flavor

HEARTBEAT_V2 = 0x02
CRC32 = ("SET @master_binlog_checksum = 'CRC32', @source_binlog_checksum = 'CRC32'",)
NONE = ("SET @master_binlog_checksum = 'NONE', @source_binlog_checksum = 'NONE'",)
CAPABLE = ("SET @master_binlog_checksum = 'CRC32'", "SET @mariadb_slave_capability = 4")


@dataclass(frozen=True, slots=True)
class Request:
    """A dump command and the statements before it."""

    name: str
    command: bytes
    statements: Sequence[str]


def _chain(pool: Pool, flavor: Flavor) -> Chain:
    source = pool.server(SOURCE[flavor])
    workload = Workload(source).create()
    # Every answer is compared: none may be that the machine was too busy for the node to know that it is up to date.
    # Not longer than that, for who asks for what lies ahead waits as long.
    settings: Settings = {"serve": {"server_id": source.server_id}, "raft": {"isolation_timeout": "6s"}}
    node = pool.node(source, settings)
    workload.event_sizes((PACKET_LIMIT - 2, PACKET_LIMIT - 1, PACKET_LIMIT))  # in the first file: most dumps skip it
    workload.flush_logs()
    for _ in range(2):
        workload.everything()
    source.stop()
    source.start()
    workload.everything()
    source.kill()
    source.start()
    chain = Chain(pool, workload, node)
    chain.wait_node()
    return chain


@pytest.fixture(scope="module")
def mysql(module_pool: Pool) -> Chain:
    return _chain(module_pool, Flavor.MYSQL)


@pytest.fixture(scope="module")
def mariadb(module_pool: Pool) -> Chain:
    return _chain(module_pool, Flavor.MARIADB)


def positions(chain: Chain, file: str) -> list[int]:
    """Where the events of a file start, by the source's own account."""
    return [int(text(row[1])) for row in chain.source.sql(f"SHOW BINLOG EVENTS IN '{file}'")]


def file_sizes(chain: Chain) -> dict[str, int]:
    return {text(row[0]): int(text(row[1])) for row in chain.source.sql("SHOW BINARY LOGS")}


def some(values: Sequence[int], count: int) -> list[int]:
    """About `count` of the values, spread evenly, with the first and the last."""
    return sorted({values[n * (len(values) - 1) // (count - 1)] for n in range(count)}) if values else []


def mysql_gtid_requests(chain: Chain) -> Iterator[Request]:
    everything = GtidSet.parse(executed(chain.source))
    uuid = text(chain.source.value("SELECT @@server_uuid"))
    count = int(executed(chain.source).replace(uuid, "").split(":")[1].split(",")[0].partition("-")[2])
    parts = {f"1-{n}": f"{uuid}:1-{n}" for n in some(range(1, count + 1), 12)}
    parts |= {"with a hole": f"{uuid}:1-5:9-{count - 7}", "only a late one": f"{uuid}:{count - 3}"}
    parts |= {"tagged": f"{uuid}:1-{count // 2}:blue:1-2"}
    parts |= {"a stranger": f"{uuid}:1-7,00000000-1111-2222-3333-444444444444:1-9"}
    parts |= {"nothing": "", "everything": str(everything)}
    for name, gtids in parts.items():
        encoded = GtidSet.parse(gtids).encode()
        for flags in (NON_BLOCK, NON_BLOCK | HEARTBEAT_V2):
            yield Request(f"GTID {name}, flags {flags}, CRC32", gtid_command(encoded, flags), CRC32)
        yield Request(f"GTID {name}, no checksum asked for", gtid_command(encoded), ())
        yield Request(f"GTID {name}, NONE", gtid_command(encoded), NONE)
        period = (*CRC32, "SET @source_heartbeat_period = 30000000000, @master_heartbeat_period = 30000000000")
        yield Request(f"GTID {name}, heartbeats", gtid_command(encoded), period)
    file = chain.source.binary_logs()[1]
    yield Request("GTID nothing, with a file name", gtid_command(GtidSet().encode(), NON_BLOCK, file), CRC32)


def mysql_file_requests(chain: Chain) -> Iterator[Request]:
    names = chain.source.binary_logs()
    yield Request("no file name", file_command(""), CRC32)
    for name in names:
        for statements in (CRC32, NONE, ()):
            yield Request(f"{name}, {statements}", file_command(name), statements)
    sizes = file_sizes(chain)
    for name in some_files(names):
        starts = positions(chain, name)
        for start in some(starts, 15):
            yield Request(f"{name} at {start}", file_command(name, start), CRC32)
            yield Request(f"{name} at {start}, NONE", file_command(name, start), NONE)
        yield Request(f"{name} at its end", file_command(name, sizes[name]), CRC32)
        yield Request(f"{name} past its end", file_command(name, sizes[name] + 1), CRC32)
        yield Request(f"{name} inside an event", file_command(name, starts[len(starts) // 2] + 7), CRC32)
        yield Request(f"{name} inside the first event", file_command(name, 50), CRC32)
        for position in (0, 1, 3):
            yield Request(f"{name} at {position}", file_command(name, position), CRC32)
    yield Request("unknown file", file_command("binlog.999999"), CRC32)
    yield Request("another base name", file_command("other.000001"), CRC32)


def some_files(names: Sequence[str]) -> list[str]:
    """The second, the last and one between."""
    return [names[1], names[len(names) // 2], names[-1]]


def mariadb_gtid_requests(chain: Chain) -> Iterator[Request]:
    source = chain.source
    states = {"nothing": "", "everything": executed(source)}
    for file in source.binary_logs():
        for start in some(positions(chain, file)[3:], 4):
            state = text(source.value(f"SELECT BINLOG_GTID_POS('{file}', {start})"))
            states[f"at {file} {start}"] = state
    for name, state in states.items():
        base = (*CAPABLE, f"SET @slave_connect_state = '{state}'", "SET @slave_gtid_strict_mode = 0")
        for flags in (NON_BLOCK, NON_BLOCK | SEND_ANNOTATE_ROWS):
            yield Request(f"GTID {name} ({state}), flags {flags}", file_command("", 4, flags), base)
        yield Request(f"GTID {name} ({state}), strict", file_command(""), (*base, "SET @slave_gtid_strict_mode = 1"))
    strange = {
        "ahead": "0-1-999999",
        "diverged": "0-77-3",
        "unknown domain": "0-1-3,99-1-1",
        "without a domain": "7-1-1",
    }
    for name, state in strange.items():
        yield Request(f"GTID {name}", file_command(""), (*CAPABLE, f"SET @slave_connect_state = '{state}'"))


def mariadb_file_requests(chain: Chain) -> Iterator[Request]:
    names = chain.source.binary_logs()
    none = ("SET @master_binlog_checksum = 'NONE'", "SET @mariadb_slave_capability = 4")
    yield Request("no file name", file_command(""), CAPABLE)
    for name in names:
        for statements in (CAPABLE, none):
            for flags in (NON_BLOCK, NON_BLOCK | SEND_ANNOTATE_ROWS):
                yield Request(f"{name}, {statements}, flags {flags}", file_command(name, 4, flags), statements)
    sizes = file_sizes(chain)
    for name in some_files(names):
        starts = positions(chain, name)
        for start in some(starts, 15):
            yield Request(f"{name} at {start}", file_command(name, start), CAPABLE)
        yield Request(f"{name} at its end", file_command(name, sizes[name]), CAPABLE)
        yield Request(f"{name} past its end", file_command(name, sizes[name] + 1), CAPABLE)
        yield Request(f"{name} inside an event", file_command(name, starts[len(starts) // 2] + 7), CAPABLE)
        for position in (0, 1, 3):
            yield Request(f"{name} at {position}", file_command(name, position), CAPABLE)
    yield Request("unknown file", file_command("binlog.999999"), CAPABLE)


def compare(chain: Chain, requests: Iterator[Request]) -> None:
    """Send every request to both; all that differs is in the error."""
    found = []
    count = 0
    for request in requests:
        count += 1
        ours = dump(chain.node.port, request.command, request.statements)
        theirs = dump(chain.source.port, request.command, request.statements)
        if canonical(ours) != canonical(theirs):
            found.append(f"{request.name}: {difference(ours, theirs)}")
    assert not found, f"{len(found)} of {count} requests are answered differently:\n" + "\n".join(found[:20])


def canonical(answer: Dump) -> Dump:
    """The same answer with the GTIDs of artificial GTID_LIST events in order and those events' checksums left out."""
    return Dump(tuple(replace(event, payload=_in_order(event.payload)) for event in answer.events), answer.end)


def _in_order(event: bytes) -> bytes:
    if event[4] != EventType.GTID_LIST or not event[17] & EventFlag.ARTIFICIAL:
        return event
    body = HEADER_LENGTH + 4
    gtids = [event[at : at + 16] for at in range(body, len(event) - 15, 16)]
    return event[:body] + b"".join(sorted(gtids))


def difference(ours: Dump, theirs: Dump) -> str:
    """The first difference between two dumps, in words."""
    ours, theirs = canonical(ours), canonical(theirs)
    for number, (our, their) in enumerate(zip(ours.events, theirs.events, strict=False)):
        if our != their:
            return f"event {number} is {show(our)} instead of {show(their)}"
    if len(ours.events) != len(theirs.events):
        more = ours.events if len(ours.events) > len(theirs.events) else theirs.events
        extra = more[min(len(ours.events), len(theirs.events))]
        end = ours.end.payload if ours.end else None
        return (
            f"{len(ours.events)} events instead of {len(theirs.events)}; the first of the others is "
            f"{show(extra)}; our end is {end!r}"
        )
    return f"ends with {ours.end} instead of {theirs.end}"


def show(packet: Packet) -> str:
    """An event's kind, sequence numbers and first bytes."""
    event = packet.payload
    return f"{type_name(event[4])} of {len(event)} bytes, sequence {packet.sequences[0]}, {event[:64].hex()}"


def test_mysql_gtid_dumps(mysql: Chain) -> None:
    compare(mysql, mysql_gtid_requests(mysql))


def test_a_replica_that_is_ahead_of_a_node_is_served_what_it_lacks(mysql: Chain) -> None:
    """The third permitted difference."""
    ahead = GtidSet.parse(executed(mysql.source))
    uuid = text(mysql.source.value("SELECT @@server_uuid"))
    ahead |= GtidSet.parse(f"{uuid}:1-1000000")
    refused = dump(mysql.source.port, gtid_command(ahead.encode()), CRC32)
    assert refused.end is not None
    assert b"Replica has more GTIDs than the source has" in refused.end.payload
    served = dump(mysql.node.port, gtid_command(ahead.encode()), CRC32)
    assert served.end is not None
    assert served.end.payload[0] == 0xFE
    assert not {event.payload[4] for event in served.events} & {EventType.GTID, EventType.GTID_TAGGED}


def test_mysql_file_dumps(mysql: Chain) -> None:
    compare(mysql, mysql_file_requests(mysql))


def test_mariadb_gtid_dumps(mariadb: Chain) -> None:
    compare(mariadb, mariadb_gtid_requests(mariadb))


def test_mariadb_file_dumps(mariadb: Chain) -> None:
    compare(mariadb, mariadb_file_requests(mariadb))
