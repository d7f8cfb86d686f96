"""Whether a node's binary logs are the source's, byte for byte and file for file."""

from __future__ import annotations

import filecmp
import itertools
import tempfile
from pathlib import Path

from kingbus_node.demo.instance import text
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until
from servers.chain import Chain
from servers.raw import NotServedError, fetch_files


def assert_files_equal(chain: Chain) -> None:
    """Fetch all files from node and source with the flavour's own tool and compare them.

    For MySQL once by file and position and once by GTID.
    """
    for gtid in (False, True) if chain.source.flavor is Flavor.MYSQL else (False,):
        with tempfile.TemporaryDirectory(dir=chain.node.folder) as work:
            ours, theirs = _fetch_both(chain, Path(work), gtid)
            fetched = sorted(path.name for path in theirs.iterdir())
            assert sorted(path.name for path in ours.iterdir()) == fetched
            for name in fetched:
                difference = first_difference(ours / name, theirs / name)
                assert difference is None, f"{name} ({'GTID' if gtid else 'file'} dump): {difference}"


def _fetch_both(chain: Chain, work: Path, gtid: bool) -> tuple[Path, Path]:
    """The folders with the files of node and source, fetched while the source wrote nothing.

    MariaDB writes a BINLOG_CHECKPOINT by itself some time after it has begun a file. A node of a cluster ends its dumps
    when it has not heard of the others for a while, as it does when the machine is busy.
    """
    attempts = itertools.count()
    said: list[str] = []

    def fetched() -> tuple[Path, Path] | None:
        attempt = next(attempts)
        chain.wait_node()
        files = chain.source.sql("SHOW BINARY LOGS")
        folders = work / f"node-{attempt}", work / f"source-{attempt}"
        try:
            for port, folder in zip((chain.node.port, chain.source.port), folders, strict=True):
                fetch_files(chain.source.binaries, port, folder, [text(row[0]) for row in files], gtid=gtid)
        except NotServedError as late:
            said.append(str(late))
            return None
        return folders if chain.source.sql("SHOW BINARY LOGS") == files else None

    return wait_until(fetched, 120, "the same files from node and source", interval=0.2, found=lambda: str(said))


def first_difference(ours: Path, theirs: Path) -> str | None:
    """Where two files part, in words; None when they are equal."""
    if filecmp.cmp(ours, theirs, shallow=False):
        return None
    a, b = ours.read_bytes(), theirs.read_bytes()
    at = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return (
        f"{len(a)} bytes from the node, {len(b)} from the source; they part at {at}: "
        f"{a[at : at + 40].hex()} instead of {b[at : at + 40].hex()}"
    )
