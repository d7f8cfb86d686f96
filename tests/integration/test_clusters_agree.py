"""Several nodes on real sockets and disks: they agree on one log, and lose nothing that was committed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from clusters.lab import Lab, Node, contents, note, notes, soon, until
from unit.store.samples import Source, executed

from kingbus_node.raft.api import ConsensusClosedError, Leadership, NotLeaderError
from kingbus_node.raft.errors import ChangeRefusedError


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path) as lab:
        yield lab


def test_three_nodes_hold_the_same_log(lab: Lab) -> None:
    lab.found(3)
    leader = lab.leader()
    texts = [f"entry {number}" for number in range(300)]
    last = 0
    for text in texts:
        last = leader.cluster.propose([note(text)])
    assert leader.cluster.wait_committed(last, soon())
    lab.check_equal()
    for node in lab.up():
        assert notes(node.log) == texts
        assert node.cluster.term == leader.cluster.term
        until(lambda told=node.cluster: told.leader == leader.name and told.in_touch, "it knows the leader by name")  # type: ignore[misc]
        # The leader may write down a name meanwhile: it commits that by itself.
        until(lambda log=node.log: log.visible_index == log.last_index, "all that is there can be read")  # type: ignore[misc]
    follower = next(node for node in lab.up() if node is not leader)
    with pytest.raises(NotLeaderError) as refused:
        follower.cluster.propose([note("not here")])
    assert refused.value.leader == leader.name
    with pytest.raises(NotLeaderError):
        leader.cluster.propose([note("in another term")], term=leader.cluster.term + 1)


def test_one_node_commits_alone(lab: Lab) -> None:
    (node,) = lab.found(1)
    seen: list[Leadership | None] = []
    commits: list[int] = []
    node.cluster.add_leadership_listener(seen.append)
    node.cluster.add_commit_listener(commits.append)
    lab.write("alone")
    until(lambda: seen[-1:] == [Leadership(1, ready=True)], "leadership is told")
    until(lambda: commits[-1:] == [node.log.commit_index], "the commit is told")
    node.stop()
    assert seen[-1] is None
    with pytest.raises(ConsensusClosedError):
        node.cluster.propose([note("closed")])
    node.start()
    lab.write("again")
    assert notes(node.log) == ["alone", "again"]


def test_a_leader_that_ends_is_replaced_and_comes_back_as_a_follower(lab: Lab) -> None:
    lab.found(3)
    first = lab.write("before")
    begun = time.monotonic()
    first.stop()
    second = lab.write("while it is away")
    assert second is not first
    assert time.monotonic() - begun < 60
    first.start()
    lab.write("after")
    lab.check_equal()
    assert notes(first.log) == ["before", "while it is away", "after"]


def test_nothing_is_committed_without_a_majority_and_the_leader_steps_down(lab: Lab) -> None:
    nodes = lab.found(3)
    leader = lab.write("together")
    others = [node for node in nodes if node is not leader]
    contacts: list[bool] = []
    leader.cluster.add_contact_listener(contacts.append)
    lab.network.part([leader.address], [node.address for node in others])
    lost = leader.cluster.propose([note("alone")])
    with pytest.raises(NotLeaderError):
        leader.cluster.wait_committed(lost, soon())
    assert not leader.cluster.is_leader
    until(lambda: not leader.cluster.in_touch and contacts[-1:] == [False], "the loss of contact is told")
    new = lab.leader(others)
    index = new.cluster.propose([note("the others")])
    assert new.cluster.wait_committed(index, soon())
    with pytest.raises(NotLeaderError):
        leader.cluster.wait_committed(lost, soon())  # however late it is asked
    lab.network.heal()
    lab.write("together again")
    lab.check_equal()
    assert notes(leader.log) == ["together", "the others", "together again"]
    until(lambda: leader.cluster.in_touch and contacts[-1:] == [True], "contact is told")


def test_a_node_that_comes_back_does_not_disturb_the_leader(lab: Lab) -> None:
    nodes = lab.found(3)
    leader = lab.write("before")
    outsider = next(node for node in nodes if node is not leader)
    lab.network.part([outsider.address], [node.address for node in nodes if node is not outsider])
    until(lambda: not outsider.cluster.in_touch, "the outsider notices")
    lab.write("without it")
    term = leader.cluster.term
    lab.network.heal()
    until(lambda: outsider.cluster.in_touch, "the outsider is back")
    lab.settle()
    assert leader.cluster.is_leader
    assert leader.cluster.term == outsider.cluster.term == term


def test_connections_that_break_lose_nothing(lab: Lab) -> None:
    nodes = lab.found(3, election_timeout=0.5)  # another leader now and then is welcome
    lab.write("start")
    over = threading.Event()
    written: list[str] = []

    def work() -> None:
        while not over.is_set():
            text = f"entry {len(written)}"
            lab.write(text, size=2000)
            written.append(text)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for number in range(30):
            goal = len(written) + 3
            until(lambda goal=goal: len(written) >= goal or not worker.is_alive(), "writes go on")  # type: ignore[misc]
            assert worker.is_alive()
            lab.network.cut(nodes[number % 3].address)
    finally:
        over.set()
        worker.join()
    lab.check_equal()
    found = notes(nodes[0].log)
    assert list(dict.fromkeys(found)) == ["start", *written]  # a leader that was deposed may have committed one before


def test_leadership_is_handed_over_at_once(lab: Lab) -> None:
    nodes = lab.found(3)
    old = lab.write("before")
    target = next(node for node in nodes if node is not old)
    assert old.cluster.transfer(target.name, soon()) == target.name
    assert lab.leader() is target
    assert not old.cluster.is_leader
    with pytest.raises(NotLeaderError):
        old.cluster.transfer(None, soon())
    with pytest.raises(ChangeRefusedError, match="there is no member nobody"):
        target.cluster.transfer("nobody", soon())
    again = target.cluster.transfer(None, soon())
    assert again in {node.name for node in nodes} - {target.name}
    lab.write("after")
    lab.check_equal()


def test_a_suspended_leader_hands_over_and_does_not_lead_until_it_may(lab: Lab) -> None:
    lab.found(3)
    old = lab.write("before")
    old.cluster.suspend("its disk is full")
    until(lambda: not old.cluster.is_leader, "it hands over")
    assert old.cluster.suspended == "its disk is full"
    new = lab.write("after")
    assert new is not old
    with pytest.raises((ChangeRefusedError, NotLeaderError)):
        new.cluster.transfer(old.name, soon())
    old.cluster.suspend(None)
    until(lambda: old.cluster.suspended is None, "it may lead again")
    leader = lab.write("ready")
    if leader is not old:
        assert leader.cluster.transfer(old.name, soon()) == old.name


def test_priority_draws_leadership_and_a_witness_is_never_preferred(lab: Lab) -> None:
    addresses = [lab.network.door() for _ in range(3)]
    priorities = {addresses[0]: 5, addresses[1]: 0, addresses[2]: -1}
    for address in addresses:
        lab.add(address, addresses, priority=priorities[address], election_timeout=0.3).start()
    preferred = lab.nodes[addresses[0]]
    until(lambda: preferred.cluster.is_leader, "leadership drifts to the highest priority")
    lab.write("written down")
    until(
        lambda: (
            {m.name: (m.role, m.priority) for m in lab.nodes[addresses[1]].cluster.members()}
            == {"node-1": ("voter", 5), "node-2": ("voter", 0), "node-3": ("witness", -1)}
        ),
        "everybody knows names and priorities",
    )
    preferred.stop()
    until(lambda: lab.nodes[addresses[1]].cluster.is_leader, "a witness leads only until somebody else can")


def test_a_cluster_grows_from_one_to_three_and_shrinks_to_two(lab: Lab) -> None:
    (first,) = lab.found(1)
    lab.write(*(f"alone {number}" for number in range(50)), size=1000)
    joining = []
    for _ in range(2):
        address = lab.network.door()
        node = lab.add(address, [first.address, address]).start()
        first.cluster.add_member(node.name, address, deadline=soon())
        until(lambda a=address: any(m.address == a and m.role == "voter" for m in first.cluster.members()), "it votes")  # type: ignore[misc]
        joining.append(node)
    lab.write("together")
    lab.check_equal()
    assert [m.role for m in joining[1].cluster.members()] == ["voter"] * 3
    with pytest.raises(ChangeRefusedError, match="is a member already"):
        first.cluster.add_member(joining[0].name, joining[0].address, deadline=soon())
    with pytest.raises(ChangeRefusedError, match="there is no member nobody"):
        first.cluster.remove_member("nobody", soon())
    leader = lab.leader()
    leader.cluster.remove_member(first.name, soon())  # perhaps the leader itself
    remaining = lab.leader(joining)
    assert {m.name for m in remaining.cluster.members()} == {node.name for node in joining}
    term = remaining.cluster.term
    index = remaining.cluster.propose([note("without the first")])
    assert remaining.cluster.wait_committed(index, soon())
    until(lambda: not first.cluster.in_touch, "the removed node notices")
    assert remaining.cluster.term == term, "the removed node disturbs nobody"
    first.stop()
    lab.check_equal()
    assert notes(joining[1].log)[-2:] == ["together", "without the first"]


def test_a_node_that_lost_its_disk_comes_back_as_a_learner_first(lab: Lab) -> None:
    nodes = lab.found(3)
    leader = lab.write(*(f"entry {number}" for number in range(20)))
    victim = next(node for node in nodes if node is not leader)
    victim.stop()
    for file in victim.directory.iterdir():
        file.unlink()
    victim.start()

    def back() -> bool:
        status = {m.address: m for m in lab.leader().cluster.members()}[victim.address]
        return bool(status.role == "voter" and status.formed)

    until(back, "it votes again")
    lab.write("after")
    lab.check_equal()


def test_a_node_that_joins_after_a_purge_begins_with_the_oldest_file(lab: Lab) -> None:
    lab.segment_bytes = 20_000
    (leader,) = lab.found(1)
    lab.leader()
    source = Source()
    leader.cluster.propose([source.flavor()])
    for _ in range(5):
        leader.cluster.propose([source.file(), *(source.transaction((79, 2000, 31)) for _ in range(20))])
        last = leader.cluster.propose([source.end_of_file()])
        assert leader.cluster.wait_committed(last, soon())
    purge = leader.cluster.propose([leader.log.purge_entry(4)])
    assert leader.cluster.wait_committed(purge, soon())
    assert leader.log.first_index > 1
    address = lab.network.door()
    node = lab.add(address, [leader.address, address]).start()
    leader.cluster.add_member(node.name, address, deadline=soon())
    until(lambda: [m.role for m in leader.cluster.members()] == ["voter"] * 2, "it has caught up, and votes")
    leader.cluster.propose([source.file(), source.transaction()])
    lab.settle()
    assert str(node.log.state.executed) == executed(101) == str(leader.log.state.executed)
    assert str(node.log.state.purged) == executed(60) == str(leader.log.state.purged)
    last = min(node.log.commit_index, leader.log.commit_index)
    found = contents(node.log, last)
    assert found == contents(leader.log, last)[-len(found) :]
    node.stop()
    node.start()
    lab.write("after a restart")
    lab.settle()


def test_a_slow_follower_holds_nobody_up(lab: Lab) -> None:
    window = 256 << 10
    nodes = lab.found(3, window_bytes=window, append_bytes=64 << 10)
    leader = lab.write("before")
    slow = next(node for node in nodes if node is not leader)
    lab.network.slow(leader.address, slow.address, 100_000)
    last = 0
    for number in range(100):
        last = leader.cluster.propose([note(f"entry {number}", 50_000)])
    assert leader.cluster.wait_committed(last, soon())
    status = {m.name: m for m in leader.cluster.members()}[slow.name]
    assert status.match is not None
    assert status.match < last, "the slow one is still on its way"
    assert status.in_flight_bytes is not None
    assert status.in_flight_bytes <= window + (64 << 10)
    assert leader.cluster.is_leader
    lab.network.heal()
    lab.check_equal()


def test_a_follower_sees_a_commit_at_once(lab: Lab) -> None:
    lab.found(1, election_timeout=40.0)  # the next heartbeat is five seconds away
    leader = lab.leader()
    for _ in range(2):
        address = lab.network.door()
        node = lab.add(address, [leader.address, address]).start()
        leader.cluster.add_member(node.name, address, role="learner", deadline=soon())
    lab.write("start")
    lab.settle()
    delays = []
    for number in range(50):
        index = leader.cluster.propose([note(f"entry {number}")])
        assert leader.cluster.wait_committed(index, soon())
        begun = time.monotonic()
        for node in lab.up():
            assert node.cluster.wait_committed(index, soon())
        delays.append(time.monotonic() - begun)
    assert sorted(delays)[25] < 0.5


def test_founders_that_are_told_of_others_form_no_cluster(lab: Lab) -> None:
    a, b, c = (lab.network.door() for _ in range(3))
    lab.add(a, [a, b]).start()
    lab.add(b, [a, b, c]).start()
    first, second = lab.nodes[a], lab.nodes[b]
    until(lambda: all(m.reachable for m in first.cluster.members()), "they are connected")
    assert first.cluster.leader is None
    assert second.cluster.leader is None
    second.stop()
    second.options = replace(second.options, founders=(a, b))
    second.start()
    lab.write("now they agree")


def test_closing_ends_all_threads(lab: Lab) -> None:
    lab.found(3)
    lab.write("something")
    for node in list(lab.up()):
        node.stop()

    def names() -> set[str]:
        return {t.name for t in threading.enumerate() if t.name.startswith(("raft", "log-sync"))}

    until(lambda: names() == set(), "a thread that has nothing left to do is gone a moment later")


def test_what_a_node_tells_of_itself_reaches_its_peers(lab: Lab) -> None:
    nodes = lab.found(2, info={"admin": "10.0.0.1:8080"})
    lab.write("start")
    first, second = nodes
    until(lambda: first.cluster.info_of(second.name) == {"admin": "10.0.0.1:8080"}, "it is told")
    assert first.cluster.address_of(second.name) == second.address
    assert first.cluster.info_of("nobody") == {}


def test_streams_reach_who_serves_them(lab: Lab) -> None:
    first, second = lab.found(2)
    _serve_echo(second)
    with first.cluster.open_stream(second.address, "echo", soon(), {"what": "ever"}) as connection:
        connection.sendall(b"hello")
        assert connection.recv(100) == b"ever: hello"
    with pytest.raises(Exception, match="serves no streams of kind 'other'"):  # noqa: SIM117
        with first.cluster.open_stream(second.address, "other", soon()):
            pass


def _serve_echo(node: Node) -> None:
    node.cluster.serve_streams(
        "echo", lambda connection, hello: connection.sendall(hello.info["what"].encode() + b": " + connection.recv(100))
    )
