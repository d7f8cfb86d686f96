"""promtool, Prometheus' own checker, finds nothing to complain about in what a node exposes."""

from __future__ import annotations

import subprocess

from tools.prometheus import ensure
from unit.admin.fakes import STATUS, FakeNode

from kingbus_node.admin.metrics import Metrics


def test_promtool_finds_names_types_and_help_texts_in_order() -> None:
    metrics = Metrics("1.2.3")
    metrics.attach(FakeNode(STATUS))
    metrics.observe_fsync(0.001)
    metrics.observe_commit(0.002)
    command = [str(ensure().promtool), "check", "metrics"]
    done = subprocess.run(command, input=metrics.exposition(), capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
