"""Wrong passwords: who guesses is answered ever more slowly, and does not fill the log.

Counted by the client's address, in each serve process for itself. The first few mistakes cost nothing: a replica whose
password was changed on one side tries again once a minute or so, and a person mistypes.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

FREE: Final = 5
"""Mistakes in a row that are answered at once."""
_STEP: Final = 0.25
_SLOWEST: Final = 4.0
_FORGET_SECONDS: Final = 300.0
_LOG_SECONDS: Final = 10.0
_MAX_HOSTS: Final = 10_000


@dataclass(slots=True)
class _Host:
    count: int = 0
    last: float = 0.0
    logged: float = float("-inf")
    silent: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do about a mistake. delay: seconds to wait before the answer. log: whether to log it; unlogged: how many
    of this address were not, before it.
    """

    delay: float
    log: bool
    unlogged: int


class Attempts:
    """Thread-safe. Bounded: the addresses that were longest without a mistake are forgotten first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._hosts: OrderedDict[str, _Host] = OrderedDict()

    def failed(self, host: str) -> Verdict:
        """A login from this address was refused."""
        with self._lock:
            now = self._clock()
            known = self._hosts.pop(host, None)
            if known is None or now - known.last > _FORGET_SECONDS:
                known = _Host()
            self._hosts[host] = known
            if len(self._hosts) > _MAX_HOSTS:
                self._hosts.popitem(last=False)
            known.count += 1
            known.last = now
            delay = _delay(known.count)
            if now - known.logged < _LOG_SECONDS:
                known.silent += 1
                return Verdict(delay, log=False, unlogged=0)
            unlogged, known.silent, known.logged = known.silent, 0, now
            return Verdict(delay, log=True, unlogged=unlogged)

    def delay(self, host: str) -> float:
        """Seconds to wait before somebody at this address is told of a mistake that does not count yet."""
        with self._lock:
            known = self._hosts.get(host)
            if known is None or self._clock() - known.last > _FORGET_SECONDS:
                return 0.0
            return _delay(known.count + 1)

    def succeeded(self, host: str) -> None:
        """Somebody at this address knows a password: the next mistake is a first one again."""
        with self._lock:
            self._hosts.pop(host, None)


def _delay(count: int) -> float:
    """What the mistake of this number costs."""
    return 0.0 if count <= FREE else min(_SLOWEST, _STEP * 2 ** min(count - FREE - 1, 10))
