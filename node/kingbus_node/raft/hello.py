"""What two nodes say to each other before anything else, as values and as bytes.

Each side sends one greeting, the one that connected first: a `Hello`, or in the answer a `Refusal` that says why not,
so that the logs of both say the same. A greeting is ``magic "KBRF", kind u8, reserved u8, length u16, CRC-32 u32 of the
rest``, and the rest; all little-endian. It can be told from anything else by its first bytes, before any memory is set
aside, and is short.

A `Hello` names the oldest and the newest version of the protocol that its sender speaks. Both use the newest one that
both know, so that a rolling upgrade can go on; without a common one the connection is refused. What a later version
appends to a Hello is not looked at by an older one.
"""

from __future__ import annotations

import enum
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from kingbus_node.raft.errors import ProtocolError
from kingbus_node.raft.messages import Buffer
from kingbus_node.util.crc import crc32

MAGIC: Final = b"KBRF"
OLDEST_VERSION: Final = 1
NEWEST_VERSION: Final = 1
PREAMBLE_SIZE: Final = 12
MAX_TEXT: Final = 4096
"""The longest of the texts in a greeting, in bytes of UTF-8."""

_PREAMBLE = struct.Struct("<4sBBHI")
_HELLO = struct.Struct("<HHBQQhHHHHH")
_HINTS = {
    b"\x16\x03": "it speaks TLS, and raft.tls is not configured here",
    b"GET ": "it speaks HTTP",
    b"POST": "it speaks HTTP",
    b"HEAD": "it speaks HTTP",
}


class _Kind(enum.IntEnum):
    HELLO = 1
    REFUSAL = 2


class Purpose(enum.IntEnum):
    """What a connection is for."""

    CONTROL = 1
    """The short messages of a link between two nodes, which must not wait."""
    BULK = 2
    """Entries and snapshots of the same link."""
    STREAM = 3
    """Something beside Raft: it is handed to whoever asked for streams, see ``Cluster.serve_streams``."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Who is there, and what for.

    :param purpose: what the connection is for; in the answer the same
    :param link: a random number that holds a link's two connections together
    :param incarnation: the sender's disk
    :param sender: its address in the configuration
    :param receiver: the address that it means to speak to; in the answer that of who connected
    :param name: the sender's name for people
    :param priority: as configured at the sender
    :param cluster: the identifier of the cluster that the sender's log belongs to; empty if it does not know yet
    :param info: what else the sender tells of itself, or asks for with a stream
    """

    purpose: Purpose
    link: int
    incarnation: int
    sender: str
    receiver: str
    name: str
    priority: int = 0
    cluster: str = ""
    info: Mapping[str, str] = field(default_factory=dict)
    oldest: int = OLDEST_VERSION
    newest: int = NEWEST_VERSION


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there will be no conversation, for the log of the other side."""

    reason: str


def encode(greeting: Hello | Refusal) -> bytes:
    """The bytes to send. ValueError when a text is longer than `MAX_TEXT`."""
    if isinstance(greeting, Refusal):
        return _framed(_Kind.REFUSAL, greeting.reason.encode()[:MAX_TEXT])
    g = greeting
    texts = [g.sender, g.receiver, g.name, g.cluster, json.dumps(dict(g.info), sort_keys=True)]
    encoded = [text.encode() for text in texts]
    if max(map(len, encoded)) > MAX_TEXT:
        raise ValueError(f"a greeting's texts have at most {MAX_TEXT} bytes each, found {list(map(len, encoded))}")
    numbers = (g.oldest, g.newest, g.purpose, g.link, g.incarnation, g.priority, *map(len, encoded))
    return _framed(_Kind.HELLO, _HELLO.pack(*numbers) + b"".join(encoded))


def _framed(kind: _Kind, body: bytes) -> bytes:
    return _PREAMBLE.pack(MAGIC, kind, 0, len(body), crc32(body)) + body


def body_length(preamble: Buffer) -> int:
    """How many bytes follow the first `PREAMBLE_SIZE` ones, or fewer if the peer sent no more.

    :raises ProtocolError: these are not the first bytes of a greeting
    """
    data = bytes(preamble)
    if data[: len(MAGIC)] != MAGIC:
        hint = next((hint for start, hint in _HINTS.items() if data.startswith(start)), "is it a node of Kingbus?")
        raise ProtocolError(f"the peer does not speak Kingbus's Raft protocol: {hint}")
    if len(data) < PREAMBLE_SIZE:
        raise ProtocolError(f"a greeting ended after {len(data)} bytes")
    _, _, _, length, _ = _PREAMBLE.unpack_from(data)
    return int(length)


def decode(preamble: Buffer, body: Buffer) -> Hello | Refusal:
    """The greeting of these bytes.

    :raises ProtocolError: it is damaged, or of a kind that this release does not know
    """
    _, kind, _, length, crc = _PREAMBLE.unpack_from(preamble)
    if len(body) != length or crc32(body) != crc:
        raise ProtocolError("a greeting does not match its checksum")
    data = bytes(body)
    if kind == _Kind.REFUSAL:
        return Refusal(data.decode(errors="replace"))
    if kind != _Kind.HELLO:
        raise ProtocolError(f"a greeting of unknown kind {kind}: is the peer of a newer release?")
    try:
        return _decode_hello(data)
    except (struct.error, ValueError, RecursionError) as error:
        raise ProtocolError(f"a greeting of {len(data)} bytes cannot be read: {error}") from error


def _decode_hello(data: bytes) -> Hello:
    oldest, newest, purpose, link, incarnation, priority, *lengths = _HELLO.unpack_from(data)
    if max(lengths) > MAX_TEXT or _HELLO.size + sum(lengths) > len(data):
        raise ProtocolError(f"a greeting of {len(data)} bytes with texts of {lengths} bytes")
    texts, at = [], _HELLO.size
    for length in lengths:
        texts.append(data[at : at + length].decode())
        at += length
    sender, receiver, name, cluster, encoded = texts
    info = json.loads(encoded)
    if not isinstance(info, dict) or not all(isinstance(value, str) for value in info.values()):
        raise ProtocolError("a greeting's additional facts are not texts by name")
    return Hello(Purpose(purpose), link, incarnation, sender, receiver, name, priority, cluster, info, oldest, newest)


def agree(ours: Hello, theirs: Hello) -> int:
    """The version to use on a connection.

    :raises ProtocolError: there is no common one
    """
    version = min(ours.newest, theirs.newest)
    if version < max(ours.oldest, theirs.oldest):
        raise ProtocolError(
            f"{theirs.sender} speaks versions {theirs.oldest} to {theirs.newest} of the Raft protocol, {ours.sender} "
            f"{ours.oldest} to {ours.newest}: upgrade one release at a time"
        )
    return version
