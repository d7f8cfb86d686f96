"""Kubernetes' quantities (``50Gi``) and Kingbus' durations (``7d``), as numbers.

Kubernetes documentation, "Quantity": a decimal number, then a binary (Ki, Mi, ...), decimal (k, M, ...; m, u, n) or
exponent (e3) suffix. Two spellings of one number are the same quantity, and the API server stores its own spelling.
"""

from __future__ import annotations

import re
from decimal import Decimal

_SUFFIXES = {"": Decimal(1), "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3")}
_SUFFIXES |= {suffix: Decimal(1000) ** (power + 1) for power, suffix in enumerate("kMGTPE")}
_SUFFIXES |= {suffix + "i": Decimal(1024) ** (power + 1) for power, suffix in enumerate("KMGTPE")}
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))([a-zA-Z]{0,2}|[eE][+-]?\d+)")


def quantity(text: str | int | float) -> Decimal:
    """The number that a quantity stands for. ValueError for something else."""
    match = _QUANTITY.fullmatch(str(text))
    if match is not None:
        number, suffix = match.groups()
        if suffix in _SUFFIXES:
            return Decimal(number) * _SUFFIXES[suffix]
        if suffix[:1] in "eE" and suffix[1:]:
            return Decimal(number) * Decimal(10) ** int(suffix[1:])
    raise ValueError(f"{text!r} is not a quantity: expected a number with a suffix such as Gi, M or m")


def same_quantity(one: object, other: object) -> bool:
    """Whether both are quantities, and the same one."""
    if not isinstance(one, str | int | float) or not isinstance(other, str | int | float):
        return False
    try:
        return quantity(one) == quantity(other)
    except ValueError:
        return False
