"""Greetings: who may speak with this node, and how anything else is told why not."""

from __future__ import annotations

import contextlib
import struct
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus_node.raft import hello
from kingbus_node.raft.errors import ProtocolError
from kingbus_node.raft.hello import PREAMBLE_SIZE, Hello, Purpose, Refusal, agree

TEXT = st.text(st.characters(codec="utf-8"), max_size=50)
HELLO = Hello(Purpose.CONTROL, 7, 8, "a:1", "b:2", "node-a", 3, "uuid", {"admin": "a:8080"})
HELLOS = st.builds(
    Hello,
    st.sampled_from(Purpose),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    TEXT,
    TEXT,
    TEXT,
    st.integers(-(2**15), 2**15 - 1),
    TEXT,
    st.dictionaries(TEXT, TEXT, max_size=3),
    st.integers(0, 2**16 - 1),
    st.integers(0, 2**16 - 1),
)


def decode(data: bytes) -> Hello | Refusal:
    length = hello.body_length(data[:PREAMBLE_SIZE])
    return hello.decode(data[:PREAMBLE_SIZE], data[PREAMBLE_SIZE : PREAMBLE_SIZE + length])


@pytest.mark.fuzz
@given(st.one_of(HELLOS, st.builds(Refusal, TEXT)))
def test_a_greeting_arrives_as_it_was_sent(greeting: Hello | Refusal) -> None:
    assert decode(hello.encode(greeting)) == greeting


@pytest.mark.fuzz
@given(HELLOS, st.data())
def test_a_damaged_greeting_is_refused(greeting: Hello, data: st.DataObject) -> None:
    damaged = bytearray(hello.encode(greeting))
    at = data.draw(st.integers(0, len(damaged) - 1).filter(lambda at: at != 5))  # the reserved byte
    damaged[at] ^= data.draw(st.integers(1, 255))
    if at == 4:
        return  # the kind is not covered: another kind is refused, or a text
    with pytest.raises(ProtocolError):
        decode(bytes(damaged))


@pytest.mark.fuzz
@given(st.binary(max_size=200), st.sampled_from([1, 2, 3]))
def test_a_greeting_of_any_bytes_is_refused_or_harmless(body: bytes, kind: int) -> None:
    preamble = struct.pack("<4sBBHI", hello.MAGIC, kind, 0, len(body), zlib.crc32(body))
    with contextlib.suppress(ProtocolError):
        hello.decode(preamble, body)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00", "it speaks TLS"),
        (b"GET / HTTP/1.1\r\n", "it speaks HTTP"),
        (b"\x00" * 12, "is it a node of Kingbus"),
        (b"KBRF\x01", "ended after 5 bytes"),
    ],
)
def test_whoever_is_no_node_is_told_apart_by_the_first_bytes(data: bytes, told: str) -> None:
    with pytest.raises(ProtocolError, match=told):
        hello.body_length(data[:PREAMBLE_SIZE])


def test_facts_that_are_nested_without_end_are_refused() -> None:
    sent = hello.encode(HELLO)
    facts = b'{"admin": "a:8080"}'
    nested = b"[" * len(facts)
    body = sent[PREAMBLE_SIZE:].replace(facts, nested)
    preamble = struct.pack("<4sBBHI", hello.MAGIC, 1, 0, len(body), zlib.crc32(body))
    with pytest.raises(ProtocolError):
        hello.decode(preamble, body)


def test_what_a_later_version_appends_is_not_looked_at() -> None:
    sent = hello.encode(replace(HELLO, newest=9))
    body = sent[PREAMBLE_SIZE:] + b"what version 9 adds"
    preamble = struct.pack("<4sBBHI", hello.MAGIC, 1, 0, len(body), zlib.crc32(body))
    assert hello.decode(preamble, body) == replace(HELLO, newest=9)


def test_both_use_the_newest_version_that_both_know() -> None:
    assert agree(replace(HELLO, oldest=1, newest=3), replace(HELLO, oldest=2, newest=5)) == 3
    assert agree(replace(HELLO, oldest=1, newest=1), replace(HELLO, oldest=1, newest=2)) == 1
    with pytest.raises(ProtocolError, match=r"a:1 speaks versions 3 to 4 .* upgrade one release at a time"):
        agree(replace(HELLO, sender="b:2", oldest=1, newest=2), replace(HELLO, oldest=3, newest=4))


def test_texts_that_are_too_long_are_not_sent() -> None:
    with pytest.raises(ValueError, match="4096 bytes"):
        hello.encode(replace(HELLO, info={"a": "x" * 5000}))
    refusal = decode(hello.encode(Refusal("x" * 5000)))
    assert isinstance(refusal, Refusal)
    assert len(refusal.reason) == hello.MAX_TEXT
