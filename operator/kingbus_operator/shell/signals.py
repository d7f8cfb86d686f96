"""The signals that end the operator: the first sets `stop`, and whoever waits for that ends in order."""

from __future__ import annotations

import asyncio
import signal


def stop_on_signals(stop: asyncio.Event) -> None:
    """From now on SIGTERM and SIGINT set it, whoever had them before. Only in the main thread."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
