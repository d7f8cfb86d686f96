"""One thread that makes the log durable, so that a slow disk never delays a heartbeat.

The loop that owns a ``Raft`` asks for a sync whenever ``Raft.unsynced`` says so, and goes on. One fsync covers all that
was appended by the time it begins (group commit): with a slow disk the groups grow. What follows from a sync is done in
this thread, by ``done``: a small entry waits for each thread that has to be woken.

It waits in a system call and is woken by one: who asks gives the interpreter away at that moment, and the sync begins.
A lock or a queue of Python's wakes a thread that then waits for the interpreter, until the other one has nothing to do.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable

from kingbus_node.store.errors import LogFullError
from kingbus_node.store.log import Log

logger = logging.getLogger(__name__)

_FULL_SECONDS = 0.5  # between attempts while the disk is full


class Syncer:
    """The thread.

    :param done: called in the thread after each sync; says whether another one is to follow at once
    :param failed: called in the thread, which ends then, with what the disk or ``done`` refused: the node must stop,
        and open its log anew
    :param on_sync: for metrics, called in the thread with the seconds that a sync took
    """

    def __init__(
        self,
        log: Log,
        done: Callable[[], bool],
        failed: Callable[[Exception], None],
        on_sync: Callable[[float], None] | None = None,
    ) -> None:
        self._log = log
        self._done = done
        self._failed = failed
        self._on_sync = on_sync
        self._event = os.eventfd(0, os.EFD_CLOEXEC)
        self._open = threading.Lock()  # the event is, while this is held
        self._closing = self._closed = False
        self._thread = threading.Thread(target=self._run, name="log-sync", daemon=True)
        self._thread.start()

    def request(self) -> None:
        """Begins to make everything durable that was appended before this call."""
        with self._open:
            if not self._closed:
                os.eventfd_write(self._event, 1)

    def close(self) -> None:
        """Ends the thread, after the sync that it is in."""
        self._closing = True
        self.request()
        self._thread.join()
        with self._open:
            self._closed = True
            os.close(self._event)

    def _run(self) -> None:
        try:
            while True:
                os.eventfd_read(self._event)
                if self._closing:
                    return
                while self._sync():
                    pass
        except Exception as error:
            logger.exception("the log cannot be made durable: %s", error)
            self._failed(error)

    def _sync(self) -> bool:
        """Whether another one is to follow."""
        begun = time.monotonic()
        try:
            self._log.sync()
        except LogFullError as error:
            # Nothing was lost: what is asked for is tried until there is room.
            logger.debug("the log cannot be made durable yet: %s", error)
            return self._rest()
        if self._on_sync is not None:
            self._on_sync(time.monotonic() - begun)
        return self._done()

    def _rest(self) -> bool:
        """Whether it is to be tried again."""
        waiting = select.poll()
        waiting.register(self._event, select.POLLIN)
        waiting.poll(1000 * _FULL_SECONDS)
        return not self._closing
