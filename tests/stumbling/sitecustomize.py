"""Threads that stumble, to find out what depends on who comes first: `make test-stumbling`.

Python imports a module of this name when it starts, in the tests as well as in every node, worker and operator that
they start, if PYTHONPATH has this folder. What it does is up to KINGBUS_STUMBLING:

``others``
    Every thread but the one that runs the tests stops for a moment now and then, just after it has received, sent,
    waited, synced or told another one something, perhaps with a lock held, and once in a while for two seconds; half of
    the threads begin late. Tests that look too early fail.
``tests``
    The thread that runs the tests stops at random lines of theirs. Tests that look too late fail.

A test may fail for the figure that it measures, or because a pause is longer than the deadline that it sets; all else
is a defect of the test or of what it tests.
"""

from __future__ import annotations

import os
import random
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import TraceFunction

WHERE = {
    socket.socket: ("accept", "connect", "recv", "recv_into", "recvmsg", "recvmsg_into", "send", "sendall", "sendmsg"),
    threading.Condition: ("notify", "notify_all", "wait"),
    threading.Event: ("set", "wait"),
    selectors.EpollSelector: ("select",),
    os: ("fdatasync", "fsync"),
}
TESTS = str(Path(__file__).resolve().parents[1]) + os.sep


def runs_tests() -> bool:
    """Whether this process is `python -m pytest`, or one of its workers, which execnet starts with code to read more.

    A node has "pytest" in its arguments as well: it lives in a folder of that name.
    """
    command = Path("/proc/self/cmdline").read_bytes().split(b"\0")
    return command[1:3] == [b"-m", b"pytest"] or any(b"eval(sys.stdin.readline" in part for part in command[1:4])


class Others:
    """All threads stumble but the main one of a process that runs tests."""

    def __init__(self) -> None:
        self._spared = threading.main_thread().ident if runs_tests() else None
        self._dice = random.Random()
        self._thread = threading.local()
        os.register_at_fork(after_in_child=self._forked)

    def install(self) -> None:
        """From now on."""
        for owner, names in WHERE.items():
            for name in names:
                setattr(owner, name, self._stumbling(getattr(owner, name)))
        run = threading.Thread.run

        def late(thread: threading.Thread) -> None:
            if self._dice.random() < 0.5:
                time.sleep(self._dice.uniform(0, 0.25))
            run(thread)

        setattr(threading.Thread, "run", late)  # noqa: B010 - mypy takes it for a method of this class

    def _forked(self) -> None:
        self._spared = None
        self._dice.seed()

    def _stumbling(self, call: Callable[..., object]) -> Callable[..., object]:
        def called(*args: object, **named: object) -> object:
            result = call(*args, **named)
            self._perhaps_stop()
            return result

        return called

    def _perhaps_stop(self) -> None:
        if threading.get_ident() == self._spared:
            return
        now = time.monotonic()
        due: float | None = getattr(self._thread, "due", None)
        if due is not None and now < due:
            return
        if due is not None:
            time.sleep(self._dice.uniform(0, 2.0 if self._dice.random() < 0.04 else 0.15))
        self._thread.due = time.monotonic() + self._dice.uniform(0.05, 0.6)


class Tests:
    """The main thread of a process that runs tests stumbles, in their lines and those of their helpers.

    It stands still for half of the time at most, so that property tests with their thousands of lines come to an end.
    """

    def __init__(self) -> None:
        self._dice = random.Random()
        self._begun = time.monotonic()
        self._stood = 0.0

    def install(self) -> None:
        """From now on."""
        if runs_tests():
            sys.settrace(self._call)

    def _call(self, frame: FrameType, _event: str, _argument: object) -> TraceFunction | None:
        code = frame.f_code
        if not code.co_filename.startswith(TESTS) or code.co_name.startswith("<"):
            return None
        return self._line if code.co_name.startswith("test_") or self._dice.random() < 0.1 else None

    def _line(self, _frame: FrameType, event: str, _argument: object) -> TraceFunction:
        if event == "line" and self._dice.random() < 0.08 and self._stood < (time.monotonic() - self._begun) / 2:
            pause = self._dice.uniform(0, 0.3)
            time.sleep(pause)
            self._stood += pause
        return self._line


match os.environ.get("KINGBUS_STUMBLING"):
    case "others":
        Others().install()
    case "tests":
        Tests().install()
    case None:
        pass
    case other:
        raise SystemExit(f"KINGBUS_STUMBLING is {other!r}, expected others or tests")
