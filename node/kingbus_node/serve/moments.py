"""Points in time as SQL writes them, for PURGE BINARY LOGS BEFORE: in the session's time zone. A node's own is UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Final
from zoneinfo import ZoneInfo

SECONDS: Final = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86400, "WEEK": 7 * 86400}
"""Units of INTERVAL that have a fixed length."""
_DELIMITED: Final = re.compile(
    r"\s*(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?:[T\s]+(\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:\.(\d{1,6})\d*)?)?)?\s*"
)
_DIGITS: Final = re.compile(r"\s*(\d{4})(\d\d)(\d\d)(?:(\d\d)(\d\d)(\d\d))?\s*")
_OFFSET: Final = re.compile(r"([+-])(\d{1,2}):([0-5]\d)")


def time_zone(name: str) -> tzinfo | None:
    """What @@time_zone names: SYSTEM, an offset such as +02:00, a zone that the machine knows; None if nothing."""
    if name.upper() == "SYSTEM":
        return UTC
    if found := _OFFSET.fullmatch(name):
        offset = timedelta(hours=int(found[2]), minutes=int(found[3]))
        return timezone(-offset if found[1] == "-" else offset) if offset <= timedelta(hours=14) else None
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown, no name of a zone, a folder of zones
        return None


def moment(value: bytes | int | Decimal | None, interval: float = 0.0, zone: tzinfo = UTC) -> float | None:
    """Unix seconds of a DATE or DATETIME of `zone`, as text or number ("Date and Time Literals" in MySQL's manual),
    moved by `interval` seconds; None if it is not one.
    """
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    found = _DELIMITED.fullmatch(text) or _DIGITS.fullmatch(text)
    if found is None:
        return None
    parts = [int(part or 0) for part in found.groups()[:6]]
    fraction = (found[7] or "").ljust(6, "0") if len(found.groups()) > 6 else "0"
    try:
        return (datetime(*parts, int(fraction), tzinfo=zone) + timedelta(seconds=interval)).timestamp()  # type: ignore[misc,arg-type]
    except (ValueError, OverflowError):
        return None
