"""Promise 4: the transactions that we find in a server's binlogs are those that the server says it has executed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from binlogs.captured import split_file
from servers.fixtures import Pool
from servers.workload import Workload

from kingbus_node.binlog.build import packetize
from kingbus_node.binlog.checksum import verify_block
from kingbus_node.binlog.constants import EventFlag, Flavor
from kingbus_node.binlog.executed import ExecutedSet, executed_set
from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.binlog.scan import EVENT_AT, Events, packet_offsets
from kingbus_node.binlog.transactions import TransactionTracker
from kingbus_node.demo.instance import Server, text

RELEASES = ("mysql-9.7", "mariadb-10.11", "mariadb-11.8")
MYSQL_ONLY = """
set binlog_rows_query_log_events=1; insert into shapes.t values (1, 'a'); set binlog_rows_query_log_events=0
create table shapes.copy as select * from shapes.t
set gtid_next='automatic:red'; begin; insert into shapes.t values (2, 'b'); commit; set gtid_next='automatic'
set gtid_next='aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa:red:9223372036854775806'; begin; commit; set gtid_next='automatic'
set gtid_next='aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa:77'; begin; commit; set gtid_next='automatic'
set global binlog_checksum=none; insert into shapes.t values (3, 'c'); set global binlog_checksum=crc32
"""
MARIADB_ONLY = """
set binlog_alter_two_phase=1; alter table shapes.t add column z int, algorithm=copy; set binlog_alter_two_phase=0
set binlog_annotate_row_events=0; insert into shapes.t (id) values (1); set binlog_annotate_row_events=1
create or replace table shapes.copy as select * from shapes.t
set gtid_domain_id=3; create sequence shapes.s; select nextval(shapes.s); set gtid_domain_id=0
set global binlog_checksum=none; insert into shapes.t (id) values (3); set global binlog_checksum=crc32
set global log_bin_compress=1; set global log_bin_compress_min_len=10
insert into shapes.t (id, v) values (4, repeat('z', 50)); set binlog_format=statement
update shapes.t set v = 'COMMIT                       ' where id = 4
set binlog_format=row; set global log_bin_compress=0
"""


@pytest.fixture(scope="module", params=RELEASES)
def server(request: pytest.FixtureRequest, module_pool: Pool) -> Server:
    """A server that has written transactions of every shape."""
    server = module_pool.server(request.param)
    server.sql("create database shapes", "create table shapes.t (id int primary key, v varchar(99))")
    extra = MYSQL_ONLY if server.flavor == "mysql" else MARIADB_ONLY
    server.sql(*(statement for line in extra.splitlines() for statement in line.split("; ") if statement))
    workload = Workload(server).create()
    workload.everything()
    workload.flush_logs()
    workload.everything()
    server.sql("flush logs")
    return server


def files(server: Server) -> Iterator[list[bytes]]:
    for name in server.binary_logs():
        yield list(split_file((Path(server.data) / name).read_bytes()))


def said_by(server: Server) -> ExecutedSet:
    if server.flavor == "mysql":
        return GtidSet.parse(text(server.value("select @@gtid_executed")))
    state = executed_set(Flavor.MARIADB)
    return type(state).from_json(text(server.value("select @@gtid_binlog_state")))


def test_executed_transactions_are_those_of_the_server(server: Server) -> None:
    flavor = Flavor(server.flavor)
    tracker = TransactionTracker(flavor)
    executed = executed_set(flavor)
    transactions = gtid_events = 0
    for events in files(server):
        data = bytearray(b"".join(packetize(event) for event in events))
        packets, end = packet_offsets(data, 0, len(data))
        assert end == len(data)
        table = Events.gather(data, packets)
        assert table.type.tolist() == [event[4] for event in events]
        found = tracker.feed(data, table)
        assert not tracker.open, "a transaction crosses the end of a file"
        assert not len(found.abandoned)
        executed.apply_delta(found.delta(0, len(found)))
        transactions += len(found)
        gtid_events += len(found.groups)
        if found.checksummed.all():
            data[EVENT_AT + 17] &= ~EventFlag.BINLOG_IN_USE & 0xFF  # set in a file that is open, without a new checksum
            assert verify_block(data, packets) is None
    assert transactions == gtid_events > 100
    assert executed == said_by(server)
