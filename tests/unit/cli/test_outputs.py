"""What the commands print, for people on a terminal and through a pipe, against kept texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import golden
import pytest
from click.testing import CliRunner
from unit.admin.fakes import REPLICA, STATUS, FakeControl, FakeNode
from unit.admin.test_admin_http import serving

from kingbus_node.admin.views import Copying, Member, Refused, Replica
from kingbus_node.cli import main

KEPT = Path(__file__).parent / "outputs"

MEMBERS = [
    Member("node-1", "10.0.0.1:7401", "leader", 1204331, True, 10, "http://10.0.0.1:8080"),
    Member("node-2", "10.0.0.2:7401", "follower", 1204331, True, 0, None),
    Member("node-3", "10.0.0.3:7401", "learner", None, False, 0, None, True),
]
BEHIND: Replica = replace(
    REPLICA, id="4e11fa47-71ca-11e1-9e33-c80aa9429562", server_id=3, lag_bytes=5 * 2**20, lag_seconds=400.0, user="cdc"
)
NOW = replace(
    STATUS,
    members=MEMBERS,
    replicas=[REPLICA, BEHIND],
    storage=replace(STATUS.storage, oldest=None),
    silent=["node-3"],
    ready=False,
    reasons=["this node is not in touch with a quorum"],
    suspended="its disk is full",
    copying=Copying("node-2", 30 << 20, 120 << 20),
)


@pytest.fixture
def control() -> FakeControl:
    return FakeControl()


@pytest.fixture
def url(control: FakeControl) -> Iterator[str]:
    """A node whose fellow members have no address at which they could be asked."""
    with serving(FakeNode(NOW), control=control) as server:
        yield f"http://{server.address}"


def run(url: str, *arguments: str, terminal: bool = False) -> tuple[int, str, str]:
    environment: Mapping[str, str] = {
        "KINGBUS_ADMIN": url,
        "COLUMNS": "110",
        **({"FORCE_COLOR": "1", "TERM": "xterm", "TTY_COMPATIBLE": "1"} if terminal else {}),
    }
    result = CliRunner(env=environment).invoke(main, arguments)
    return result.exit_code, result.stdout, result.stderr


COMMANDS = {
    "status": ("status",),
    "status-yaml": ("status", "-o", "yaml"),
    "members-list": ("members", "list"),
    "members-add": ("members", "add", "10.0.0.4:7401", "--role", "learner"),
    "leader-show": ("leader", "show"),
    "leader-transfer": ("leader", "transfer", "node-2"),
    "source-show": ("source", "show"),
    "source-show-json": ("source", "show", "-o", "json"),
    "source-set": ("source", "set", "--no-semi-sync", "--tls-mode", "required", "--retry-max", "20s"),
    "source-switch": ("source", "switch", "db2:3306", "db3:3306", "--force", "--user", "other"),
    "replicas-list": ("replicas", "list"),
    "binlogs-list": ("binlogs", "list"),
    "binlogs-purge": ("binlogs", "purge", "--to", "binlog.000002"),
    "gtid-executed": ("gtid", "executed"),
    "gtid-purged": ("gtid", "purged"),
}
TOLD = {"replicas-list": "node-2, node-3 did not answer: replicas connected there are not shown\n"}
"""On standard error."""


@pytest.mark.parametrize("name", COMMANDS)
def test_through_a_pipe(name: str, url: str) -> None:
    code, out, err = run(url, *COMMANDS[name])
    assert (code, err) == (0, TOLD.get(name, ""))
    assert "\x1b" not in out
    golden.check(KEPT / f"{name}.txt", out.replace(url, "http://node"))


@pytest.mark.parametrize("name", ["status", "members-list", "source-show", "replicas-list"])
def test_on_a_terminal(name: str, url: str) -> None:
    code, out, err = run(url, *COMMANDS[name], terminal=True)
    assert (code, err) == (0, TOLD.get(name, ""))
    assert "\x1b[" in out
    golden.check(KEPT / f"{name}.terminal.txt", "".join(line.rstrip() + "\n" for line in out.splitlines()))


@pytest.mark.parametrize("arguments", [("source", "stop"), ("source", "start"), ("members", "remove", "node-2")])
def test_an_order_that_was_carried_out_prints_nothing(arguments: tuple[str, ...], url: str) -> None:
    assert run(url, *arguments) == (0, "", "")


def test_orders_are_what_was_said(url: str, control: FakeControl) -> None:
    for name in ("members-add", "leader-transfer", "source-set", "source-switch", "binlogs-purge"):
        assert run(url, *COMMANDS[name])[0] == 0
    assert [order for order in control.told if order != ("source",)] == [
        ("add", "", "10.0.0.4:7401", "learner", 0),
        ("transfer", "node-2"),
        ("set", {"semi_sync": False, "tls": {"mode": "required"}, "retry": {"max": "20s"}}),
        ("switch", {"endpoints": ["db2:3306", "db3:3306"], "user": "other"}, True),
        ("purge", "binlog.000002", None),
    ]


def test_a_refusal_is_one_sentence_on_standard_error(url: str, control: FakeControl) -> None:
    control.refusal = Refused(409, "db2:3306 does not hold all that the log holds: it lacks u:7-8", missing="u:7-8")
    code, out, err = run(url, "source", "switch", "db2:3306")
    assert (code, out) == (1, "")
    assert err == f"Error: {url}: db2:3306 does not hold all that the log holds: it lacks u:7-8\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("source", "set"), ("source", "switch"), ("binlogs", "purge"),
        ("binlogs", "purge", "--to", "a", "--before", "1d"),
        ("binlogs", "purge", "--before", "soon"), ("binlogs", "export"), ("binlogs", "export", "a", "--all"),
        ("members", "add", "a:1", "--role", "king"), ("gtid", "subtract", "a", "b"), ("gtid", "contains", "0-1-1"),
        ("gtid", "contains", "3e11fa47-71ca-11e1-9e33-c80aa9429562:1", "0-1-1"), ("binlogs", "events"),
    ],
)  # fmt: skip
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...], url: str) -> None:
    code, out, err = run(url, *arguments)
    assert (code, out) == (2, "")
    assert "Error: " in err


UUID = "3e11fa47-71ca-11e1-9e33-c80aa9429562"


@pytest.mark.parametrize(
    ("a", "b", "difference", "contained"),
    [
        (f"{UUID}:1-5", f"{UUID}:2-3", f"{UUID}:1:4-5", True),
        (f"{UUID}:1-5", f"{UUID}:1-9", "", False),
        (f"{UUID}:1-5:tag:1-3", f"{UUID}:tag:2", f"{UUID}:1-5:tag:1:3", True),
        (f"{UUID}:1-5", "", f"{UUID}:1-5", True),
        ("", f"{UUID}:1", "", False),
        ("0-1-5,1-1-3", "0-2-4", "0-1-5,1-1-3", True),
        ("0-1-5", "0-1-5,1-1-1", "", False),
        ("0-1-5", "", "0-1-5", True),
    ],
)
def test_sums_with_gtid_sets(a: str, b: str, difference: str, contained: bool) -> None:
    assert run("http://127.0.0.1:1", "gtid", "subtract", a, b) == (0, f"{difference}\n", "")
    answer = (0, "yes\n", "") if contained else (1, "no\n", "")
    assert run("http://127.0.0.1:1", "gtid", "contains", a, b) == answer


@pytest.mark.parametrize("terminal", [True, False])
def test_what_a_replica_says_of_itself_moves_no_cursor_and_makes_no_row(terminal: bool) -> None:
    """Any text may be a replica's uuid (SET @replica_uuid), and its version."""
    bad = replace(REPLICA, id="\x1b]0;owned\x07\n3e11fa47 10.8.8.8 root", version="\x9b2J\r8.0")
    with serving(FakeNode(replace(NOW, members=[], replicas=[bad]))) as server:
        for command in (("replicas", "list"), ("status",)):
            code, printed, _ = run(f"http://{server.address}", *command, terminal=terminal)
            assert code == 0
            assert not [control for control in ("\x1b]", "\x07", "\x9b", "\r") if control in printed]
            if not terminal:
                (row,) = [line for line in printed.splitlines() if "10.8.8.8" in line]
                assert row.startswith(r"\x1b]0;owned\x07\x0a3e11fa47 10.8.8.8 root")


@pytest.mark.parametrize("form", ["table", "json", "yaml"])
def test_a_list_of_replicas_says_whose_are_not_in_it(url: str, form: str) -> None:
    code, printed, told = run(url, "replicas", "list", "-o", form)
    assert code == 0
    assert REPLICA.id in printed
    assert "node-3" not in printed
    assert told == TOLD["replicas-list"]
