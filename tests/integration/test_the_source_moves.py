"""Another server becomes the source: by command, as the next endpoint, or behind a name that points elsewhere now.

It is read from only if it has all that the cluster has, and replicas notice nothing.
"""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from servers.chain import SOURCE, Chain
from servers.compatibility import Reads
from servers.fixtures import Pool
from servers.ingest import Ingest
from servers.workload import Workload

from kingbus_node.config import Address
from kingbus_node.demo.instance import Server, text
from kingbus_node.demo.node_process import NodeProcess
from kingbus_node.demo.replication import Upstream, executed, replicate, status, wait_caught_up
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until
from kingbus_node.source.names import comes_after
from kingbus_node.source.reader import SourceState


def copy_of(source: Server, pool: Pool) -> Server:
    """A replica of the source, which writes a binlog of its own and has all that the source has by now."""
    copy = pool.server(SOURCE[source.flavor])
    replicate(copy, Upstream(source.port))
    wait_caught_up(source, copy)
    return copy


def promote(replica: Server) -> None:
    word = "REPLICA" if replica.flavor is Flavor.MYSQL else "SLAVE"
    replica.sql(f"STOP {word}", f"RESET {word} ALL")


def kingbus(node: NodeProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kingbus_node.cli", "source", *arguments]
    command += ["--admin", f"http://127.0.0.1:{node.admin_port}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def told(node: NodeProcess) -> dict[str, object]:
    """What the node says of its source."""
    source = node.status()["source"]
    assert isinstance(source, dict)
    return source


def wait_told(node: NodeProcess, **wanted: object) -> dict[str, object]:
    """Wait until the node says that of its source."""
    wait_until(
        lambda: all(told(node)[key] == value for key, value in wanted.items()),
        90,
        f"the source to be {wanted}",
        found=lambda: str(told(node)),
    )
    return told(node)


def metrics(node: NodeProcess) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{node.admin_port}/metrics", timeout=10) as response:
        content: bytes = response.read()
    return content.decode()


def served_names(node: NodeProcess) -> list[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{node.admin_port}/v1/binlogs", timeout=10) as response:
        return [str(one["name"]) for one in json.load(response)]


def assert_rising(names: list[str]) -> None:
    assert all(comes_after(name, before) for before, name in itertools.pairwise(names))
    assert len({name.rpartition(".")[0] for name in names}) == 1


def last_of(gtids: str) -> int:
    """The last number of a set with one UUID, or of a position in one domain."""
    return int(gtids.replace(":", "-").split("-")[-1])


def test_the_source_is_switched_to_a_promoted_replica_and_replicas_notice_nothing(chain: Chain, reads: Reads) -> None:
    replica = chain.replica()
    chain.workload.small()
    chain.workload.flush_logs()
    chain.workload.small()
    chain.converge(replica)
    before = served_names(chain.node)
    second = copy_of(chain.source, chain.pool)
    # The workers tell the core of their replicas a moment after these have begun.
    connections = wait_until(lambda: replica_connections(chain.node), 60, "the replica to be told of")

    promote(second)
    done = kingbus(chain.node, "switch", f"127.0.0.1:{second.port}")
    assert done.returncode == 0, done.stderr
    moved = Chain(chain.pool, chain.workload.at(second), chain.node)
    with moved.workload.in_background():
        moved.workload.small()
        moved.workload.flush_logs()
        moved.workload.random_transactions(seed=1, count=30)
    moved.converge(replica)
    after = served_names(chain.node)
    assert after[: len(before)] == before
    assert len(after) >= len(before) + 2
    assert_rising(after)
    assert replica_connections(chain.node) == connections, "the replica was not sent away"
    now = status(replica)
    assert now is not None
    assert (now.io_error, now.sql_error, now.source_file) == ("", "", after[-1])
    late = moved.replica()
    moved.converge(late)
    reads(second, "switched to, as a promoted replica, under replicas at work")


def replica_connections(node: NodeProcess) -> list[object]:
    replicas = node.status()["replicas"]
    assert isinstance(replicas, list)
    return [one["connection"] for one in replicas]


def test_a_switch_to_a_server_that_lacks_something_is_refused_with_exactly_that_unless_forced(
    chain: Chain, reads: Reads
) -> None:
    chain.workload.small(3)
    second = copy_of(chain.source, chain.pool)
    promote(second)
    has = last_of(executed(chain.source))
    chain.workload.small(4)
    chain.wait_node()
    held = chain.node.executed()
    refused = kingbus(chain.node, "switch", f"127.0.0.1:{second.port}")
    assert refused.returncode == 1
    missing = f"{held.split(':')[0]}:{has + 1}-{has + 4}" if chain.source.flavor is Flavor.MYSQL else held
    assert f"does not hold all that the log holds: it lacks {missing}. " in refused.stderr
    assert told(chain.node)["endpoint"] == f"127.0.0.1:{chain.source.port}"
    chain.workload.small(1)
    chain.wait_node()

    done = kingbus(chain.node, "switch", f"127.0.0.1:{second.port}", "--force")
    assert done.returncode == 0, done.stderr
    wait_told(chain.node, state="connected", endpoint=f"127.0.0.1:{second.port}")
    shown = json.loads(kingbus(chain.node, "show", "-o", "json").stdout)
    assert shown["settings"]["accept_missing"] == (
        f"{held.split(':')[0]}:{has + 1}-{has + 5}" if chain.source.flavor is Flavor.MYSQL else chain.node.executed()
    )
    chain.workload.at(second).small(2)
    mysql = chain.source.flavor is Flavor.MYSQL
    own = f"{text(second.value('SELECT @@server_uuid'))}:1-2" if mysql else executed(second)
    wait_until(lambda: own in chain.node.executed(), 60, f"{own} of the new source", found=chain.node.executed)
    reads(second, "lacks something at a switch: refused with exactly that, read from by force")


def test_a_switch_to_a_server_that_has_purged_what_comes_next_is_refused_even_by_force(chain: Chain) -> None:
    chain.workload.small(3)
    chain.wait_node()
    chain.node.order("POST", "/v1/source/stop")
    second = copy_of(chain.source, chain.pool)
    first = last_of(executed(chain.source)) + 1
    chain.workload.small(3)
    wait_caught_up(chain.source, second)
    purge(second)
    wanted = missing(chain, first, first + 2)
    for force in ((), ("--force",)):
        refused = kingbus(chain.node, "switch", f"127.0.0.1:{second.port}", *force)
        assert refused.returncode == 1
        assert f"has purged binary logs that are needed here: missing are {wanted}." in refused.stderr


def purge(server: Server) -> None:
    """Purge all files but a new last one."""
    server.sql("FLUSH BINARY LOGS")
    last = server.binary_logs()[-1]

    def purged() -> bool:  # MariaDB keeps files for a while that its recovery would need
        server.sql(f"PURGE BINARY LOGS TO '{last}'")
        return server.binary_logs() == [last]

    wait_until(purged, 60, f"all files before {last} to be purged")


def missing(chain: Chain, first: int, last: int) -> str:
    """Those transactions of the source, as a refusal names them."""
    if chain.source.flavor is Flavor.MYSQL:
        return f"{text(chain.source.value('SELECT @@server_uuid'))}:{first}-{last}"
    gtid = f"0-{chain.source.server_id}"
    return f"domain 0: after {gtid}-{first - 1}, up to {gtid}-{last}"


def test_purged_transactions_are_named_everywhere_until_another_endpoint_has_them(
    pool: Pool, flavor: Flavor, reads: Reads
) -> None:
    """State, status, metric, log; and it goes on by itself."""
    source = pool.server(SOURCE[flavor])
    workload = Workload(source).create()
    second = copy_of(source, pool)
    endpoints = [f"127.0.0.1:{one.port}" for one in (source, second)]
    node = pool.node(source, {"source": {"endpoints": endpoints, "retry": {"initial": "50ms", "max": "500ms"}}})
    chain = Chain(pool, workload, node)
    replica = chain.replica()
    workload.small(3)
    chain.converge(replica)
    node.stop()
    first = last_of(executed(source)) + 1
    workload.small(5)
    wait_caught_up(source, second)
    second.stop()
    purge(source)
    workload.small(2)

    node.start(ready=False)
    wanted = missing(chain, first, first + 4)
    found = wait_told(node, state="refused", missing=wanted)
    assert f"has purged binary logs that are needed here: missing are {wanted}" in str(found["error"])
    assert f"source {endpoints[0]}: the source has purged" in node.log.read_text()
    assert wanted in node.log.read_text()
    assert f'kingbus_source_missing{{gtids="{wanted}"}} 1.0' in metrics(node)
    assert 'kingbus_source_state{state="refused"} 1.0' in metrics(node)
    wait_until(lambda: f"{endpoints[1]}: cannot connect" in str(told(node)["error"]), 30, "the other to be told of")
    assert node.log.read_text().count("the source has purged") == 1, "told once, not at each attempt"

    second.start()
    wait_told(node, state="connected", endpoint=endpoints[1], missing=None, error=None)
    assert "kingbus_source_missing{" not in metrics(node)
    wait_caught_up(source, second)
    promote(second)
    moved = Chain(pool, workload.at(second), node)
    moved.workload.small(3)
    moved.converge(replica)
    reads(source, "purged what is needed: refused with the missing set, goes on by itself when an endpoint has it")


def test_the_next_endpoint_is_read_from_once_it_has_everything(pool: Pool, flavor: Flavor, reads: Reads) -> None:
    source = pool.server(SOURCE[flavor])
    workload = Workload(source).create()
    second = copy_of(source, pool)
    word = "REPLICA" if flavor is Flavor.MYSQL else "SLAVE"
    second.sql(f"STOP {word} SQL_THREAD")
    endpoints = [f"127.0.0.1:{one.port}" for one in (source, second)]
    node = pool.node(source, {"source": {"endpoints": endpoints, "retry": {"initial": "50ms", "max": "500ms"}}})
    chain = Chain(pool, workload, node)
    replica = chain.replica()
    has = last_of(executed(source))
    workload.small(5)
    chain.converge(replica)
    held = node.executed()
    wait_until(lambda: has_received(second, source), 60, "the second to have received what it does not execute")
    source.kill()
    lacking = f"{held.split(':')[0]}:{has + 1}-{has + 5}" if flavor is Flavor.MYSQL else held
    wait_told(node, state="refused", missing=lacking)
    assert node.executed() == held

    second.sql(f"START {word} SQL_THREAD")
    wait_told(node, state="connected", endpoint=endpoints[1], missing=None)
    promote(second)
    moved = Chain(pool, workload.at(second), node)
    moved.workload.small(3)
    moved.converge(replica)
    assert_rising(served_names(node))
    reads(second, "the next endpoint, when the first is gone, once it has everything")


def has_received(replica: Server, source: Server) -> bool:
    now, (name, size, *_) = status(replica), source.sql("SHOW BINARY LOGS")[-1]
    return now is not None and (now.source_file, now.read_position) == (text(name), int(text(size)))


def test_other_settings_of_the_link_take_effect_while_the_cluster_runs(chain: Chain, reads: Reads) -> None:
    """As the operator tells them: the connection is made anew, nothing is lost and nobody restarts."""

    def compression() -> object:
        shown = kingbus(chain.node, "show", "-o", "json")
        assert shown.returncode == 0, shown.stderr
        return json.loads(shown.stdout)["compression"]

    replica = chain.replica()
    best = "zstd" if chain.source.flavor is Flavor.MYSQL else "zlib"
    for allowed, wanted in ((["zstd", "zlib"], best), (["uncompressed"], None)):
        chain.node.order("PUT", "/v1/source", {"compression": allowed})
        what = f"the connection to be compressed with {wanted}"
        wait_until(lambda wanted=wanted: compression() == wanted, 60, what)  # type: ignore[misc]
        chain.workload.small()
        chain.converge(replica)
    reads(chain.source, "compression: changed while the cluster runs")


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Names, each of a port of loopback: what a name server would answer in this process, and a moment later."""
    known: dict[str, int] = {}
    look_up = socket.getaddrinfo

    def answer(host: str, port: int, *rest: int, **more: int) -> object:
        return look_up("127.0.0.1", known[host], *rest, **more) if host in known else look_up(host, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return known


def test_a_name_that_moves_is_followed_to_a_server_that_has_everything(
    names: dict[str, int], pool: Pool, flavor: Flavor, tmp_path: Path, reads: Reads
) -> None:
    source = pool.server(SOURCE[flavor])
    work = Workload(source).create()
    second, stranger = copy_of(source, pool), pool.server(SOURCE[flavor])
    names["db.example"] = source.port
    ingest = Ingest(tmp_path / "ingest", source)
    with ingest.running(endpoints=[Address("db.example", 3306)]) as running:
        work.small()
        running.wait_all()
        held = str(running.log.state.executed)
        wait_caught_up(source, second)
        promote(second)

        names["db.example"] = stranger.port  # a mistake of somebody's
        source.stop()
        refused = running.wait_for(SourceState.REFUSED)
        assert refused.missing == held
        assert "it lacks" in (refused.error or "")
        assert str(running.log.state.executed) == held

        file = second.data / second.binary_logs()[-1]
        before = file.stat().st_size
        names["db.example"] = second.port
        work.at(second).small(5)
        wait_until(lambda: str(running.log.state.executed) == executed(second), 60, "what the second has written")
        stored = running.files(served=True)
        assert_rising(list(stored))
        assert list(stored.values())[-1].endswith(file.read_bytes()[before:])
    reads(second, "a name that moves to another server")
