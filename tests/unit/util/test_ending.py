"""What a signal does to a process that waits for one."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

# The signal comes from another process, at any moment of a loop that does nothing but wait.
TOLD_AT_ANY_MOMENT = """
import os, random, signal, time
from kingbus_node.util.ending import told_to_end

for _ in range(600):
    with told_to_end() as ending:
        if (sender := os.fork()) == 0:
            time.sleep(random.uniform(0.001, 0.003))
            os.kill(os.getppid(), signal.SIGTERM)
            os._exit(0)
        while not ending.wait(0.000001):
            pass
        os.waitpid(sender, 0)
        assert ending.wait(60), "told once, told for good"
print("each time")
"""

TOLD_TWICE = """
import os, signal, sys
from kingbus_node.util.ending import told_to_end

with told_to_end() as ending:
    assert not ending.wait(0)
    os.kill(os.getpid(), signal.SIGTERM)
    assert ending.wait(60)
    os.kill(os.getpid(), int(sys.argv[1]))
    ending.wait(60)
print("still here")
"""


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=120)


def test_a_signal_at_any_moment_ends_the_wait() -> None:
    done = run(TOLD_AT_ANY_MOMENT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "each time\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process(number: signal.Signals) -> None:
    done = run(TOLD_TWICE, str(int(number)))
    assert (done.returncode, done.stdout) == (128 + number, "")
