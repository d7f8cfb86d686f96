"""What mysqlbinlog and mariadb-binlog fetch from a node equals what they fetch from its source, for every file."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from servers.chain import Chain
from servers.files import assert_files_equal
from servers.fixtures import Pool
from servers.raw import environment, remote

from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until


def test_all_files_of_a_varied_history(chain: Chain) -> None:
    """Every kind of data, files that end by rotation, by a stop and by a crash, events of more than one packet."""
    workload, source = chain.workload, chain.source
    workload.everything()
    source.stop()
    source.start()
    workload.everything()
    workload.blobs((17 * 2**20,))
    source.kill()
    source.start()
    workload.flush_logs()
    workload.flush_logs()
    workload.everything()
    chain.wait_node()
    assert len(source.binary_logs()) >= 8
    assert_files_equal(chain)


@pytest.mark.parametrize("checksum", ["CRC32", "NONE"])
def test_files_whose_checksums_change_between_them(checksum: str, pool: Pool, flavor: Flavor) -> None:
    chain = Chain.start(pool, flavor, options={"binlog-checksum": checksum})
    for algorithm in ("NONE", "CRC32", "NONE", "CRC32"):
        chain.workload.everything()
        chain.source.sql(f"SET GLOBAL binlog_checksum = {algorithm}")
    chain.workload.everything()
    chain.wait_node()
    assert_files_equal(chain)
    chain.converge(chain.replica())


def test_a_node_with_small_segments_and_many_small_files(pool: Pool, flavor: Flavor) -> None:
    chain = Chain.start(
        pool, flavor, options={"max-binlog-size": 4096}, settings={"storage": {"segment_bytes": "64KiB"}}
    )
    for seed in range(3):
        chain.workload.random_transactions(seed, count=100)
    chain.wait_node()
    assert len(chain.source.binary_logs()) > 100
    assert_files_equal(chain)
    chain.converge(chain.replica())


@pytest.fixture
def following(chain: Chain) -> Iterator[subprocess.Popen[bytes]]:
    """mysqlbinlog or mariadb-binlog that stays with the node and writes SQL of what it gets."""
    command = [*remote(chain.source.binaries, chain.node.port), "--stop-never", "--verbose", "binlog.000001"]
    path = chain.node.folder / "following.sql"
    with path.open("wb") as output, subprocess.Popen(command, stdout=output, env=environment()) as process:
        yield process
        process.kill()


def test_a_tool_that_stays_gets_what_comes(chain: Chain, following: subprocess.Popen[bytes]) -> None:
    chain.workload.everything()
    chain.source.sql("INSERT INTO w.rows_ VALUES (-1, 0, 'the last of all', NULL)")
    path = chain.node.folder / "following.sql"

    def came() -> bool:
        chain.workload.small()  # the tool buffers what it writes: later events push earlier ones out
        return "the last of all" in path.read_text(errors="replace")

    wait_until(came, 60, "the last row")
    assert following.poll() is None
