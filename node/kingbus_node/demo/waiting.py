"""Waiting for something outside this process: a condition asked again and again until a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["Timeout", "wait_until"]

T = TypeVar("T")


class Timeout(Exception):
    """What was waited for did not come in time; the text says what, for how long, and what was there instead."""


def wait_until(
    condition: Callable[[], T | None],
    timeout: float,
    what: str,
    *,
    interval: float = 0.02,
    found: Callable[[], str] | None = None,
) -> T:
    """Ask `condition` until it gives something true and return that; Timeout after `timeout` seconds.

    `what` completes the sentence "waited n s for ...", `found` says for the error what there is instead.
    """
    deadline = time.monotonic() + timeout
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise Timeout(f"waited {timeout:g} s for {what}" + (f"; found {found()}" if found else ""))
        time.sleep(interval)
