"""``python -m kingbus_node.cli``: the same as ``kingbus``."""

from __future__ import annotations

from kingbus_node.cli.app import main

main(prog_name="kingbus")
