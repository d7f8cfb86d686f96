"""Whether a node's binary logs are the source's, byte for byte and file for file."""

from __future__ import annotations

import filecmp
import tempfile
from pathlib import Path

from kingbus_node.demo.servers import Flavor
from servers.chain import Chain
from servers.raw import fetch_files


def assert_files_equal(chain: Chain) -> None:
    """Fetch all files from node and source with the flavour's own tool and compare them.

    For MySQL once by file and position and once by GTID. The node must hold what the source has before.
    """
    names = chain.source.binary_logs()
    binaries = chain.source.binaries
    for gtid in (False, True) if chain.source.flavor is Flavor.MYSQL else (False,):
        with tempfile.TemporaryDirectory(dir=chain.node.folder) as work:
            ours, theirs = Path(work) / "node", Path(work) / "source"
            fetch_files(binaries, chain.node.port, ours, names, gtid=gtid)
            fetch_files(binaries, chain.source.port, theirs, names, gtid=gtid)
            fetched = sorted(path.name for path in theirs.iterdir())
            assert sorted(path.name for path in ours.iterdir()) == fetched
            for name in fetched:
                difference = first_difference(ours / name, theirs / name)
                assert difference is None, f"{name} ({'GTID' if gtid else 'file'} dump): {difference}"


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
