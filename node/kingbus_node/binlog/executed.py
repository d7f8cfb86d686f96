"""What both flavours' executed sets have in common.

`GtidSet` and `MariadbState` share `flavor`, `copy()`, `apply_delta(bytes)`, `encode()`, `to_json()`, `from_json(str)`,
`str()`, `bool()` and `==`; code that needs no more takes an `ExecutedSet`.
"""

from __future__ import annotations

from typing import TypeAlias

from kingbus_node.binlog.constants import Buffer, Flavor
from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.binlog.mariadb import MariadbState

ExecutedSet: TypeAlias = GtidSet | MariadbState


def executed_set(flavor: Flavor) -> ExecutedSet:
    """An empty executed set."""
    return MariadbState() if flavor is Flavor.MARIADB else GtidSet()


def executed_from_json(flavor: Flavor, value: str) -> ExecutedSet:
    """The inverse of `to_json`."""
    return MariadbState.from_json(value) if flavor is Flavor.MARIADB else GtidSet.from_json(value)


def decode_executed(flavor: Flavor, data: Buffer) -> ExecutedSet:
    """The inverse of `encode`."""
    return MariadbState.decode(data) if flavor is Flavor.MARIADB else GtidSet.decode(data)
