"""Whether files have changed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

Stamp = tuple[tuple[int, int, int] | int, ...]
"""For each file its inode, size in bytes and time of change in ns, or the errno of why it is not to be had."""


def stamp(files: Iterable[Path]) -> Stamp:
    """Equal as long as none of `files` was written to, replaced, removed or made.

    A Secret that Kubernetes mounts is replaced as a whole, by a symbolic link to other files: their inodes tell.
    """
    return tuple(_stamp(file) for file in files)


def _stamp(file: Path) -> tuple[int, int, int] | int:
    try:
        found = file.stat()
    except OSError as error:
        return error.errno or 0
    return found.st_ino, found.st_size, found.st_mtime_ns
