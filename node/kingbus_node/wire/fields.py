"""The protocol's field types: fixed-size little-endian integers, length-encoded integers and strings, NUL-terminated
strings.

A length-encoded integer is one byte below 251; else 0xfc + 2 bytes, 0xfd + 3 bytes, or 0xfe + 8 bytes. 0xfb stands for
NULL in a row and 0xff starts an ERR packet, so neither is a length. ("Integer Types", "String Types" in the protocol's
documentation.)
"""

from __future__ import annotations

from typing import Final

from kingbus_node.wire.errors import malformed

_WIDTHS: Final = {0xFC: 2, 0xFD: 3, 0xFE: 8}


def lenenc_int(value: int) -> bytes:
    """`value` (0 .. 2**64 - 1) as a length-encoded integer."""
    if value < 251:
        return bytes((value,))
    if value < 1 << 16:
        return b"\xfc" + value.to_bytes(2, "little")
    if value < 1 << 24:
        return b"\xfd" + value.to_bytes(3, "little")
    return b"\xfe" + value.to_bytes(8, "little")


def lenenc_bytes(value: bytes) -> bytes:
    """`value` behind its length."""
    return lenenc_int(len(value)) + value


class FieldReader:
    """Takes fields off the front of a payload. Whatever reaches beyond its end raises `ProtocolError`
    (ER_MALFORMED_PACKET).
    """

    __slots__ = ("_at", "_data", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        """`what` names the packet in errors."""
        self._data = data
        self._what = what
        self._at = 0

    @property
    def remaining(self) -> int:
        """Bytes not taken yet."""
        return len(self._data) - self._at

    def fixed(self, length: int) -> bytes:
        """The next `length` bytes."""
        if length > self.remaining:
            raise malformed(f"{self._what} ends {length - self.remaining} bytes early")
        start = self._at
        self._at += length
        return self._data[start : self._at]

    def integer(self, length: int) -> int:
        """An unsigned little-endian integer of `length` bytes."""
        return int.from_bytes(self.fixed(length), "little")

    def lenenc_int(self) -> int:
        """A length-encoded integer."""
        first = self.integer(1)
        if first < 251:
            return first
        width = _WIDTHS.get(first)
        if width is None:
            raise malformed(f"{self._what} has the byte {first:#x} where a length is due")
        return self.integer(width)

    def lenenc_bytes(self) -> bytes:
        """Bytes behind their length-encoded length."""
        return self.fixed(self.lenenc_int())

    def nul_terminated(self) -> bytes:
        """Bytes up to a NUL, which is taken as well."""
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise malformed(f"{self._what} has a string without an end")
        value = self._data[self._at : end]
        self._at = end + 1
        return value

    def rest(self) -> bytes:
        """All that is left."""
        return self.fixed(self.remaining)
