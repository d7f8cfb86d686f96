"""Three real nodes and the command line: whichever node is asked, the cluster does it and tells the same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing

import pymysql
import pytest
from servers.ensemble import Ensemble
from servers.fixtures import Pool

from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER, Server, connect, text
from kingbus_node.demo.node_process import NodeProcess
from kingbus_node.demo.replication import Upstream, executed, replicate, wait_caught_up
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until

SETTINGS = {"raft": {"election_timeout": "4s"}}  # no other leader than the one that is asked for, on a busy machine


@pytest.fixture(scope="module")
def shared(module_pool: Pool) -> Ensemble:
    """A MySQL source and three nodes."""
    return Ensemble.start(module_pool, Flavor.MYSQL, settings=SETTINGS)


def run(node: NodeProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kingbus_node.cli", *arguments]
    command += ["--admin", f"http://127.0.0.1:{node.admin_port}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def kingbus(node: NodeProcess, *arguments: str) -> str:
    done = run(node, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def told(node: NodeProcess, *arguments: str) -> object:
    value: object = json.loads(kingbus(node, *arguments, "-o", "json"))
    return value


def rows(node: NodeProcess, *arguments: str) -> list[dict[str, object]]:
    found = told(node, *arguments)
    assert isinstance(found, list)
    return found


def part(node: NodeProcess, name: str, *arguments: str) -> dict[str, object]:
    found = told(node, *arguments)
    assert isinstance(found, dict)
    inner = found[name]
    assert isinstance(inner, dict)
    return inner


def transfer(ensemble: Ensemble, asked: NodeProcess, *to: str) -> str:
    """What the command says, once every node knows the new leader: until then a follower may send orders to the old."""
    said = kingbus(asked, "leader", "transfer", *to)

    def known() -> set[object]:
        return {node.status(local=True)["leader"] for node in ensemble.cluster.nodes}

    eventually(lambda: known() == {said.removesuffix(" leads\n")}, f"all to know that {said}", known)
    return said


def eventually(condition: Callable[[], bool], what: str, found: Callable[[], object]) -> None:
    wait_until(condition, 90, what, interval=0.1, found=lambda: str(found()))


def test_every_node_names_the_same_members_and_leader(shared: Ensemble) -> None:
    leader = shared.leader
    for node in shared.cluster.nodes:

        def all_known(node: NodeProcess = node) -> bool:
            return all(
                one["connected"] and one["admin"] and one["match_index"] for one in rows(node, "members", "list")
            )

        eventually(all_known, "all members to be known", lambda node=node: rows(node, "members", "list"))  # type: ignore[misc]
        members = rows(node, "members", "list")
        assert [one["name"] for one in members if one["role"] == "leader"] == [leader.name]
        assert {one["name"]: one["address"] for one in members} == {
            node.name: f"127.0.0.1:{node.raft_port}" for node in shared.cluster.nodes
        }
        wanted = leader.name, f"http://127.0.0.1:{leader.admin_port}"

        def shown(node: NodeProcess = node) -> tuple[object, object]:
            """As this node knows it: those above are as the leader does."""
            found = told(node, "leader", "show")
            assert isinstance(found, dict)
            return found["leader"], found["admin"]

        eventually(lambda shown=shown, wanted=wanted: shown() == wanted, f"the leader to be {wanted}", shown)  # type: ignore[misc]

        def source(node: NodeProcess = node) -> object:
            """The leader is not waited for when it does not answer in time."""
            return part(node, "source", "status")["state"]

        eventually(lambda source=source: source() == "connected", "the source to be connected", source)  # type: ignore[misc]


def test_the_leadership_goes_where_a_follower_is_told_to_send_it(shared: Ensemble) -> None:
    leader = shared.leader
    one, other = shared.cluster.followers(leader)
    assert transfer(shared, one, other.name) == f"{other.name} leads\n"
    assert shared.cluster.wait_leader() is other
    refused = run(one, "leader", "transfer", "nobody")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "nobody" in refused.stderr
    shared.workload.small()
    shared.settle()


def test_replicas_of_all_nodes_are_listed_and_killed_from_any(shared: Ensemble) -> None:
    leader = shared.leader
    one, other = shared.cluster.followers(leader)
    replicas = {node.name: shared.replica(node) for node in (leader, one)}
    uuids = {name: text(replica.value("SELECT @@server_uuid")) for name, replica in replicas.items()}

    def listed() -> dict[str, tuple[str, object]]:
        return {str(row["node"]): (str(row["id"]), row["connection"]) for row in rows(other, "replicas", "list")}

    def all_listed() -> dict[str, object] | None:
        """Their connections, of the same answer: a node that does not answer in time is left out of the next one."""
        now = listed()
        return dict(now.values()) if {name: uuid for name, (uuid, _) in now.items()} == uuids else None

    before = wait_until(all_listed, 90, f"the replicas {uuids}", interval=0.1, found=lambda: str(listed()))
    victim = uuids[one.name]

    def killed() -> bool:
        """A node that does not answer in time is told again."""
        done = run(other, "replicas", "kill", victim)
        assert done.returncode == 0 or f"no replica '{victim}' is connected" in done.stderr, done.stderr
        return done.returncode == 0

    eventually(killed, "the replica to be killed", listed)

    def back() -> bool:
        now = {row["id"]: row["connection"] for row in rows(leader, "replicas", "list")}
        return now.get(victim) not in (None, before[victim]) and len(now) == 2

    eventually(back, "the replica to be back on another connection", lambda: rows(leader, "replicas", "list"))
    shared.workload.small()
    shared.converge(*replicas.values())


def ask(node: NodeProcess, statement: str) -> list[tuple[object, ...]]:
    connection = connect(node.port, user=REPLICATION_USER, password=REPLICATION_PASSWORD)
    with closing(connection), connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())


def test_binlogs_are_purged_by_sql_on_any_node(shared: Ensemble) -> None:
    """A DBA at a follower need not know which node leads, and gets the errors that the leader has."""
    for _ in range(4):
        shared.workload.small()
        shared.workload.flush_logs()
    shared.settle()
    files = [str(row[0]) for row in ask(shared.leader, "SHOW BINARY LOGS")]
    follower = shared.follower

    def purged() -> bool:
        """What a replica still reads stays, and the replicas of other tests may have come as far a moment ago only."""
        ask(follower, f"PURGE BINARY LOGS TO '{files[1]}'")
        return str(ask(follower, "SHOW BINARY LOGS")[0][0]) == files[1]

    eventually(purged, "the purge to take effect where it was asked for", lambda: ask(follower, "SHOW BINARY LOGS"))
    assert str(ask(shared.leader, "SHOW BINARY LOGS")[0][0]) == files[1]
    ask(follower, "PURGE BINARY LOGS BEFORE '2000-01-01'")
    for node in (follower, shared.leader):
        with pytest.raises(pymysql.MySQLError) as refused:
            ask(node, f"PURGE BINARY LOGS TO '{files[0]}'")
        assert refused.value.args == (1373, "Target log not found in binlog index")

    def all_purged() -> bool:
        ask(follower, "PURGE BINARY LOGS BEFORE NOW() + INTERVAL 1 DAY")
        return [str(row[0]) for row in ask(follower, "SHOW BINARY LOGS")] == files[-1:]

    eventually(all_purged, "all but the last file to go", lambda: ask(follower, "SHOW BINARY LOGS"))


def source_status(node: NodeProcess) -> dict[str, object]:
    connection = connect(node.port, user=REPLICATION_USER, password=REPLICATION_PASSWORD)
    with closing(connection), connection.cursor() as cursor:
        cursor.execute("SHOW REPLICA STATUS")
        (row,) = cursor.fetchall()
        return dict(zip([column[0] for column in cursor.description], row, strict=True))


def test_every_node_tells_by_sql_how_the_cluster_stands_with_its_source(shared: Ensemble) -> None:
    shared.settle()
    wanted = {
        "Replica_IO_Running": "Yes",
        "Last_IO_Error": "",
        "Source_Port": shared.source.port,
        "Seconds_Behind_Source": 0,  # once the reader has looked whether there is more
        "Executed_Gtid_Set": executed(shared.source),
    }
    for node in shared.cluster.nodes:

        def tells(node: NodeProcess = node) -> dict[str, object]:
            status = source_status(node)
            status["Executed_Gtid_Set"] = str(status["Executed_Gtid_Set"]).replace("\n", "")
            return {name: status[name] for name in wanted}

        eventually(lambda tells=tells: tells() == wanted, f"{node.name} to tell {wanted}", tells)  # type: ignore[misc]


def test_a_source_that_is_stopped_stays_so_under_the_next_leader(shared: Ensemble) -> None:
    shared.settle()
    asked = shared.follower
    kingbus(asked, "source", "stop")
    assert part(asked, "settings", "source", "show")["stopped"] is True

    def state() -> object:
        """The reader ends a moment after the command."""
        return part(asked, "status", "source", "show")["state"]

    eventually(lambda: state() == "stopped", "the source to be stopped", state)
    before = executed(shared.source)
    shared.workload.small()
    transfer(shared, asked)
    eventually(lambda: state() == "stopped", "the source to be stopped", state)
    assert {node.executed() for node in shared.cluster.nodes} == {before}

    def running() -> dict[str, str]:
        return {node.name: str(source_status(node)["Replica_IO_Running"]) for node in shared.cluster.nodes}

    eventually(lambda: set(running().values()) == {"No"}, "every node to tell that the source is stopped", running)
    kingbus(asked, "source", "start")
    shared.settle()


def test_settings_are_those_of_the_cluster_and_outlive_the_leader(shared: Ensemble) -> None:
    asked = shared.follower
    kingbus(asked, "source", "set", "--retry-max", "2s", "--no-semi-sync")
    transfer(shared, asked)

    def settings() -> tuple[object, object]:
        """A new leader tells what it knows to be committed, which is everything when its first entry is."""
        now = part(asked, "settings", "source", "show")
        return now["retry"], now["semi_sync"]

    eventually(lambda: settings() == ({"initial": 0.05, "max": 2.0}, False), "the settings to be those", settings)
    refused = run(asked, "source", "set", "--retry-max", "soon")
    assert refused.returncode == 1
    assert "source.retry.max: 'soon': expected a duration" in refused.stderr
    shared.workload.small()
    shared.settle()


def test_the_source_is_switched_to_a_replica_of_it_and_not_to_one_that_lacks_something(pool: Pool) -> None:
    ensemble = Ensemble.start(pool, Flavor.MYSQL, settings=SETTINGS)
    second, stranger = pool.server("mysql-9.7", {"log-replica-updates": "ON"}), pool.server("mysql-9.7")
    replicate(second, Upstream(ensemble.source.port))
    wait_caught_up(ensemble.source, second)
    ensemble.settle()
    asked = ensemble.follower

    refused = run(asked, "source", "switch", f"127.0.0.1:{stranger.port}")
    assert refused.returncode == 1
    uuid = text(ensemble.source.value("SELECT @@server_uuid"))
    assert "does not hold all that the log holds: it lacks" in refused.stderr
    assert uuid in refused.stderr
    assert part(asked, "status", "source", "show")["endpoint"] == f"127.0.0.1:{ensemble.source.port}"

    unreachable = run(asked, "source", "switch", "127.0.0.1:1")
    assert unreachable.returncode == 1
    assert "the new source cannot be asked" in unreachable.stderr
    ensemble.workload.small()
    ensemble.settle()

    wait_caught_up(ensemble.source, second)
    kingbus(asked, "source", "switch", f"127.0.0.1:{second.port}")
    promote(second)
    second.sql("CREATE DATABASE after_switch", "CREATE TABLE after_switch.t (a INT PRIMARY KEY)")
    second.sql("INSERT INTO after_switch.t VALUES (1)")
    ensemble.wait_held(executed(second), *ensemble.cluster.nodes)
    there = f"127.0.0.1:{second.port}"
    for node in ensemble.cluster.nodes:

        def endpoint(node: NodeProcess = node) -> object:
            """The leader is not waited for when it does not answer in time."""
            return part(node, "source", "status")["endpoint"]

        eventually(lambda endpoint=endpoint: endpoint() == there, f"{node.name} to name {there}", endpoint)  # type: ignore[misc]

    stranger.sql("CREATE DATABASE of_the_stranger")
    kingbus(asked, "source", "switch", f"127.0.0.1:{stranger.port}", "--force")
    settings = part(asked, "settings", "source", "show")
    assert uuid in str(settings["accept_missing"])
    eventually(
        lambda: text(stranger.value("SELECT @@server_uuid")) in asked.executed(), "the stranger's transactions",
        lambda: told(asked, "source", "show"),
    )  # fmt: skip


def promote(replica: Server) -> None:
    replica.sql("STOP REPLICA", "RESET REPLICA ALL")


def test_a_node_is_added_and_removed_while_rows_flow(pool: Pool) -> None:
    ensemble = Ensemble.start(pool, Flavor.MYSQL, settings=SETTINGS)
    leader = ensemble.leader
    with ensemble.workload.in_background():
        joining = NodeProcess(
            ensemble.source, leader.folder.parent / "node-4", name="node-4",
            settings={"raft": {**SETTINGS["raft"], "join": True}},
        )  # fmt: skip
        joining.peers = tuple(node.raft_address for node in ensemble.cluster.nodes)
        ensemble.cluster.nodes.append(joining)
        joining.launch()
        asked = ensemble.follower
        kingbus(asked, "members", "add", f"127.0.0.1:{joining.raft_port}", "--name", "node-4")

        def votes() -> bool:
            return {row["name"]: row["role"] for row in rows(asked, "members", "list")}.get("node-4") == "follower"

        eventually(votes, "node-4 to vote", lambda: rows(asked, "members", "list"))
        refused = run(asked, "members", "add", f"127.0.0.1:{joining.raft_port}")
        assert refused.returncode == 1
        assert "member" in refused.stderr
    ensemble.settle()
    kingbus(asked, "members", "remove", "node-4")
    eventually(
        lambda: len(rows(asked, "members", "list")) == 3, "three members", lambda: rows(asked, "members", "list")
    )
    joining.kill()
    ensemble.cluster.nodes.remove(joining)
    ensemble.workload.small()
    ensemble.settle()
