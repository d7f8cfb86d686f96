"""What is made of files, made again when they change."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from kingbus_node.util.files import stamp

_T = TypeVar("_T")


class Followed(Generic[_T]):
    """Holds what `load` makes of `files`. Any thread.

    When changed files cannot be used, what was made of the old ones stays, the log says so, and it is tried again: who
    may read them by now would not show in their stamp, and a lack of descriptors passes.

    :param failure: what `load` raises when the files cannot be used; from here it comes at the beginning only
    :param what: for the log
    :param interval: seconds in which the files are looked at once, at most
    """

    def __init__(
        self,
        files: Sequence[Path],
        load: Callable[[], _T],
        failure: type[Exception],
        what: str,
        log: logging.Logger,
        *,
        interval: float = 0.0,
    ) -> None:
        self._files = files
        self._load = load
        self._failure = failure
        self._what = what
        self._log = log
        self._interval = interval
        self._lock = threading.Lock()
        self._seen = stamp(files)
        self._checked = time.monotonic()
        self._trouble = ""
        self._made = load()

    def get(self) -> _T:
        """What is made of the files as they are now."""
        with self._lock:
            now = time.monotonic()
            if now - self._checked >= self._interval:
                self._checked = now
                self._look()
            return self._made

    def _look(self) -> None:
        found = stamp(self._files)
        if found == self._seen:
            return
        try:
            self._made = self._load()
        except self._failure as problem:
            if str(problem) != self._trouble:
                self._log.error("%s stays as it was: %s", self._what, problem)
            self._trouble = str(problem)
        else:
            self._log.info("loaded %s again from %s", self._what, self._files[0])
            self._seen, self._trouble = found, ""
