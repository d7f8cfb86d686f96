"""All the figures of one machine, each beside the same work done without Kingbus: ``make bench-quick``.

``python -m bench.quick [--small MB] [--rows MB]``: the scanner on made-up streams (`bench.scanner`), ingest of one node
beside ``mysqlbinlog --raw`` (`bench.ingest`), and serving one raw reader beside the source's own dump (`bench.serve`).
Ratios hold on other machines sooner than the figures do; both sides of a ratio are measured in turn, in the same run.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence

from bench import ingest, scanner, serve


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Scanner, ingest and serving speed, beside the source's own.")
    parser.add_argument("--small", type=int, default=100, metavar="MB", help="binlog of small transactions")
    parser.add_argument("--rows", type=int, default=400, metavar="MB", help="binlog of big rows")
    options = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, load average {load:.1f}")
    sizes = ["--small", str(options.small), "--rows", str(options.rows)]
    for title, run in (
        ("scanner: packets, events, checksums, transaction boundaries", scanner.main),
        ("ingest: from a real MySQL, fsynced, beside mysqlbinlog --raw", lambda: ingest.main(sizes)),
        ("serving: one raw reader, beside the source's own dump", lambda: serve.main(sizes)),
    ):
        print(f"\n{title}", flush=True)
        run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
