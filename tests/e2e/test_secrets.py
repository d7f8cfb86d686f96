"""Credentials that change, that are wrong, that are not there."""

from __future__ import annotations

import pymysql

from e2e.world import PASSWORD, READER, Stage, connected, kubectl
from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER
from kingbus_node.demo.replication import status
from kingbus_node.demo.waiting import wait_until

_ACCESS_DENIED = 1045


def _may_log_in(stage: Stage, user: str, password: str) -> bool:
    """Whether the leader Service lets somebody in."""
    try:
        pymysql.connect(
            host=f"{stage.name}.{stage.where}", user=user, password=password, ssl={"check_hostname": False}
        ).close()
    except pymysql.err.OperationalError as error:
        if error.args[0] == _ACCESS_DENIED:
            return False
        raise
    return True


def test_the_password_of_replicas_changes(running: Stage) -> None:
    restarts = running.restarts()
    connections = len(connected(running.replicas[0]))

    with running.load():
        running.secret("orders-replicas", **{READER: "another"})
        running.wait(lambda: _may_log_in(running, READER, "another"), "the new password to be taken")
        # Each serve process looks at the users once a second, for itself.
        running.wait(lambda: not _may_log_in(running, READER, PASSWORD), "the old password to be refused")
        running.catch_up()
        assert len(connected(running.replicas[0])) == connections, "the connection that is fine stays"
    running.replicas[0].sql("STOP REPLICA", "CHANGE REPLICATION SOURCE TO SOURCE_PASSWORD = 'another'", "START REPLICA")
    running.converges()
    assert running.restarts() == restarts, "no pod was restarted"


def test_another_user_of_the_source(running: Stage) -> None:
    restarts = running.restarts()
    running.source.sql(
        "CREATE USER other IDENTIFIED BY 'different'", "GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO other"
    )

    with running.load():
        running.secret("orders-source", username="other", password="different")
        # The connection that is there stays; the next one is made with what is in the Secret then.
        assert set(running.dumps().values()) == {REPLICATION_USER}
        running.source.sql(f"ALTER USER {REPLICATION_USER} ACCOUNT LOCK")
        running.drop_dumps()
        running.wait(lambda: "other" in running.dumps().values(), "the leader to connect as another user")

    assert running.restarts() == restarts, "no pod was restarted"
    running.wait(lambda: running.condition("SourceConnected").get("status") == "True", "the operator to say so")


def test_a_wrong_password_of_the_source_is_told_and_put_right(stage: Stage) -> None:
    stage.secret("orders-source", username=REPLICATION_USER, password="wrong")
    stage.apply(stage.manifest())

    stage.wait(
        lambda: "Access denied" in str(stage.condition("SourceConnected").get("message")), "the refusal to be told"
    )
    assert stage.condition("SourceConnected")["status"] == "False"
    stage.secret("orders-source", username=REPLICATION_USER, password=REPLICATION_PASSWORD)

    stage.wait_settled(3)
    stage.wait(lambda: stage.condition("SourceConnected").get("status") == "True", "the source to be connected")
    stage.replica()
    stage.converges()


def test_a_missing_secret_and_a_missing_key_are_named(stage: Stage) -> None:
    kubectl("delete", "secret", "orders-source", "-n", stage.where)
    stage.apply(stage.manifest())

    stage.wait(lambda: "orders-source" in str(stage.condition("Degraded").get("message")), "the Secret to be named")
    stage.secret("orders-source", username=REPLICATION_USER)
    stage.wait(
        lambda: all(word in str(stage.condition("Degraded").get("message")) for word in ("orders-source", "password")),
        "the missing key to be named",
    )
    stage.secret("orders-source", username=REPLICATION_USER, password=REPLICATION_PASSWORD)

    stage.wait_settled(3)
    stage.replica()
    stage.converges()


def test_a_replica_with_a_wrong_password_stays_outside(running: Stage) -> None:
    stranger = running.replica()
    stranger.sql("STOP REPLICA", "CHANGE REPLICATION SOURCE TO SOURCE_PASSWORD = 'wrong'", "START REPLICA")

    def refused() -> bool:
        now = status(stranger)
        return now is not None and "Access denied" in now.io_error

    wait_until(refused, 60, "the refusal")
    running.replicas.remove(stranger)
    running.converges()
