"""What a replica has is left out exactly as the servers leave it out, whatever it has, and however the log is cut."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from binlogs.make import GTID_FLAGS_STANDALONE, Maker
from hypothesis import given
from hypothesis import strategies as st
from unit.serve.dumps import CAPABLE, Served, beyond, names, placed
from unit.serve.dumps import at as from_file
from unit.serve.reference import File, MariadbDump, mysql_stream

from kingbus_node.binlog.build import make_event
from kingbus_node.binlog.constants import EventType, Flavor
from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.binlog.mariadb import MariadbGtid, MariadbState
from kingbus_node.serve.refusals import diverged, hole, not_in_binlog, state_not_found
from kingbus_node.wire.commands import DumpFlag

_T = EventType
UUIDS = (bytes(range(16)), b"\xee" * 16)
MAKER = Maker()
NUMBERS = 12
DOMAINS, SERVERS, SEQUENCES = 3, 2, 9

cuts = st.tuples(st.sampled_from([1, 150, 400, 1 << 20]), st.sampled_from([65536, 1 << 20]))


@contextmanager
def served(flavor: Flavor, files: list[File], target: int, block: int) -> Iterator[Served]:
    """A log of these files."""
    with tempfile.TemporaryDirectory() as folder, Served(Path(folder), flavor, target=target) as log:
        for file in files:
            log.importer.events(file.name, file.events)
        yield log.with_block(block)


def description(version: str, created: int) -> bytes:
    body = struct.pack("<H50sIB", 4, version.encode(), created, 19) + bytes(42) + b"\1"
    return make_event(_T.FORMAT_DESCRIPTION, body, server_id=1, checksum=True)


# -- MySQL


def mysql_group(uuid: bytes, number: int, tag: str, kind: int) -> list[bytes]:
    """A transaction of one of several forms."""
    gtid = MAKER.tagged_gtid(number, tag, uuid) if tag else MAKER.gtid(number, uuid)
    if kind == 0:
        return [gtid, MAKER.query(b"DROP TABLE t")]
    rows = [MAKER.event(_T.TABLE_MAP, b"t"), MAKER.event(_T.WRITE_ROWS, b"r" * 60)]
    return [gtid, MAKER.query(b"BEGIN"), *rows * (kind - 1), MAKER.xid()]


@st.composite
def mysql_files(draw: st.DrawFn) -> list[File]:
    """Some files of transactions of several sources, numbered in any order, each GTID once."""
    gtids = [(uuid, number, tag) for uuid in UUIDS for number in range(1, NUMBERS + 1) for tag in ("", "t")]
    chosen = draw(st.permutations(gtids))[: draw(st.integers(0, 20))]
    files = []
    last = draw(st.integers(1, 4))
    for number, name in enumerate(names(last), 1):
        events = [
            description("9.7.4", draw(st.sampled_from([0, 1_700_000_000]))),
            MAKER.event(_T.PREVIOUS_GTIDS, bytes(8)),
        ]
        share = len(chosen) if number == last else draw(st.integers(0, len(chosen)))
        for gtid in chosen[:share]:
            events += mysql_group(*gtid, draw(st.integers(0, 3)))
        chosen = chosen[share:]
        if number < last:
            events += draw(st.sampled_from([[], [MAKER.event(_T.STOP)], [MAKER.event(_T.ROTATE, bytes(8) + b"next")]]))
        files.append(File(name, placed(events)))
    return files


@st.composite
def gtid_sets(draw: st.DrawFn) -> GtidSet:
    out = GtidSet()
    for uuid in (*UUIDS, b"\x77" * 16):
        for tag in ("", "t"):
            for number in draw(st.sets(st.integers(1, NUMBERS + 2))):
                out.add(uuid, number, tag)
    return out


@given(files=mysql_files(), held=gtid_sets(), cut=cuts, flags=st.sampled_from([1, 3]), data=st.data())
@pytest.mark.fuzz
def test_mysql_groups_that_the_replica_has_are_left_out(
    files: list[File], held: GtidSet, cut: tuple[int, int], flags: int, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(["", *(file.name for file in files)]))
    with served(Flavor.MYSQL, files, *cut) as log:
        answer = log.ask(beyond(held, flags=flags, file=name))
    assert answer.error is None
    version = 2 if flags & DumpFlag.MYSQL_HEARTBEAT_V2 else 1
    assert answer.events == mysql_stream(files, held, name=name, heartbeat_version=version)
    assert answer.sequences == [number % 256 for number in range(1, len(answer.sequences) + 1)]


def test_an_anonymous_transaction_ends_a_gtid_dump(tmp_path: Path) -> None:
    group = [MAKER.query(b"BEGIN"), MAKER.xid()]
    head = [description("9.7.4", 0), MAKER.gtid(1), *group]
    file = placed([*head, MAKER.anonymous_gtid(), *group])
    with Served(tmp_path, Flavor.MYSQL) as log:
        log.importer.events("binlog.000001", file)
        answer = log.ask(beyond(""))
        assert answer.events[1:] == file[:4]
        position = 4 + sum(map(len, head))
        assert answer.message == (
            "Cannot replicate anonymous transaction when AUTO_POSITION = 1, at file binlog.000001, position "
            f"{position}."
        )
        assert log.ask(from_file()).events[1:] == file


# -- MariaDB


def mariadb_group(gtid: MariadbGtid, kind: int) -> list[bytes]:
    """A transaction of one of several forms."""
    head = MAKER.mariadb_gtid(gtid.domain, gtid.server, gtid.sequence, GTID_FLAGS_STANDALONE if kind == 0 else 0)
    if kind == 0:
        return [head, MAKER.event(_T.INTVAR, bytes(9)), MAKER.query(b"DROP TABLE t")]
    rows = [MAKER.event(_T.ANNOTATE_ROWS, b"INSERT"), MAKER.event(_T.TABLE_MAP, b"t"), MAKER.event(_T.WRITE_ROWS, b"r")]
    return [head, *rows * (kind - 1), MAKER.query(b"COMMIT") if kind == 2 else MAKER.xid()]


@st.composite
def mariadb_gtids(draw: st.DrawFn) -> list[MariadbGtid]:
    """GTIDs in the order of a log: sequence numbers rise in each domain, with holes."""
    out = []
    numbers = dict.fromkeys(range(DOMAINS), 0)
    for _ in range(draw(st.integers(0, 16))):
        domain, server = draw(st.integers(0, DOMAINS - 1)), draw(st.integers(1, SERVERS))
        numbers[domain] += draw(st.integers(1, 2))
        out.append(MariadbGtid(domain, server, numbers[domain]))
    return out


@st.composite
def mariadb_files(draw: st.DrawFn) -> list[File]:
    gtids = draw(mariadb_gtids())
    files = []
    last = draw(st.integers(1, 4))
    state = MariadbState()
    for number, name in enumerate(names(last), 1):
        listed = state.encode() if state else state.encode() + bytes(2)
        created = draw(st.sampled_from([0, 1_700_000_000]))
        events = [description("10.11.19-MariaDB", created), MAKER.event(_T.GTID_LIST, listed)]
        events.append(MAKER.event(_T.BINLOG_CHECKPOINT, struct.pack("<I", 1) + b"b"))
        share = len(gtids) if number == last else draw(st.integers(0, len(gtids)))
        for gtid in gtids[:share]:
            events += mariadb_group(gtid, draw(st.integers(0, 3)))
            events += draw(st.sampled_from([[], [], [MAKER.event(_T.BINLOG_CHECKPOINT, struct.pack("<I", 1) + b"b")]]))
            state.update(*gtid)
        gtids = gtids[share:]
        if number < last:
            events += draw(st.sampled_from([[], [MAKER.event(_T.STOP)], [MAKER.event(_T.ROTATE, bytes(8) + b"next")]]))
        files.append(File(name, placed(events)))
    return files


positions = st.dictionaries(
    st.integers(0, DOMAINS), st.tuples(st.integers(1, SERVERS + 1), st.integers(1, SEQUENCES)), max_size=DOMAINS + 1
).map(lambda chosen: {domain: MariadbGtid(domain, *rest) for domain, rest in chosen.items()})


@given(
    files=mariadb_files(),
    start=positions,
    until=st.one_of(st.none(), st.none(), positions),
    strict=st.booleans(),
    ignore=st.booleans(),
    annotate=st.booleans(),
    cut=cuts,
)
@pytest.mark.fuzz
def test_mariadb_groups_that_the_replica_has_are_left_out(
    files: list[File],
    start: dict[int, MariadbGtid],
    until: dict[int, MariadbGtid] | None,
    strict: bool,
    ignore: bool,
    annotate: bool,
    cut: tuple[int, int],
) -> None:
    flags = DumpFlag.NON_BLOCK | (DumpFlag.MARIADB_ANNOTATE_ROWS if annotate else 0)
    variables = {
        **CAPABLE,
        "slave_connect_state": ",".join(map(str, start.values())).encode(),
        "slave_gtid_strict_mode": int(strict),
        "slave_gtid_ignore_duplicates": int(ignore),
    }
    if until is not None:
        variables["slave_until_gtid"] = ",".join(map(str, until.values())).encode()
    with served(Flavor.MARIADB, files, *cut) as log:
        # File and position are for nobody when there is a GTID position.
        answer = log.ask(from_file(99, "no such file", flags), variables)
    expected, refused = MariadbDump(
        files, dict(start), None if until is None else dict(until), strict, ignore, annotate
    ).outcome()
    assert answer.events == expected
    if refused is None:
        assert answer.error is None
    else:
        texts = {"hole": hole, "ahead": not_in_binlog, "diverged": diverged}
        error = state_not_found() if refused.gtid is None else texts[refused.why](refused.gtid)
        assert answer.message == error.message
    assert answer.sequences == [number % 256 for number in range(1, len(answer.sequences) + 1)]
