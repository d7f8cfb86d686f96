"""Who is not of the cluster gets no further than the door: no bytes of a stranger hurt a node, and no name that a
certificate does not cover is believed.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from clusters.certificates import Authority
from clusters.lab import Lab, Node, notes, soon, until
from unit.store.samples import Source

from kingbus_node.raft import asking, handshake, hello
from kingbus_node.raft.frames import encode_frame
from kingbus_node.raft.hello import Hello, Purpose, Refusal
from kingbus_node.raft.keeper import RetentionKeeper
from kingbus_node.raft.messages import TimeoutNow
from kingbus_node.raft.options import TlsFiles
from kingbus_node.raft.purges import ClusterPurges
from kingbus_node.raft.tls import PeerTls, PeerTlsError
from kingbus_node.store.retention import RetentionPolicy

PEER = "10.255.255.1:7401"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path) as lab:
        yield lab


def visit(node: Node) -> socket.socket:
    """A connection straight to a node."""
    connection = socket.create_connection(("127.0.0.1", node.cluster.listens_at.port))
    connection.settimeout(60)
    return connection


def ended(connection: socket.socket) -> bool:
    """Whether the node closes the connection."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


def complained(caplog: pytest.LogCaptureFixture, why: str) -> bool:
    """Whether a node says that it closed a connection, and why."""
    told = [record.getMessage() for record in caplog.records]
    return any("closed a connection from 127.0.0.1" in text and why in text for text in told)


def greeting(node: Node, **changes: object) -> Hello:
    """What a peer would say to a node."""
    usual = Hello(Purpose.CONTROL, 1, 2, PEER, node.address, "stranger")
    return replace(usual, **changes)  # type: ignore[arg-type]


def say(node: Node, first: Hello) -> Hello | Refusal:
    with visit(node) as connection:
        connection.sendall(hello.encode(first))
        return handshake.receive(connection, soon())


def test_bytes_of_a_stranger_close_his_connection_and_nothing_else(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    (node,) = lab.found(1)
    lab.write("before")
    dice = random.Random(3)
    with caplog.at_level(logging.WARNING):
        for text, told in (
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "it speaks HTTP"),
            (b"\x16\x03\x01" + os.urandom(500), "it speaks TLS"),
        ):
            with visit(node) as connection:
                connection.sendall(text)
                assert ended(connection)
            # It is said after the connection was closed, and only of the first ones in a minute.
            until(lambda told=told: complained(caplog, told), f"{told!r} in the log")  # type: ignore[misc]
        for _ in range(60):
            with visit(node) as connection, contextlib.suppress(OSError):  # it may be closed already
                connection.sendall(dice.randbytes(dice.randint(0, 2000)))
                connection.shutdown(socket.SHUT_WR)
                assert ended(connection)
    lab.write("after")
    assert node.cluster.failure is None


def test_a_peer_that_breaks_the_protocol_loses_its_link_and_nothing_else(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    (node,) = lab.found(1)
    lab.write("before")
    dice = random.Random(5)
    frames = [
        b"".join(bytes(part) for part in encode_frame(TimeoutNow(1)))[:-1] + b"\xff",
        struct.pack("<III", 2**31, 0, 0),
        dice.randbytes(500),
    ]
    for number, frame in enumerate(frames):
        with visit(node) as control, visit(node) as bulk:
            for connection, purpose in ((control, Purpose.CONTROL), (bulk, Purpose.BULK)):
                connection.sendall(hello.encode(greeting(node, purpose=purpose, link=number + 1)))
                assert isinstance(handshake.receive(connection, soon()), Hello)
            with caplog.at_level(logging.WARNING):
                (control, bulk)[number % 2].sendall(frame)
                assert ended(control)
                assert ended(bulk)
    assert "closed the connection to stranger" in caplog.text
    lab.write("after")
    assert node.cluster.failure is None


@pytest.mark.parametrize(
    ("kind", "question"),
    [
        ("segments", b"[" * 100_000 + b"\n"),
        ("segments", b'{"op": "read", "first": 1, "offset": %d}\n' % 10**40),
        ("echo", b"[" * 16_000 + b"\n"),
        ("purge", b'{"before": %d}\n' % 10**400),
    ],
)
def test_no_question_of_a_peer_ends_a_thread(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, kind: str, question: bytes
) -> None:
    crashed: list[str] = []  # a node whose thread ends so ends itself
    monkeypatch.setattr(threading, "excepthook", lambda what: crashed.append(repr(what.exc_value)))
    lab.found(1)
    node, source = lab.leader(), Source()
    entries = [source.flavor(), source.file()]
    for _ in range(30):
        entries += [source.transaction((79, 60_000, 31)), source.end_of_file(), source.file()]
    assert node.cluster.wait_committed(node.cluster.propose(entries), soon())
    asking.answer(node.cluster, "echo", lambda asked: asked)
    ClusterPurges(node.cluster, RetentionKeeper(node.log, node.cluster, RetentionPolicy()))
    with visit(node) as connection:
        connection.sendall(hello.encode(greeting(node, purpose=Purpose.STREAM, link=0, info={"stream": kind})))
        assert isinstance(handshake.receive(connection, soon()), Hello)
        connection.sendall(question)
        connection.shutdown(socket.SHUT_WR)
        assert ended(connection)
    until(lambda: not any(one.name.startswith("raft-greet") for one in threading.enumerate()), "the answer")
    assert not crashed


def test_many_strangers_who_say_nothing_do_not_keep_others_out(lab: Lab) -> None:
    nodes = lab.found(3)
    lab.write("before")
    silent = [visit(nodes[0]) for _ in range(80)]
    silent[0].sendall(b"KBRF")
    silent[1].sendall(hello.encode(greeting(nodes[0])))  # the first half of a link
    for node in nodes:
        lab.network.cut(node.address)
    lab.write("while they wait")
    for connection in silent:
        with connection:
            assert ended(connection)  # none of them may wait for ever
    lab.write("after")
    lab.check_equal()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"receiver": "10.0.0.9:1"}, "not 10.0.0.9:1: does a name lead to another node"),
        ({"oldest": 7, "newest": 9}, "upgrade one release at a time"),
        ({"purpose": Purpose.BULK, "link": 99}, "the first connection of this link is gone"),
    ],
)
def test_a_peer_is_told_why_it_is_refused(lab: Lab, changes: dict[str, object], told: str) -> None:
    (node,) = lab.found(1)
    answer = say(node, greeting(node, **changes))
    assert isinstance(answer, Refusal)
    assert told in answer.reason


def test_a_node_that_claims_this_nodes_own_address_is_refused(lab: Lab) -> None:
    (node,) = lab.found(1)
    answer = say(node, greeting(node, sender=node.address))
    assert isinstance(answer, Refusal)
    assert "advertised by two nodes" in answer.reason


# TLS


def test_nodes_speak_tls_and_follow_a_renewed_certificate(lab: Lab, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    addresses = [lab.network.door() for _ in range(3)]
    for number, address in enumerate(addresses):
        lab.add(address, addresses, tls=authority.issue(f"node-{number}", ["127.0.0.1"])).start()
    lab.write(*(f"entry {number}" for number in range(50)), size=20_000)
    lab.check_equal()
    first = lab.nodes[addresses[0]]
    with visit(first) as plain:
        plain.sendall(hello.encode(greeting(first)))
        assert ended(plain)
    before = shown(first)
    authority.issue("node-0", ["127.0.0.1"])
    assert shown(first) != before, "the renewed certificate is shown without a restart"
    for address in addresses:
        lab.network.cut(address)
    lab.write("with the renewed one")
    lab.check_equal()


def test_what_many_threads_propose_and_send_over_tls_arrives_whole_and_in_order(lab: Lab, tmp_path: Path) -> None:
    """Proposers send small entries themselves, the loop sends the others, and both receive answers meanwhile."""
    authority = Authority(tmp_path / "ca")
    addresses = [lab.network.door() for _ in range(3)]
    for number, address in enumerate(addresses):
        lab.add(address, addresses, tls=authority.issue(f"node-{number}", ["127.0.0.1"])).start()
    lab.write("start")

    def write(who: int) -> None:
        for number in range(40):
            lab.write(f"{who}: {number}", size=(0, 20_000, 100_000)[number % 3])

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(write, range(5)))
    lab.check_equal()
    found = list(dict.fromkeys(notes(lab.nodes[addresses[0]].log)))  # a leader that was deposed may have committed one
    for who in range(5):
        assert [text for text in found if text.startswith(f"{who}:")] == [f"{who}: {n}" for n in range(40)]


def shown(node: Node) -> bytes | None:
    """The certificate that a node shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with visit(node) as plain, context.wrap_socket(plain) as connection:
        return connection.getpeercert(binary_form=True)


@pytest.mark.parametrize("fault", ["another host", "another CA", "no certificate"])
def test_a_certificate_that_does_not_cover_the_address_is_refused(
    lab: Lab, tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    ours = Authority(tmp_path / "ca")
    addresses = [lab.network.door() for _ in range(3)]
    wrong = None
    if fault == "another host":
        wrong = ours.issue("wrong", ["10.9.9.9", "node-3.example"])
    elif fault == "another CA":
        wrong = replace(Authority(tmp_path / "other").issue("wrong", ["127.0.0.1"]), ca=ours.ca)
    right = [ours.issue(f"node-{number}", ["127.0.0.1"]) for number in range(2)]
    founders = addresses[:2]
    for address, files in zip(founders, right, strict=True):
        lab.add(address, founders, tls=files, election_timeout=6.0).start()  # no other leader on a busy machine
    leader = lab.write("the two")
    with caplog.at_level(logging.WARNING):
        stranger = lab.add(addresses[2], addresses, tls=wrong).start()
        leader.cluster.add_member(stranger.name, stranger.address, role="learner", deadline=soon())
        until(lambda: caplog.text.count("closed a connection from") > 1, "it is refused")
        until(lambda: f"no connection to {stranger.address}" in caplog.text, "nobody connects to it")
        if fault == "another host":
            why = "its certificate is for 10.9.9.9, node-3.example, expected one for 127.0.0.1"
            until(lambda: why in caplog.text, "the reason is told")  # the first connections may end for want of time
    member = {m.address: m for m in leader.cluster.members()}[stranger.address]
    assert not member.reachable
    assert stranger.log.last_index == 0
    leader.cluster.remove_member(stranger.address, soon())
    stranger.stop()
    lab.write("still the two")
    lab.check_equal(*(lab.nodes[address] for address in founders))


def test_a_renewed_certificate_is_taken_although_it_could_not_be_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path)
    tls = PeerTls(authority.issue("node", ["127.0.0.1"]))
    before = tls.server()
    authority.issue("node", ["127.0.0.1"])

    def refused(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(ssl.SSLContext, "load_verify_locations", refused)
        assert tls.server() is before
        assert tls.client() is not None
    assert caplog.text.count("the certificate for peers stays as it was") == 1
    assert tls.server() is not before


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("node", ["127.0.0.1"])
    PeerTls(files)
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    with pytest.raises(PeerTlsError, match=r"raft.tls.ca .*broken.pem"):
        PeerTls(replace(files, ca=broken))
    with pytest.raises(PeerTlsError, match=r"raft.tls.cert .*broken.pem and raft.tls.key"):
        PeerTls(replace(files, cert=broken))
    with pytest.raises(PeerTlsError, match=r"raft\.tls\.key"):
        PeerTls(TlsFiles(files.ca, files.cert, tmp_path / "missing"))
