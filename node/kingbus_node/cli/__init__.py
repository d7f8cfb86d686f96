"""``kingbus``, the command line: runs a node, asks a running one, shows the demonstration.

Importing this package costs little and needs no extra of the distribution: what a command needs is imported when it
runs.
"""

from __future__ import annotations

from kingbus_node.cli.app import main

__all__ = ["main"]
