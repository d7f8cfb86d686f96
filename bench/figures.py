"""What all measurements have in common: how a figure is printed, and a machine that is ready."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

_TOUCH: Final = 3 << 30
_PAGE: Final = 4096


def figure(name: str, value: str, measured: float, wanted: float, unit: str, *, least: bool) -> None:
    """One line for one figure that is wanted: ``figure: name: value, ratio, wanted, holds or misses``.

    `measured` and `wanted` are in `unit`; `least`: it is to be at least so much, otherwise less than that.
    """
    good = measured >= wanted if least else measured < wanted
    sign = ">=" if least else "<"
    verdict = "holds" if good else "misses"
    print(f"figure: {name}: {value}, {measured:.2f} {unit}, wanted {sign} {wanted:g} {unit}: {verdict}", flush=True)


def settle() -> None:
    """Have the disk take what the run before left, and the machine give out memory once, and take it back.

    A virtual machine often gets its memory from the host when it is first used, and gives it back when it is free: then
    writing a file of fresh pages costs several times what it costs with used ones, and whoever comes first pays. Done
    before each run, of both sides of a comparison, in a process of its own.
    """
    os.sync()
    available = int(Path("/proc/meminfo").read_text().partition("MemAvailable:")[2].split()[0]) << 10
    command = [sys.executable, "-m", "bench.figures", str(min(_TOUCH, available // 4))]
    subprocess.run(command, check=True)


def _touch(size: int) -> None:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    for at in range(0, size, _PAGE):
        memory[at] = 1


if __name__ == "__main__":
    _touch(int(sys.argv[1]))
