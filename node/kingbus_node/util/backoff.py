"""How long to wait before the next attempt: longer each time, never in step with others, for ever."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Waits that double from `initial` to `maximum` (seconds), each shortened by a random part of up to a half.

    The jitter keeps the nodes of a cluster, which all lose their source in the same moment, from coming back in the
    same moment. `reset` after a success: the next wait is a short one again. `uniform(low, high)` is only for tests.
    """

    def __init__(
        self, initial: float, maximum: float, uniform: Callable[[float, float], float] = random.uniform
    ) -> None:
        if not 0 < initial <= maximum:
            raise ValueError(f"expected 0 < initial <= maximum, found {initial} and {maximum}")
        self._initial = initial
        self._maximum = maximum
        self._uniform = uniform
        self._next = initial

    def reset(self) -> None:
        """The attempt succeeded."""
        self._next = self._initial

    def next(self) -> float:
        """Seconds to wait before the next attempt, from half of the current step to all of it."""
        step = self._next
        self._next = min(step * 2, self._maximum)
        return self._uniform(step / 2, step)
