"""How a call on hostile input ended."""

from __future__ import annotations

from collections.abc import Callable

from kingbus_node.wire.errors import MySQLError


def refusal(call: Callable[[], object]) -> int | None:
    """The number of the error that `call` raises, None when it succeeds. Any other exception is a failed test."""
    try:
        call()
    except MySQLError as error:
        return error.code
    return None
