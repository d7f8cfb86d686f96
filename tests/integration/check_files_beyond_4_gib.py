"""A binlog file of more than 4 GiB, whose positions no longer fit the 32 bits that an event has for them: ``make
test-big``. It takes 25 GB of disk for some minutes, so it is no part of `make test`.

A file is only ended between transactions: one of 3.6 GiB behind nearly a full file makes one. It goes to a table that
keeps nothing, so that only the binlogs are big.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from servers.chain import Chain
from servers.fixtures import Pool
from servers.processes import peak_memory
from servers.raw import fetch_files

from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER, Options, connect, text
from kingbus_node.demo.replication import FilePosition, executed, replicate, wait_caught_up
from kingbus_node.demo.servers import Flavor

ROW = 12 << 20
BEFORE, ROWS = 80, 310
"""Rows in transactions of their own, then in one."""
BEYOND = 1 << 32
CORE_MEMORY = 300 << 20
PATIENCE = 1200.0
SOURCE: dict[Flavor, Options] = {
    Flavor.MYSQL: {"max-binlog-size": "1G", "binlog-cache-size": "16M"},
    Flavor.MARIADB: {"max-binlog-size": "1G", "binlog-cache-size": "16M", "plugin-load-add": "ha_blackhole.so"},
}
REPLICA: dict[Flavor, Options] = {
    Flavor.MYSQL: {"log-replica-updates": "OFF"},
    Flavor.MARIADB: {"skip-log-slave-updates": None, "plugin-load-add": "ha_blackhole.so"},
}


def listed(port: int) -> dict[str, int]:
    """SHOW BINARY LOGS: sizes by name."""
    user = connect(port, user=REPLICATION_USER, password=REPLICATION_PASSWORD)
    with closing(user) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW BINARY LOGS")
        return {text(row[0]): int(text(row[1])) for row in cursor.fetchall()}


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture
def chain(pool: Pool, flavor: Flavor, tmp_path: Path) -> Iterator[Chain]:
    """A source and a node; the folders are removed at the end, for pytest would keep them for three runs."""
    yield Chain.start(pool, flavor, options=SOURCE[flavor])
    pool.close()
    shutil.rmtree(tmp_path)


def rows(first: int, count: int) -> Iterator[str]:
    for number in range(first, first + count):
        yield f"INSERT INTO w.nothing VALUES ({number}, REPEAT(X'{number % 256:02x}c3a9', {ROW // 3}))"


@pytest.mark.timeout(3600)
def test_a_file_beyond_4_gib_is_the_sources_and_replicas_pass_it(chain: Chain, tmp_path: Path) -> None:
    source, node, work = chain.source, chain.node, chain.workload
    word = "REPLICA" if source.flavor is Flavor.MYSQL else "SLAVE"
    source.sql("CREATE TABLE w.nothing (id INT PRIMARY KEY, b LONGBLOB) ENGINE = BLACKHOLE")
    work.small()
    behind = chain.replica(options=REPLICA[source.flavor])
    chain.converge(behind)
    behind.sql(f"STOP {word}")
    source.sql("FLUSH BINARY LOGS", *rows(0, BEFORE))
    source.sql("BEGIN", *rows(BEFORE, ROWS), "COMMIT")
    left_out = executed(source)
    work.small()

    sizes = listed(source.port)
    big, after = list(sizes)[-2:]
    assert sizes[big] > BEYOND
    chain.wait_node(PATIENCE)
    assert listed(node.port) == sizes
    folder = tmp_path / "fetched"
    fetch_files(source.binaries, node.port, folder, [big])
    assert digest(folder / big) == digest(source.data / big)
    shutil.rmtree(folder)

    all_of_it = chain.replica(options=REPLICA[source.flavor])
    wait_caught_up(source, all_of_it, PATIENCE)
    if source.flavor is Flavor.MYSQL:
        behind.sql(f"SET GLOBAL gtid_purged = CONCAT('+', GTID_SUBTRACT('{left_out}', @@GLOBAL.gtid_executed))")
    replicate(behind, chain.upstream, FilePosition(after, 4))
    work.small()
    chain.converge(all_of_it, behind)

    peak = peak_memory(node)
    print(f"{source.flavor}: {big} of {sizes[big]} bytes; core {peak[node.pid] >> 20} MiB, "
          f"serve {sorted(size >> 20 for pid, size in peak.items() if pid != node.pid)} MiB")  # fmt: skip
    assert peak[node.pid] < CORE_MEMORY, f"the core had {peak[node.pid] >> 20} MiB resident"
