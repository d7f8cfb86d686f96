"""A replica that connects while its older connection is still there: the older one is ended, and told what a real
source tells it.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from servers.raw import Socket, dumping, file_command, gtid_command, read_packet

from clients.conftest import Chains
from kingbus_node.demo.instance import Server
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until

pytestmark = pytest.mark.thorough

HEARTBEATS = (27, 41)
UUID = "5ca1ab1e-0000-11f1-8000-000000000001"
EVERY_SECOND = "SET @master_heartbeat_period = 1000000000"
"""A heartbeat says that there is nothing more to come."""
CRC32 = "SET @master_binlog_checksum = 'CRC32', @source_binlog_checksum = 'CRC32'"
SAME_UUID = f"SET @slave_uuid = '{UUID}', @replica_uuid = '{UUID}'"
NO_GTIDS = bytes(8)


def read_to_the_end(sock: Socket) -> int:
    """How many events there are before the first heartbeat."""
    events = 0
    while (packet := read_packet(sock)) is not None and packet.payload[0] == 0:
        if packet.payload[5] in HEARTBEATS:
            return events
        events += 1
    pytest.fail(f"the dump has ended after {events} events: {packet!r}")


def last_words(port: int, command: bytes, statements: Sequence[str]) -> tuple[int, bytes | None]:
    """Dump twice at once: the events of the first dump, and the packet that ends it (None: nothing is said)."""
    with dumping(port, command, statements) as first:
        events = read_to_the_end(first)
        with dumping(port, command, statements) as second:
            assert read_to_the_end(second) == events
            while (packet := read_packet(first)) is not None and packet.payload[0] == 0:
                assert packet.payload[5] in HEARTBEATS
            return events, None if packet is None else packet.payload


def checkpointed(source: Server, file: str) -> bool:
    """Whether MariaDB has written the BINLOG_CHECKPOINT that it adds some time after it has begun a file."""
    events = source.table(f"SHOW BINLOG EVENTS IN '{file}'")
    return any(event["Event_type"] == "Binlog_checkpoint" and event["Info"] == file for event in events)


@pytest.mark.parametrize(
    ("release", "by"),
    [
        ("mysql-9.7", "UUID, and GTID set"),
        ("mysql-9.7", "UUID"),
        ("mysql-9.7", "server_id"),
        ("mariadb-10.11", "server_id"),
    ],
)
def test_the_older_connection_is_ended_with_the_words_of_a_real_source(release: str, by: str, chains: Chains) -> None:
    chain = chains(release)
    chain.workload.flush_logs()
    chain.workload.small(3)
    file = chain.source.binary_logs()[-1]
    if chain.source.flavor is Flavor.MARIADB:
        wait_until(lambda: checkpointed(chain.source, file), 60, f"the checkpoint in {file}")
    chain.wait_node()
    command = file_command(file, flags=0, server_id=4711)
    if "GTID" in by:
        command = gtid_command(NO_GTIDS, flags=0, server_id=4711)
    statements = [EVERY_SECOND, CRC32, *([SAME_UUID] if "UUID" in by else ["SET @mariadb_slave_capability = 4"])]
    theirs = last_words(chain.source.port, command, statements)
    ours = last_words(chain.node.port, command, statements)
    assert ours == theirs
    assert ours[1] is not None
    assert b"same server_uuid/server_id" in ours[1]
