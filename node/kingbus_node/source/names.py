"""Names of binlog files: a base name and a number."""

from __future__ import annotations

import re
from collections.abc import Iterator

_NUMBERED = re.compile(r"(?P<base>.*)\.(?P<number>\d{1,18})", re.DOTALL)
_DIGITS = 6


def split(name: str) -> tuple[str, int | None]:
    """``"binlog.000007"`` -> ``("binlog", 7)``; a name without a number at its end -> ``(name, None)``."""
    match = _NUMBERED.fullmatch(name)
    return (match["base"], int(match["number"])) if match else (name, None)


def following(name: str, count: int) -> Iterator[str]:
    """The next `count` names of a server that wrote `name`; none if that has no number."""
    base, number = split(name)
    if number is not None:
        digits = len(name) - len(base) - 1
        for ahead in range(1, count + 1):
            yield f"{base}.{number + ahead:0{digits}d}"


def comes_after(name: str, other: str) -> bool:
    """Whether `name` can be a later file of the server that wrote `other`: another base name, or a higher number."""
    base, number = split(name)
    other_base, other_number = split(other)
    if base != other_base:
        return True
    return number is not None and other_number is not None and number > other_number


def served_name(source_name: str, previous: str | None) -> str:
    """The name under which replicas see a source's file, after the file that they see as `previous`.

    The source's own name as long as that keeps the names one rising series; otherwise (after a change of the source)
    the number after the last.
    """
    if previous is None:
        return source_name
    base, number = split(previous)
    source_base, source_number = split(source_name)
    if number is None:
        return source_name if source_base != base else f"{base}.{1:0{_DIGITS}d}"
    if base == source_base and source_number is not None and source_number > number:
        return source_name
    digits = max(_DIGITS, len(previous) - len(base) - 1)
    return f"{base}.{number + 1:0{digits}d}"
