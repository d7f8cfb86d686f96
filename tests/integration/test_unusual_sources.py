"""Sources that are set up in ways that binlog servers stumble over, and chains longer than one node."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from servers.chain import SOURCE, Chain
from servers.compatibility import Reads
from servers.files import assert_files_equal
from servers.fixtures import Pool
from servers.workload import Workload

from kingbus_node.demo.instance import Options, Server
from kingbus_node.demo.node_process import Settings
from kingbus_node.demo.replication import Upstream, executed, replicate, wait_caught_up
from kingbus_node.demo.servers import Flavor, ensure

ENCRYPTED = "binlog encrypted at rest"


def check(chain: Chain, reads: Reads, mode: str) -> None:
    """Write everything; a replica converges and all files are equal."""
    replica = chain.replica()
    chain.workload.everything()
    chain.converge(replica)
    assert_files_equal(chain)
    reads(chain.source, mode)


def test_a_source_whose_files_are_elsewhere_and_have_another_name(pool: Pool, flavor: Flavor, reads: Reads) -> None:
    options: Options = {"log-bin": "../db-1_binary-log-with-quite-a-long-name"}
    check(Chain.start(pool, flavor, options=options), reads, "log_bin elsewhere, under another name")


def test_a_source_that_is_itself_a_replica(pool: Pool, flavor: Flavor, reads: Reads) -> None:
    """Its binlog holds transactions of several servers, with their server ids and UUIDs."""
    origin = pool.server(SOURCE[flavor])
    workload = Workload(origin).create()
    source = pool.server(SOURCE[flavor])
    replicate(source, Upstream(origin.port))
    wait_caught_up(origin, source)
    chain = Chain(pool, Workload(source), pool.node(source))
    replica = chain.replica()
    workload.everything()
    wait_caught_up(origin, source)
    source.sql("CREATE DATABASE own", "CREATE TABLE own.t (id INT PRIMARY KEY)", "INSERT INTO own.t VALUES (1), (2)")
    chain.converge(replica)
    assert_files_equal(chain)
    reads(source, "itself a replica")


def test_a_node_is_the_source_of_another_node(chain: Chain) -> None:
    """The files of the second are those of the first, and so of the source."""
    endpoint = f"127.0.0.1:{chain.node.port}"
    ids: Settings = {"source": {"endpoints": [endpoint], "server_id": 900_200}, "serve": {"server_id": 900_201}}
    second = Chain(chain.pool, chain.workload, chain.pool.node(chain.source, ids))
    with chain.workload.in_background():
        replica = second.replica()
        chain.workload.everything()
        chain.node.kill()
        chain.workload.everything()
        chain.node.start()
    second.converge(replica)
    assert_files_equal(second)


def test_a_replica_that_wants_semi_sync_gets_it(pool: Pool, flavor: Flavor) -> None:
    """It may acknowledge what it has; nothing waits for it, for what it gets is committed already."""
    options: dict[Flavor, Options] = {
        Flavor.MYSQL: {"plugin-load-add": "semisync_replica.so", "loose-rpl-semi-sync-replica-enabled": "ON"},
        Flavor.MARIADB: {"rpl-semi-sync-slave-enabled": "ON"},
    }
    chain = Chain.start(pool, flavor)
    replica = chain.replica(options=options[flavor])
    chain.workload.everything()
    chain.converge(replica)


def test_an_xa_transaction_that_was_prepared_before_a_crash_is_committed_after_it(chain: Chain, reads: Reads) -> None:
    replica = chain.replica()
    chain.source.sql("CREATE TABLE w.branches (name VARCHAR(20) PRIMARY KEY)")
    for name in ("'committed'", "'rolled back'"):
        chain.source.sql(
            "USE w", f"XA START {name}", f"INSERT INTO branches VALUES ({name})", f"XA END {name}", f"XA PREPARE {name}"
        )
    chain.source.kill()
    chain.node.kill()
    chain.source.start()
    chain.node.start(ready=False)
    chain.source.sql("XA COMMIT 'committed'", "XA ROLLBACK 'rolled back'")
    chain.workload.small()
    chain.converge(replica)
    assert chain.source.sql("SELECT * FROM w.branches") == [("committed",)]
    assert_files_equal(chain)
    reads(chain.source, "XA transactions prepared before a crash, ended after it")


@pytest.mark.parametrize("size", [4096, 1 << 20])
def test_a_source_whose_files_are_small(size: int, pool: Pool, flavor: Flavor, reads: Reads) -> None:
    """Most transactions then end a file; a large one ends its file long after the limit."""
    check(Chain.start(pool, flavor, options={"max-binlog-size": size}), reads, "small files, many rotations")


def test_a_source_whose_row_images_are_minimal(pool: Pool, flavor: Flavor, reads: Reads) -> None:
    chain = Chain.start(pool, flavor, options={"binlog-row-image": "MINIMAL"})
    check(chain, reads, "binlog_row_image=MINIMAL")


def test_a_mariadb_source_that_compresses_all_events(pool: Pool, reads: Reads) -> None:
    options: Options = {"log-bin-compress": "ON", "log-bin-compress-min-len": 10}
    check(Chain.start(pool, Flavor.MARIADB, options=options), reads, "compressed events (log_bin_compress)")


def test_a_mysql_source_whose_binlog_is_encrypted_at_rest(pool: Pool, tmp_path: Path, reads: Reads) -> None:
    """The server needs a component of its own for the keys, so it runs from a folder that says so."""
    source = pool.add(with_keyring(tmp_path / "programs", tmp_path / "source"))
    chain = Chain(pool, Workload(source).create(), pool.node(source))
    check(chain, reads, ENCRYPTED)
    name = source.binary_logs()[0]
    assert (source.data / name).read_bytes()[:4] == b"\xfdbin"
    assert source.table("SHOW BINARY LOGS")[0]["Encrypted"] == "Yes"


def with_keyring(programs: Path, folder: Path) -> Server:
    """A MySQL server with component_keyring_file and binlog_encryption."""
    binaries = ensure("mysql-9.7")
    script = binaries.server.read_text()
    (plugins,) = re.findall(r"--plugin-dir=(\S+)", script)
    (name,) = re.findall(r"--argv0 (\S+)", script)
    ours, server = programs / "plugins", programs / "mysqld"
    ours.mkdir(parents=True)
    shutil.copy(Path(plugins) / "component_keyring_file.so", ours)
    for path, content in (
        (programs / "mysqld.my", {"components": "file://component_keyring_file"}),
        (ours / "component_keyring_file.cnf", {"path": str(folder / "data" / "keyring"), "read_only": False}),
    ):
        path.write_text(json.dumps(content))
    # The server looks for mysqld.my beside the program that it believes to be.
    server.write_text(script.replace(f"--argv0 {name}", f"--argv0 {server}").replace(plugins, str(ours)))
    server.chmod(0o755)
    return Server(replace(binaries, server=server), folder, server_id=71, options={"binlog-encryption": "ON"})


@pytest.mark.parametrize("release", ["mariadb-10.11", "mariadb-11.8"])
def test_a_mariadb_source_whose_binlog_is_encrypted_at_rest(
    release: str, pool: Pool, tmp_path: Path, reads: Reads
) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("1;0123456789abcdef0123456789abcdef\n")
    keys.chmod(0o644)
    source = pool.server(
        release,
        {
            "plugin-load-add": "file_key_management",
            "file-key-management-filename": str(keys),
            "encrypt-binlog": "ON",
        },
    )
    chain = Chain(pool, Workload(source).create(), pool.node(source))
    replica = chain.replica(release=release)
    chain.workload.everything()
    chain.node.kill()
    chain.workload.everything()
    chain.node.start()
    chain.converge(replica)
    reads(source, ENCRYPTED)


def test_a_mysql_source_whose_sets_hold_hundreds_of_servers(pool: Pool, reads: Reads) -> None:
    """As after many failovers: some of them in the past and purged, some with gaps, and some still to come."""
    before = ",\n".join(f"{uuid(n)}:1-{n * 3}:{n * 3 + 2}-{n * 3 + 9}" for n in range(1, 301))
    start = ("RESET BINARY LOGS AND GTIDS", f"SET GLOBAL gtid_purged = '{before}'")
    source, replica = pool.server(SOURCE[Flavor.MYSQL]), pool.server(SOURCE[Flavor.MYSQL])
    source.sql(*start)
    replica.sql(*start)
    chain = Chain(pool, Workload(source).create(), pool.node(source))
    replicate(replica, chain.upstream)
    source.sql("CREATE TABLE w.t (id INT PRIMARY KEY, who INT)")
    for n in range(280, 330):
        for number in (n * 3 + 1, 5000, 4998):
            source.sql(
                f"SET gtid_next = '{uuid(n)}:{number}'",
                "BEGIN",
                f"INSERT INTO w.t VALUES ({n * 10000 + number}, {n})",
                "COMMIT",
            )
        if n % 10 == 0:
            chain.workload.flush_logs()
            chain.node.kill()
            chain.node.start()
    chain.workload.everything()
    chain.converge(replica)
    assert_files_equal(chain)
    assert executed(replica) == executed(source) == chain.node.executed()
    reads(source, "sets of hundreds of UUIDs, with gaps")


def uuid(n: int) -> str:
    return f"{n:08x}-aab4-11df-86ab-c80aa9429562"


def test_a_mariadb_source_whose_state_holds_many_servers_and_domains(pool: Pool, reads: Reads) -> None:
    chain = Chain.start(pool, Flavor.MARIADB)
    replica = chain.replica()
    chain.source.sql("CREATE TABLE w.t (id INT PRIMARY KEY)")
    for n in range(60):
        chain.source.sql(
            f"SET SESSION gtid_domain_id = {n % 20}",
            f"SET SESSION server_id = {1000 + n}",
            f"INSERT INTO w.t VALUES ({n})",
        )
        if n % 20 == 10:
            chain.workload.flush_logs()
            chain.node.kill()
            chain.node.start()
    chain.workload.everything()
    chain.converge(replica)
    assert_files_equal(chain)
    reads(chain.source, "many domains and server ids")
