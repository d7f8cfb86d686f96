"""One thread that makes the log durable, so that a slow disk never delays a heartbeat.

The loop that owns a ``Raft`` asks for a sync whenever ``Raft.unsynced`` says so, and goes on. One fsync covers all that
was appended by the time it begins (group commit): with a slow disk the groups grow. ::

    if raft.unsynced:
        raft.sync_started()
        syncer.request()
    ...
    if syncer.finished():  # the loop was woken by `wake`
        raft.sync_finished(now)
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from kingbus_node.store.errors import LogFullError, StoreError
from kingbus_node.store.log import Log

logger = logging.getLogger(__name__)

_FULL_SECONDS = 0.5  # between attempts while the disk is full


class Syncer:
    """The thread.

    :param wake: called in the thread after each sync, and after a failure: makes the loop call ``finished`` soon. It
        must be quick and must not raise
    :param on_sync: for metrics, called in the thread with the seconds that a sync took
    """

    def __init__(self, log: Log, wake: Callable[[], None], on_sync: Callable[[float], None] | None = None) -> None:
        self._log = log
        self._wake = wake
        self._on_sync = on_sync
        self._changed = threading.Condition()
        self._requested = False
        self._finished = False
        self._closing = False
        self._failure: StoreError | None = None
        self._thread = threading.Thread(target=self._run, name="log-sync", daemon=True)
        self._thread.start()

    def request(self) -> None:
        """Begins to make everything durable that was appended before this call."""
        with self._changed:
            self._requested = True
            self._changed.notify_all()

    def finished(self) -> bool:
        """Whether what was requested is done; says so once.

        :raises StoreError: the disk refused; the node must stop, and open its log anew
        """
        with self._changed:
            if self._failure is not None:
                raise self._failure
            finished, self._finished = self._finished, False
            return finished

    def close(self) -> None:
        """Ends the thread, after the sync that it is in."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while self._wait():
            begun = time.monotonic()
            try:
                self._log.sync()
            except LogFullError as error:
                # Nothing was lost: what is asked for is tried until there is room.
                logger.debug("the log cannot be made durable yet: %s", error)
                self._rest()
                continue
            except StoreError as error:
                logger.error("the log cannot be made durable: %s", error)
                with self._changed:
                    self._failure = error
                self._wake()
                return
            if self._on_sync is not None:
                self._on_sync(time.monotonic() - begun)
            with self._changed:
                self._finished = True
            self._wake()

    def _rest(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing, _FULL_SECONDS)
            self._requested = True

    def _wait(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._requested or self._closing)
            self._requested = False
            return not self._closing
