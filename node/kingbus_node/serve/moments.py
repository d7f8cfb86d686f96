"""Points in time as SQL writes them, for PURGE BINARY LOGS BEFORE. The time zone of a node is UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

SECONDS: Final = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86400, "WEEK": 7 * 86400}
"""Units of INTERVAL that have a fixed length."""
_DELIMITED: Final = re.compile(
    r"\s*(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?:[T\s]+(\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:\.(\d{1,6})\d*)?)?)?\s*"
)
_DIGITS: Final = re.compile(r"\s*(\d{4})(\d\d)(\d\d)(?:(\d\d)(\d\d)(\d\d))?\s*")


def moment(value: bytes | int | Decimal | None, interval: float = 0.0) -> float | None:
    """Unix seconds of a DATE or DATETIME, as text or number ("Date and Time Literals" in MySQL's manual), moved by
    `interval` seconds; None if it is not one.
    """
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    found = _DELIMITED.fullmatch(text) or _DIGITS.fullmatch(text)
    if found is None:
        return None
    parts = [int(part or 0) for part in found.groups()[:6]]
    fraction = (found[7] or "").ljust(6, "0") if len(found.groups()) > 6 else "0"
    try:
        return (datetime(*parts, int(fraction), tzinfo=UTC) + timedelta(seconds=interval)).timestamp()  # type: ignore[misc,arg-type]
    except (ValueError, OverflowError):
        return None
