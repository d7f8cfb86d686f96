"""CRC-32 as zlib, MySQL's binlog events and our own files have it, by the fastest code that is installed.

Every byte is checked once or twice on its way through a node, so this is on the hot path of all of it. ISA-L, which
uses the processor's carry-less multiplication, sums up 10 to 50 GB/s where zlib does 2 to 4 (decision 0013). Both
release the interpreter's lock for more than a few KiB, and give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable

combine: Callable[[int, int, int], int] | None
"""``combine(first, second, length)``: the CRC-32 of bytes of which the first ones have the CRC-32 `first` and the last
`length` ones have `second`, which takes less than a microsecond. None if only zlib is there: Python's does not tell."""

try:
    from isal.isal_zlib import crc32, crc32_combine
except ImportError:  # a platform without a wheel, or the command line alone, which needs no speed
    from zlib import crc32

    combine = None
else:
    combine = crc32_combine

__all__ = ["combine", "crc32"]
