"""A queue of cluster names: each has at most one worker at a time, however often it is added.

A name that is added while its worker is busy is worked on once more afterwards. Failures are tried again with growing
waits (one second to one minute); a name that is added anew does not wait for that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from kingbus_operator.kube.client import ApiError
from kingbus_operator.shell.metrics import Metrics
from kingbus_operator.shell.reconcile import Fenced

log = logging.getLogger(__name__)

Key = tuple[str, str]
"""Namespace and name."""

FIRST_WAIT = 1.0
LONGEST_WAIT = 60.0


class Queue:
    """Workers for names. `work` gives the seconds to the next round, or None when there is nothing more to do."""

    def __init__(
        self, work: Callable[[str, str], Awaitable[float | None]], metrics: Metrics, parallel: int = 16
    ) -> None:
        self._work = work
        self._metrics = metrics
        self._slots = asyncio.Semaphore(parallel)
        self._wanted: dict[Key, asyncio.Event] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._known: set[Key] = set()
        self._active = False

    def add(self, namespace: str, name: str) -> None:
        """Something may have changed."""
        key = namespace, name
        self._known.add(key)
        if key in self._wanted:
            self._wanted[key].set()
        if self._active and key not in self._tasks:
            self._start(key)

    def resume(self) -> None:
        """This operator leads: work on everything that is known."""
        self._active = True
        for key in self._known:
            if key not in self._tasks:
                self._start(key)

    async def pause(self) -> None:
        """It does not lead any more: end all work, and wait for that."""
        self._active = False
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, key: Key) -> None:
        self._wanted[key] = asyncio.Event()
        task = asyncio.create_task(self._rounds(key), name=f"reconcile {key[0]}/{key[1]}")
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._ended(key))

    def _ended(self, key: Key) -> None:
        self._tasks.pop(key, None)
        wanted = self._wanted.pop(key, None)
        if self._active and wanted is not None and wanted.is_set():
            self._start(key)  # added between the last look and now

    async def _rounds(self, key: Key) -> None:
        wanted = self._wanted[key]
        failures = 0
        while True:
            wanted.clear()
            delay, failed = await self._round(key, failures)
            failures = failures + 1 if failed else 0
            if delay is None:
                if not wanted.is_set():
                    self._known.discard(key)
                return
            try:
                async with asyncio.timeout(delay):
                    await wanted.wait()
            except TimeoutError:
                continue

    async def _round(self, key: Key, failures: int) -> tuple[float | None, bool]:
        async with self._slots:
            start = time.monotonic()
            try:
                return await self._work(*key), False
            except Fenced:
                return FIRST_WAIT, False  # about to be cancelled, or it leads again: a late renewal has come through
            except ApiError as error:
                wait = max(min(FIRST_WAIT * 2**failures, LONGEST_WAIT), error.retry_after or 0)
                if error.namespace_ends:
                    log.info("%s/%s goes with its namespace", *key)
                    return wait, True
                self._metrics.reconcile_errors.inc()
                log.warning("%s/%s: %s; again in %.0f s", *key, error, wait)
                return wait, True
            except Exception:
                self._metrics.reconcile_errors.inc()
                wait = min(FIRST_WAIT * 2**failures, LONGEST_WAIT)
                log.exception("%s/%s: a round failed; again in %.0f s", *key, wait)
                return wait, True
            finally:
                self._metrics.reconcile_seconds.observe(time.monotonic() - start)
