"""The one error of this package."""

from __future__ import annotations


class BinlogError(ValueError):
    """Bytes or text that no MySQL or MariaDB server would have written: damaged, cut short, or of another format.

    `offset` is the index of the offending byte in the buffer (or character in the text) that was handed in, when known.
    """

    def __init__(self, message: str, offset: int | None = None) -> None:
        super().__init__(message if offset is None else f"{message} (at offset {offset})")
        self.offset = offset
