"""A log made of a real server's binlog files answers any dump request with the server's own packets.

Requests are made at random from a seed: GTID sets with holes, positions of all kinds, UNTIL, strict mode, old replicas.
Permitted differences:

1. The order of the domains in an artificial GTID_LIST: MariaDB's is that of a hash table in its memory.
2. A position inside an event where the bytes look like another event: the server sends those, we refuse. Such requests
   are left out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from random import Random

import pytest
from servers.fixtures import Pool
from servers.raw import Dump, Packet, dump, file_command, gtid_command
from servers.workload import PACKET_LIMIT, Workload
from unit.serve.binlogs import events_of
from unit.serve.dumps import Served

from kingbus_node.binlog.constants import HEADER_LENGTH, EventFlag, EventType, Flavor
from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.demo.instance import Server, text
from kingbus_node.demo.replication import executed
from kingbus_node.serve.facts import UserValue
from kingbus_node.store.entry import Json
from kingbus_node.wire.commands import parse_binlog_dump, parse_binlog_dump_gtid
from kingbus_node.wire.errors import MySQLError

SEED = 1
TARGETS = (2_000, 1 << 20)
Variables = dict[str, UserValue]


@dataclass(frozen=True, slots=True)
class Request:
    """A dump command and the user variables that are SET before it."""

    command: bytes
    variables: Variables

    def statements(self) -> list[str]:
        return [f"SET @{name} = {_literal(value)}" for name, value in self.variables.items()]


def _literal(value: UserValue) -> str:
    return f"'{value.decode()}'" if isinstance(value, bytes) else str(value)


class Origin:
    """A real server, and logs of its files."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.names = server.binary_logs()
        self.files = {name: list(events_of((server.data / name).read_bytes())) for name in self.names}
        self.purged = ""
        facts: dict[str, Json] = {}
        if server.flavor is Flavor.MYSQL:
            self.purged = text(server.value("SELECT @@gtid_purged")).replace("\n", "")
            facts = {"cluster_uuid": text(server.value("SELECT @@server_uuid")), "purged": self.purged}
        self.logs = [Served(folder / str(target), server.flavor, target=target, facts=facts) for target in TARGETS]
        for log in self.logs:
            log.settings = replace(log.settings, server_id=server.server_id)
            for name in self.names:
                log.importer.file(server.data / name)

    def places(self, name: str) -> list[int]:
        """Where the events of a file begin, and its end."""
        out = [4]
        for event in self.files[name]:
            out.append(out[-1] + len(event))
        return out

    def check(self, requests: Iterator[Request]) -> None:
        """Every request is answered alike."""
        found = []
        for request in requests:
            theirs = _canonical(dump(self.server.port, request.command, request.statements()))
            differ = [log for log in self.logs if _canonical(_ask(log, request)) != theirs]
            found += [f"{request.command.hex()} after {request.statements()}"] * bool(differ)
        assert not found, f"seed {SEED}, {len(found)} answers differ:\n" + "\n".join(found[:20])


def _ask(log: Served, request: Request) -> Dump:
    parse = parse_binlog_dump if request.command[0] == 0x12 else parse_binlog_dump_gtid
    answer = log.ask(parse(request.command[1:]), request.variables)
    sequences = iter(answer.sequences)
    events = []
    for event in answer.events:
        count = (len(event) + 1) // PACKET_LIMIT + 1
        events.append(Packet(tuple(next(sequences) for _ in range(count)), event))
    end = None if answer.end is None else Packet(tuple(sequences), answer.end)
    return Dump(tuple(events), _error(end, answer.error))


def _error(end: Packet | None, error: MySQLError | None) -> Packet | None:
    if end is None or error is None:
        return end
    text = f"#{error.sqlstate}{error.message}"
    return Packet(end.sequences, b"\xff" + struct.pack("<H", error.code) + text.encode())


def _canonical(answer: Dump) -> Dump:
    return Dump(tuple(replace(event, payload=_in_order(event.payload)) for event in answer.events), answer.end)


def _in_order(event: bytes) -> bytes:
    """Permitted difference 1: the list by domain, without its checksum; what counts is which is a domain's last."""
    if event[4] != EventType.GTID_LIST or not event[17] & EventFlag.ARTIFICIAL:
        return event
    body = HEADER_LENGTH + 4
    gtids = list(struct.iter_unpack("<4s12s", event[body : len(event) - len(event[body:]) % 16]))
    return event[:body] + b"".join(map(b"".join, sorted(gtids, key=itemgetter(0))))


def _filled(pool: Pool, release: str) -> Server:
    server = pool.server(release)
    workload = Workload(server).create()
    workload.event_sizes((PACKET_LIMIT - 1, PACKET_LIMIT))
    workload.flush_logs()
    for _ in range(2):
        workload.everything()
    server.stop()
    server.start()
    workload.everything()
    server.kill()
    server.start()
    workload.small(5)
    return server


@pytest.fixture(scope="module")
def mysql(module_pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Origin:
    server = _filled(module_pool, "mysql-9.7")
    server.sql(f"PURGE BINARY LOGS TO '{server.binary_logs()[2]}'")
    return Origin(server, tmp_path_factory.mktemp("mysql"))


@pytest.fixture(scope="module")
def mariadb(module_pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Origin:
    return Origin(_filled(module_pool, "mariadb-10.11"), tmp_path_factory.mktemp("mariadb"))


def _position(random: Random, origin: Origin) -> tuple[str, int]:
    name = random.choice(origin.names)
    places = origin.places(name)
    kind = random.random()
    if kind < 0.9:
        return name, random.choice(places)
    return name, random.choice([0, 1, 3, places[-1] + 1, 1 << 31])


def _checksum(random: Random) -> Variables:
    name = random.choice(["master_binlog_checksum", "source_binlog_checksum"])
    return random.choice([{name: b"CRC32"}, {name: b"CRC32"}, {name: b"NONE"}, {}])


def _some_of(random: Random, everything: GtidSet, purged: GtidSet) -> GtidSet:
    """A random set: usually with all that is purged, then runs of what there is, and strangers."""
    out = GtidSet() if random.random() < 0.1 else purged.copy()
    for (uuid, tag), intervals in everything.sources():
        last = intervals.last or 1
        at = random.choice([1, last // 2, last])
        out.add_range(uuid, 1, at + 1, tag)
        while at < last and random.random() < 0.8:
            at += random.randint(1, max(1, last // 10))
            out.add_range(uuid, at, min(at + random.randint(1, 6), last + 1), tag)
        if random.random() < 0.05:
            out.add(uuid, last + 5, tag)
    if random.random() < 0.3:
        out.add(random.randbytes(16), random.randint(1, 9), random.choice(["", "tag"]))
    return out


def test_mysql_gtid_sets(mysql: Origin) -> None:
    random = Random(SEED)
    everything, purged = GtidSet.parse(executed(mysql.server)), GtidSet.parse(mysql.purged)

    def requests() -> Iterator[Request]:
        for _ in range(150):
            name, position = _position(random, mysql) if random.random() < 0.2 else ("", 4)
            held = _some_of(random, everything, purged)
            command = gtid_command(held.encode(), random.choice([1, 3, 5, 7]), name, position)
            yield Request(command, _checksum(random) or {"source_binlog_checksum": b"CRC32"})

    mysql.check(requests())


def test_mysql_positions(mysql: Origin) -> None:
    random = Random(SEED)

    def requests() -> Iterator[Request]:
        for _ in range(150):
            name, position = _position(random, mysql)
            yield Request(file_command(name, position), _checksum(random))

    mysql.check(requests())


def _mariadb_gtids(origin: Origin) -> list[str]:
    """The GTIDs of the log."""
    out = []
    for events in origin.files.values():
        for event in events:
            if event[4] == EventType.MARIADB_GTID:
                sequence, domain = struct.unpack_from("<QI", event, HEADER_LENGTH)
                (server,) = struct.unpack_from("<I", event, 5)
                out.append(f"{domain}-{server}-{sequence}")
    return out


def _gtid_position(random: Random, gtids: list[str]) -> bytes:
    """Usually a GTID of each domain, now and then one that is not there."""
    chosen: dict[str, str] = {}
    for gtid in random.sample(gtids, random.randint(0, 12)):
        domain, server, sequence = gtid.split("-")
        if random.random() < 0.1:
            gtid = f"{domain}-{random.choice([server, '99'])}-{int(sequence) + random.choice([-1, 1, 5000])}"
        chosen[domain] = gtid
    if random.random() < 0.05:
        chosen["4711"] = "4711-1-1"
    return ",".join(chosen.values()).encode()


def test_mariadb_gtid_positions(mariadb: Origin) -> None:
    random = Random(SEED)
    gtids = _mariadb_gtids(mariadb)

    def requests() -> Iterator[Request]:
        for _ in range(250):
            variables: Variables = {
                "master_binlog_checksum": random.choice([b"CRC32", b"NONE"]),
                "mariadb_slave_capability": random.choice([4, 4, 4, 3]),
                "slave_connect_state": _gtid_position(random, gtids),
                "slave_gtid_strict_mode": random.randint(0, 1),
                "slave_gtid_ignore_duplicates": random.randint(0, 1),
            }
            if random.random() < 0.3:
                variables["slave_until_gtid"] = _gtid_position(random, gtids)
            yield Request(file_command("stale", 4711, random.choice([1, 3])), variables)

    mariadb.check(requests())


def test_mariadb_positions(mariadb: Origin) -> None:
    random = Random(SEED)

    def requests() -> Iterator[Request]:
        for _ in range(150):
            name, position = _position(random, mariadb)
            variables: Variables = {}
            if random.random() < 0.9:
                variables["master_binlog_checksum"] = random.choice([b"CRC32", b"NONE"])
            if random.random() < 0.8:
                variables["mariadb_slave_capability"] = random.randrange(5)
            yield Request(file_command(name, position, random.choice([1, 3])), variables)

    mariadb.check(requests())
