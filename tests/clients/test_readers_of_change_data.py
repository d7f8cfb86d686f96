"""The libraries with which programs read changes: each reads a real workload through a node, and ends up with the
source's rows and GTIDs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from servers.chain import Chain
from servers.compatibility import Limit, Note
from servers.fixtures import Pool
from servers.workload import Workload

from clients.conftest import Chains
from clients.programs import Order, Program, go_mysql, mysql_binlog_connector_java, python_mysql_replication
from clients.reading import Read, ReaderFailed, assert_equal, mark, order, reading
from kingbus_node.demo.servers import Flavor

RELEASES = ("mysql-9.7", "mariadb-10.11", "mariadb-11.8")
NOTHING = "11111111-2222-3333-4444-555555555555:1"
"""A GTID that no source has: python-mysql-replication takes an empty set for "no GTIDs wanted"."""

APART = ("xa", "compressed", "tagged", "compressed_events")
"""Kinds of data that are tested apart. XA: the rows of a branch that is rolled back in the end are in the log, so no
reader ends up with the source's. The others: not every reader can, and once a source has seen a tag it is in all files.
"""

READERS: dict[str, Callable[[], Program]] = {
    "python": python_mysql_replication,
    "go-syncer": lambda: go_mysql("syncer"),
    "go-canal": lambda: go_mysql("canal"),
    "java": mysql_binlog_connector_java,
}

every_reader = pytest.mark.parametrize(
    "reader", ["python", *(pytest.param(name, marks=pytest.mark.thorough) for name in READERS if name != "python")]
)
every_release = pytest.mark.parametrize(
    "release", [*RELEASES[:2], *(pytest.param(name, marks=pytest.mark.thorough) for name in RELEASES[2:])]
)


def write(chain: Chain) -> None:
    """A round of all that every reader can read."""
    for name, kind in chain.workload.kinds().items():
        if name not in APART:
            kind()


def source_name(chain: Chain) -> str:
    """The source as it is called in the table."""
    version = chain.source.binaries.version
    return ("MySQL " if chain.source.flavor is Flavor.MYSQL else "MariaDB ") + version.partition("-")[0]


@every_release
@every_reader
def test_it_reads_by_file_and_position_while_the_source_writes(
    reader: str, release: str, chains: Chains, tmp_path: Path, works: Note
) -> None:
    chain, program = chains(release), READERS[reader]()
    marker = f"file {reader}"
    with reading(program, order(chain.node.port, chain.source, marker), tmp_path) as running:
        write(chain)
        mark(chain.workload, marker)
        assert_equal(chain.source, running.finish(), gtids=not _knows_no_gtids(reader, chain))
    works(str(program), "file and position", source_name(chain))


@every_release
@every_reader
def test_it_goes_on_by_gtid_where_it_was(
    reader: str, release: str, chains: Chains, tmp_path: Path, works: Note
) -> None:
    """First up to a marker, then, after more was written, by the GTIDs that the source had then."""
    chain, program = chains(release), READERS[reader]()
    write(chain)
    first, second = f"first {reader}", f"second {reader}"
    held = mark(chain.workload, first)
    mysql = chain.source.flavor is Flavor.MYSQL
    by_gtid: Order = {"by_gtid": True, "gtids": NOTHING} if mysql else {}
    with reading(program, order(chain.node.port, chain.source, first, **by_gtid), tmp_path) as running:
        read = running.finish()
    write(chain)
    mark(chain.workload, second)
    again = order(chain.node.port, chain.source, second, by_gtid=True, gtids=held)
    with reading(program, again, tmp_path, read) as running:
        assert_equal(chain.source, running.finish())
    works(str(program), "GTID", source_name(chain))


def _knows_no_gtids(reader: str, chain: Chain) -> bool:
    """mysql-binlog-connector-java tells a MariaDB source that it can do with GTIDs only when it asks by GTID; otherwise
    it gets BEGIN in their place, as from MariaDB itself.
    """
    return reader == "java" and chain.source.flavor is Flavor.MARIADB


@every_reader
@pytest.mark.parametrize("release", RELEASES[:2])
def test_it_reads_over_tls(reader: str, release: str, chains: Chains, tmp_path: Path, works: Note) -> None:
    chain, program = chains(release), READERS[reader]()
    marker = f"tls {reader}"
    mark(chain.workload, marker)
    with reading(program, order(chain.node.port, chain.source, marker, tls=True), tmp_path) as running:
        assert_equal(chain.source, running.finish(), gtids=not _knows_no_gtids(reader, chain))
    works(str(program), "TLS", source_name(chain))


@pytest.mark.thorough
@every_reader
@pytest.mark.parametrize(
    ("release", "kind"),
    [
        ("mysql-9.7", "compressed"),
        ("mysql-9.7", "tagged"),
        ("mysql-9.7", "xa"),
        ("mariadb-10.11", "compressed_events"),
        ("mariadb-10.11", "xa"),
    ],
)
def test_it_reads_from_a_node_what_it_reads_from_the_source(
    reader: str, release: str, kind: str, pool: Pool, tmp_path: Path, works: Note, limits: Limit
) -> None:
    """What a reader cannot read at all, it fails at with the same words."""
    source = pool.server(release, {"binlog-row-metadata": "FULL"})
    chain = Chain(pool, Workload(source).create(), pool.node(source))
    chain.workload.kinds()[kind]()
    chain.workload.flush_logs()
    mark(chain.workload, "the end")
    chain.wait_node()
    program = READERS[reader]()
    outcomes: list[str] = []
    read: list[Read] = []
    for port in (chain.source.port, chain.node.port):
        with reading(program, order(port, chain.source, "the end"), tmp_path) as running:
            try:
                read.append(running.finish())
                if kind != "xa":
                    assert_equal(chain.source, read[-1])
            except ReaderFailed as failed:
                outcomes.append(failed.reason)
            except AssertionError:
                outcomes.append("none: it goes on without them")
            else:
                outcomes.append("")
    assert re.sub(r"\d+", "N", outcomes[0]) == re.sub(r"\d+", "N", outcomes[1])
    if len(read) == 2:
        assert read[0] == read[1]
    what = {
        "compressed": "compressed transactions",
        "tagged": "GTIDs with tags",
        "xa": "XA transactions, as from the source",
        "compressed_events": "compressed events",
    }[kind]
    if outcomes[0]:
        limits(str(program), what, source_name(chain), f"`{outcomes[0][:200]}`")
    else:
        works(str(program), what, source_name(chain))
