"""MySQL 9.7 as a replica, in the modes that its manual has for the connection to a source."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import yaml
from servers.chain import Chain
from servers.compatibility import Note
from servers.fixtures import Pool
from servers.workload import Workload

from kingbus_node.demo.compare import differences
from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER, Options, Server, text
from kingbus_node.demo.replication import FilePosition, Upstream, caught_up, executed, replicate, wait_caught_up
from kingbus_node.demo.waiting import wait_until
from kingbus_node.wire.auth import sha256_crypt

RELEASE = "mysql-9.7"
NATIVE = Upstream(0, "native", "another password")
STORED = Upstream(0, "stored", "a third password")
PARALLEL: Options = {"replica-parallel-workers": 16, "replica-preserve-commit-order": "ON"}
SEMI_SYNC: Options = {"plugin-load-add": "semisync_replica.so", "loose-rpl-semi-sync-replica-enabled": "ON"}


@dataclass(frozen=True, slots=True)
class Mode:
    """How a replica is set up. change: appended to CHANGE REPLICATION SOURCE; {ca} is the file of the node's CA."""

    name: str
    options: Options = field(default_factory=dict)
    change: str = ""
    start: FilePosition | None = None
    user: Upstream | None = None
    quick: bool = False


MODES = (
    Mode("file and position, 16 parallel workers in commit order", PARALLEL, start=FilePosition()),
    Mode("auto-position, 16 parallel workers in commit order", PARALLEL),
    Mode("auto-position, 16 parallel workers in any order", {**PARALLEL, "replica-preserve-commit-order": "OFF"}),
    Mode("TLS", change=", SOURCE_SSL = 1"),
    Mode(
        "TLS, the CA verified",
        change=", SOURCE_SSL = 1, SOURCE_SSL_CA = '{ca}', SOURCE_SSL_VERIFY_SERVER_CERT = 1",
        quick=True,
    ),
    Mode("caching_sha2_password with the public key asked for", change=", SOURCE_SSL = 0, GET_SOURCE_PUBLIC_KEY = 1"),
    Mode("mysql_native_password", user=NATIVE, change=", GET_SOURCE_PUBLIC_KEY = 0"),
    Mode("semi-sync", SEMI_SYNC, quick=True),
    Mode("semi-sync, file and position, TLS", SEMI_SYNC, ", SOURCE_SSL = 1", FilePosition()),
    Mode("zlib", change=", SOURCE_COMPRESSION_ALGORITHMS = 'zlib'", quick=True),
    Mode("zlib, TLS, semi-sync", SEMI_SYNC, ", SOURCE_SSL = 1, SOURCE_COMPRESSION_ALGORITHMS = 'zlib'"),
    Mode("zlib, semi-sync", SEMI_SYNC, ", SOURCE_COMPRESSION_ALGORITHMS = 'zlib'"),
    Mode("zstd", change=", SOURCE_COMPRESSION_ALGORITHMS = 'zstd'", quick=True),
    Mode(
        "zstd of level 19, TLS, semi-sync",
        SEMI_SYNC,
        ", SOURCE_SSL = 1, SOURCE_COMPRESSION_ALGORITHMS = 'zstd', SOURCE_ZSTD_COMPRESSION_LEVEL = 19",
    ),
    Mode(
        "zstd, semi-sync, file and position",
        SEMI_SYNC,
        ", SOURCE_COMPRESSION_ALGORITHMS = 'zstd', SOURCE_ZSTD_COMPRESSION_LEVEL = 1",
        FilePosition(),
    ),
    Mode("zstd, zlib or nothing", change=", SOURCE_COMPRESSION_ALGORITHMS = 'zstd,zlib,uncompressed'"),
    Mode("delayed by a second", change=", SOURCE_DELAY = 1"),
)


def name_of(server: Server) -> str:
    """As in the table."""
    return f"MySQL {server.binaries.version.partition('-')[0]}"


@pytest.fixture(scope="module")
def chain(module_pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    users = tmp_path_factory.mktemp("users") / "users.yaml"
    users.write_text(
        yaml.safe_dump(
            [
                {"user": REPLICATION_USER, "password": REPLICATION_PASSWORD},
                {"user": NATIVE.user, "password": NATIVE.password, "plugins": ["mysql_native_password"]},
            ]
        )
    )
    source = module_pool.server(RELEASE)
    node = module_pool.node(source, {"serve": {"users_file": str(users)}})
    return Chain(module_pool, Workload(source).create(), node)


def show(chain: Chain, replica: Server) -> list[dict[str, object]]:
    """The replica as the node's status shows it: once, as soon as the core has heard of it, which may be after the
    replica has got everything.
    """
    replicas = chain.node.status()["replicas"]
    assert isinstance(replicas, list)
    return [one for one in replicas if one["server_id"] == replica.server_id]


@pytest.mark.parametrize(
    "mode", [pytest.param(mode, id=mode.name, marks=() if mode.quick else pytest.mark.thorough) for mode in MODES]
)
def test_a_replica_converges(mode: Mode, chain: Chain, works: Note) -> None:
    replica = chain.pool.server(RELEASE, mode.options)
    upstream = replace(mode.user or chain.upstream, port=chain.node.port)
    ca = chain.node.data / "keys" / "ca.pem"
    replicate(replica, upstream, mode.start, options=mode.change.format(ca=ca))
    chain.workload.everything()
    chain.converge(replica)
    if mode.options is SEMI_SYNC:
        assert text(replica.sql("SHOW STATUS LIKE 'Rpl_semi_sync_replica_status'")[0][1]) == "ON"
        chain.workload.small()
        chain.converge(replica)

        def acknowledged() -> bool:
            return [int(str(one["acks"])) > 1 for one in show(chain, replica)] == [True]

        wait_until(acknowledged, 30, "acknowledgements in the node's status")
        assert [one["semi_sync"] for one in show(chain, replica)] == [True]
    works(f"{name_of(replica)} replica", mode.name, name_of(chain.source))
    replica.stop()


@pytest.mark.thorough
@pytest.mark.parametrize("tls", [True, False], ids=["TLS", "RSA"])
def test_a_stored_hash_needs_the_password_once(tls: bool, chain: Chain, works: Note, tmp_path: Path) -> None:
    """caching_sha2_password: cold, the node knows only what a server stores, and needs the password itself, inside TLS
    or encrypted with its public key; warm, it does not: so the replica connects without TLS and without the key.
    """
    salt = bytes(range(0x40, 0x54))
    stored = b"$A$005$" + salt + sha256_crypt(STORED.password.encode(), salt, 5000)
    users = tmp_path / "users.yaml"
    users.write_text(yaml.safe_dump([{"user": STORED.user, "auth_string": f"0x{stored.hex()}"}]))
    serve = {"server_id": 900_310 + tls, "users_file": str(users), "workers": 1}
    node = chain.pool.node(chain.source, {"source": {"server_id": 900_300 + tls}, "serve": serve})
    replica = chain.pool.server(RELEASE)
    upstream = replace(STORED, port=node.port)
    neither = ", SOURCE_SSL = 0, GET_SOURCE_PUBLIC_KEY = 0"
    replicate(replica, upstream, options=neither)

    def refused() -> str:
        return text(replica.table("SHOW REPLICA STATUS")[0]["Last_IO_Error"])

    wait_until(lambda: "Authentication requires secure connection" in refused(), 60, "the refusal", found=refused)
    cold = ", SOURCE_SSL = 1, GET_SOURCE_PUBLIC_KEY = 0" if tls else ", SOURCE_SSL = 0, GET_SOURCE_PUBLIC_KEY = 1"
    replicate(replica, upstream, options=cold)
    chain.workload.small()
    Chain(chain.pool, chain.workload, node).converge(replica)
    replicate(replica, upstream, options=neither)
    chain.workload.small()
    Chain(chain.pool, chain.workload, node).converge(replica)
    for state in ("cold", "warm"):
        mode = f"caching_sha2_password, {state}, {'TLS' if tls else 'RSA'}"
        works(f"{name_of(replica)} replica", mode if state == "cold" else f"{mode} before", name_of(chain.source))
    replica.stop()
    node.stop()


@pytest.mark.thorough
def test_a_source_without_checksums_is_followed(pool: Pool, works: Note) -> None:
    source = pool.server(RELEASE, {"binlog-checksum": "NONE"})
    chain = Chain(pool, Workload(source).create(), pool.node(source))
    replica = chain.replica(options={"binlog-checksum": "CRC32"})
    chain.workload.everything()
    source.sql("SET GLOBAL binlog_checksum = CRC32")
    chain.workload.everything()
    chain.converge(replica)
    works(f"{name_of(replica)} replica", "files without checksums, then with them", name_of(source))


@pytest.mark.thorough
def test_replication_filters_work_on_the_replica(chain: Chain, works: Note) -> None:
    replica = chain.pool.server(RELEASE, {"replicate-wild-do-table": "w.%"})
    replicate(replica, chain.upstream)
    chain.source.sql(
        "CREATE DATABASE other_", "CREATE TABLE other_.t (id INT PRIMARY KEY)", "INSERT INTO other_.t VALUES (1)"
    )
    chain.workload.small()
    wait_caught_up(chain.source, replica)
    found = differences(chain.source, replica)
    assert found
    assert not [one for one in found if not one.startswith("other_.t ")]
    works(f"{name_of(replica)} replica", "replication filters", name_of(chain.source))
    replica.stop()


@pytest.mark.thorough
def test_two_nodes_of_two_sources_feed_two_channels_of_one_replica(pool: Pool, works: Note) -> None:
    sources = [pool.server(RELEASE) for _ in range(2)]
    nodes = [pool.node(source) for source in sources]
    replica = pool.server(RELEASE)
    for number, node in enumerate(nodes):
        replica.sql(
            f"CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {node.port},"
            f" SOURCE_USER = '{REPLICATION_USER}', SOURCE_PASSWORD = '{REPLICATION_PASSWORD}',"
            f" SOURCE_AUTO_POSITION = 1, GET_SOURCE_PUBLIC_KEY = 1, SOURCE_CONNECT_RETRY = 1"
            f" FOR CHANNEL 'channel_{number}'",
            f"START REPLICA FOR CHANNEL 'channel_{number}'",
        )
    for round_ in range(3):
        for number, source in enumerate(sources):
            source.sql(
                f"CREATE DATABASE IF NOT EXISTS d{number}",
                f"CREATE TABLE IF NOT EXISTS d{number}.t (id INT PRIMARY KEY)",
                f"INSERT INTO d{number}.t VALUES ({round_})",
                "FLUSH BINARY LOGS",
            )
    for number, source in enumerate(sources):
        gtids = text(source.value("SELECT @@GLOBAL.gtid_executed")).replace("\n", "")
        waits = f"SELECT WAIT_FOR_EXECUTED_GTID_SET('{gtids}', 60)"
        assert replica.value(waits) == 0, replica.table("SHOW REPLICA STATUS")
        assert replica.sql(f"SELECT id FROM d{number}.t") == [(0,), (1,), (2,)]
    works(f"{name_of(replica)} replica", "two channels from two clusters", name_of(sources[0]))


@pytest.mark.thorough
def test_a_replica_goes_to_another_node_by_itself(pool: Pool, works: Note) -> None:
    """SOURCE_CONNECTION_AUTO_FAILOVER, over nodes that read from the same source."""
    source = pool.server(RELEASE)
    chain = Chain(pool, Workload(source).create(), pool.node(source))
    ids = {"source": {"server_id": 900_200}, "serve": {"server_id": 900_201}}
    second = pool.node(source, ids)
    replica = pool.server(RELEASE)
    for node, weight in ((chain.node, 80), (second, 50)):
        replica.sql(f"SELECT asynchronous_connection_failover_add_source('', '127.0.0.1', {node.port}, '', {weight})")
    replicate(replica, chain.upstream, options=", SOURCE_CONNECTION_AUTO_FAILOVER = 1, SOURCE_RETRY_COUNT = 2")
    chain.workload.everything()
    chain.converge(replica)
    chain.node.kill()
    chain.workload.small()
    # Between the two its receiver has stopped with an error, which `converge` takes for the end.
    everything = executed(source)
    wait_until(lambda: caught_up(replica, everything), 120, "the replica to read from the other node")
    Chain(pool, chain.workload, second).converge(replica)
    assert replica.table("SHOW REPLICA STATUS")[0]["Source_Port"] == second.port
    works(f"{name_of(replica)} replica", "SOURCE_CONNECTION_AUTO_FAILOVER", name_of(source))


def test_a_replica_gets_a_wrong_password_told(chain: Chain, works: Note) -> None:
    replica = chain.pool.server(RELEASE)
    replicate(replica, Upstream(chain.node.port, REPLICATION_USER, "wrong"))

    def error() -> str:
        return text(replica.table("SHOW REPLICA STATUS")[0]["Last_IO_Error"])

    wait_until(lambda: "Access denied for user" in error(), 60, "the refusal", found=error)
    replicate(replica, chain.upstream)
    chain.converge(replica)
    works(f"{name_of(replica)} replica", "auto-position", name_of(chain.source))
    replica.stop()
