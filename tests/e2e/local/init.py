"""The first process of a node's PID namespace: reaps what is left to it. When it ends, all of the node ends."""

from __future__ import annotations

import contextlib
import os
import signal


def main() -> None:
    """Runs for ever."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        signal.sigwait({signal.SIGCHLD})


if __name__ == "__main__":
    main()
