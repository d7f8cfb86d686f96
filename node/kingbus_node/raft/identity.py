"""The file ``identity``, beside the log: which disk this is. See ``formation`` for what it is good for.

``KINGBUSI`` | version u32, 1 | CRC-32 u32 of the rest | incarnation u64 | formed u8 | founders, an encoded
``Configuration``; all little-endian. It is replaced as a whole and durable before anybody learns of it.
"""

from __future__ import annotations

import secrets
import struct
from pathlib import Path

from kingbus_node.raft.configuration import Configuration, Member
from kingbus_node.raft.errors import ProtocolError
from kingbus_node.raft.storage import Identity
from kingbus_node.store.durable import write_file
from kingbus_node.store.errors import CorruptLogError, FormatVersionError
from kingbus_node.util.crc import crc32

IDENTITY_NAME = "identity"
_MAGIC = b"KINGBUSI"
_VERSION = 1
_FIXED = struct.Struct("<8sIIQB")
_CRC_START = 16


def load_identity(directory: Path) -> Identity:
    """What was saved; for a directory without, a new one with a random number, saved at once.

    CorruptLogError, FormatVersionError, OSError.
    """
    path = directory / IDENTITY_NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        identity = Identity(secrets.randbits(63) | 1)  # 0 stands for "unknown" in configurations
        save_identity(directory, identity)
        return identity
    if len(data) < _FIXED.size or not data.startswith(_MAGIC):
        raise CorruptLogError(path, 0, "it does not begin as an identity does")
    _, version, crc, incarnation, formed = _FIXED.unpack_from(data)
    if version != _VERSION:
        raise FormatVersionError(f"{path} has format version {version}, this release reads version {_VERSION}")
    if crc32(data[_CRC_START:]) != crc:
        raise CorruptLogError(path, 0, "it does not match its checksum")
    try:
        founders = Configuration.decode(data[_FIXED.size :])
    except ProtocolError as error:
        raise CorruptLogError(path, _FIXED.size, str(error)) from error
    return Identity(incarnation, bool(formed), tuple((m.address, m.incarnation) for m in founders.members))


def save_identity(directory: Path, identity: Identity) -> None:
    """Durable on return. OSError."""
    founders = Configuration(tuple(Member(address, incarnation=number) for address, number in identity.founders))
    rest = struct.pack("<QB", identity.incarnation, identity.formed) + founders.encode()
    head = struct.pack("<8sII", _MAGIC, _VERSION, crc32(rest))
    write_file(directory / IDENTITY_NAME, head + rest)
