"""Putting a log that was copied from another node in the place of the one around it; a crash leaves the one or the
other.

The copied log is whole and durable in the folder ``incoming``. The file ``adopt``, written durably, decides: from then
on the log is the copied one. What belongs to the old log is removed, and what belongs to the new one is moved to its
place; opening a log finishes what a crash interrupted. What was moved already is not in ``incoming`` any more, which is
how one of the same name is told from an old one. Term, vote and identity stay.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from kingbus_node.store.catalogue import CATALOGUE_NAME
from kingbus_node.store.durable import fsync_directory, write_file
from kingbus_node.store.errors import CorruptLogError
from kingbus_node.store.marks import MARK_NAME
from kingbus_node.store.segment import index_path, list_segments, log_path

INCOMING = "incoming"
ADOPT_NAME = "adopt"


def begin_adoption(directory: Path, firsts: Sequence[int]) -> None:
    """Decides, durably, that the log is to be the one in ``incoming`` with the segments that begin with `firsts`."""
    fsync_directory(directory / INCOMING)
    write_file(directory / ADOPT_NAME, json.dumps(list(firsts)).encode())


def finish_adoption(directory: Path) -> bool:
    """Does what was decided; whether anything was. OSError, CorruptLogError."""
    marker, incoming = directory / ADOPT_NAME, directory / INCOMING
    if not marker.exists():
        if incoming.exists() and not any(path.suffix in (".log", ".part") for path in incoming.iterdir()):
            shutil.rmtree(incoming)  # what an adoption has left
        return False
    try:
        firsts = {int(first) for first in json.loads(marker.read_bytes())}
    except (ValueError, TypeError) as error:
        raise CorruptLogError(marker, 0, f"it names no segments: {error}") from error
    for old in list_segments(directory):
        if old not in firsts:
            log_path(directory, old).unlink()
            index_path(directory, old).unlink(missing_ok=True)
    names = [MARK_NAME, CATALOGUE_NAME]
    for first in sorted(firsts):
        names += [index_path(directory, first).name, log_path(directory, first).name]
    for name in names:
        if (incoming / name).exists():
            (incoming / name).replace(directory / name)
    fsync_directory(directory)
    marker.unlink()
    fsync_directory(directory)
    shutil.rmtree(incoming, ignore_errors=True)
    return True
