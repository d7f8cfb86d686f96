"""Status, metrics and SHOW REPLICA STATUS of a node with a real source and a real replica."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import closing

import pymysql
from pymysql.cursors import DictCursor
from servers.chain import Chain

from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER, text
from kingbus_node.demo.node_process import NodeProcess
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until


def kingbus(node: NodeProcess, *arguments: str) -> str:
    url = f"http://127.0.0.1:{node.admin_port}"
    command = [sys.executable, "-m", "kingbus_node.cli", *arguments, "--admin", url]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def replicas(chain: Chain) -> list[dict[str, object]]:
    found = json.loads(kingbus(chain.node, "replicas", "list", "-o", "json"))
    assert isinstance(found, list)
    return found


def wait_for_replicas(chain: Chain, wanted: Callable[[list[dict[str, object]]], bool]) -> list[dict[str, object]]:
    """Reports come about once a second."""
    return wait_until(
        lambda: now if wanted(now := replicas(chain)) else None, 30, "the replicas", found=lambda: str(replicas(chain))
    )


def metrics(chain: Chain) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{chain.node.admin_port}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    samples = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in samples}


def ask(chain: Chain, statement: str) -> list[dict[str, object]]:
    """SQL to the node, as a DBA would say it."""
    with (
        closing(
            pymysql.connect(
                host="127.0.0.1", port=chain.node.port, user=REPLICATION_USER, password=REPLICATION_PASSWORD,
                cursorclass=DictCursor, connect_timeout=10, read_timeout=30,
            )
        ) as connection,
        connection.cursor() as cursor,
    ):  # fmt: skip
        cursor.execute(statement)
        return list(cursor.fetchall())


def test_the_replica_is_listed_and_comes_to_lag_zero(chain: Chain) -> None:
    replica = chain.replica()
    chain.workload.everything()
    chain.converge(replica)
    (one,) = wait_for_replicas(chain, lambda now: len(now) == 1 and now[0]["lag_bytes"] == 0)
    assert one["server_id"] == replica.server_id
    assert one["user"] == REPLICATION_USER
    assert one["lag_seconds"] == 0
    if chain.source.flavor is Flavor.MYSQL:
        assert one["uuid"] == text(replica.value("SELECT @@server_uuid"))
    last = chain.source.sql("SHOW BINARY LOGS")[-1]
    assert (one["file"], one["position"]) == (text(last[0]), last[1])


def test_status_and_files_are_those_of_the_source(chain: Chain) -> None:
    chain.workload.everything()
    chain.workload.flush_logs()
    chain.wait_node()

    def caught_up() -> dict[str, object] | None:
        """That nothing more is to come the reader finds a moment after all is committed."""
        now = chain.node.status()
        return now if isinstance(source := now["source"], dict) and source["lag_seconds"] == 0 else None

    status = wait_until(caught_up, 60, "no lag", found=lambda: str(chain.node.status()["source"]))
    source = status["source"]
    assert isinstance(source, dict)
    assert (source["state"], source["error"]) == ("connected", None)
    assert source["endpoint"] == f"127.0.0.1:{chain.source.port}"
    assert status["commit_index"] == status["last_index"]
    files = json.loads(kingbus(chain.node, "binlogs", "list", "-o", "json"))
    theirs = [(text(row[0]), row[1]) for row in chain.source.sql("SHOW BINARY LOGS")]
    assert [(file["name"], file["size"]) for file in files] == theirs
    assert [file["closed"] for file in files] == [True] * (len(files) - 1) + [False]


def test_a_killed_replica_comes_back_and_misses_nothing(chain: Chain) -> None:
    replica = chain.replica()
    chain.converge(replica)
    (before,) = wait_for_replicas(chain, lambda now: len(now) == 1)
    kingbus(chain.node, "replicas", "kill", str(before["id"]))
    wait_for_replicas(chain, lambda now: len(now) == 1 and now[0]["connection"] != before["connection"])
    chain.workload.everything()
    chain.converge(replica)


def test_metrics_count_what_came_and_what_went(chain: Chain) -> None:
    replica = chain.replica()
    chain.workload.everything()
    chain.converge(replica)
    wait_for_replicas(chain, lambda now: len(now) == 1 and now[0]["lag_bytes"] == 0)

    def all_counted() -> dict[str, float] | None:
        """Every fsync has committed something, which is counted a moment later. The first entry of a leader is
        nobody's proposal.
        """
        now = metrics(chain)
        commits = now["kingbus_raft_commit_seconds_count"] + now["kingbus_raft_leader_changes_total"]
        return now if commits >= now["kingbus_fsync_seconds_count"] else None

    now = wait_until(all_counted, 60, "commits to be counted", found=lambda: str(metrics(chain)))
    size = sum(int(text(row[1])) for row in chain.source.sql("SHOW BINARY LOGS"))
    assert now["kingbus_source_connected"] == 1
    assert now["kingbus_replicas"] == 1
    assert now["kingbus_source_transactions_total"] > 10
    assert 0.9 * size < now["kingbus_source_bytes_total"] < 1.1 * size + 10_000
    assert now["kingbus_store_bytes"] > 0.9 * size
    assert now["kingbus_fsync_seconds_count"] > 0
    (sent,) = (value for name, value in now.items() if name.startswith("kingbus_replica_sent_bytes_total"))
    assert sent > 0.9 * size
    chain.workload.everything()
    chain.wait_node()
    assert metrics(chain)["kingbus_source_events_total"] > now["kingbus_source_events_total"]


def test_show_replica_status_is_that_of_the_cluster_at_its_source(chain: Chain) -> None:
    chain.wait_node()
    statement = "SHOW REPLICA STATUS" if chain.source.flavor is Flavor.MYSQL else "SHOW SLAVE STATUS"
    (row,) = ask(chain, statement)
    word, replica = ("Source", "Replica") if chain.source.flavor is Flavor.MYSQL else ("Master", "Slave")
    last = chain.source.sql("SHOW BINARY LOGS")[-1]
    assert row[f"{replica}_IO_Running"] == "Yes"
    assert (row[f"{word}_Host"], row[f"{word}_Port"]) == ("127.0.0.1", chain.source.port)
    assert (row[f"{word}_Log_File"], row[f"Read_{word}_Log_Pos"]) == (text(last[0]), last[1])
    assert row["Last_IO_Error"] == ""
