"""System calls with the care that durability needs, in one place so that tests can make a disk fail.

Three rules of POSIX file systems are behind this module: a new, renamed or removed name is durable only after an fsync
of its directory; a write may be short; a failed fsync leaves it unknown what is on the disk, and must not be tried
again.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kingbus_node.binlog.constants import Buffer
from kingbus_node.store.errors import CorruptLogError

NO_SPACE: Final = frozenset((errno.ENOSPC, errno.EDQUOT))
"""Errors that go away when somebody makes room: on the disk, or in the quota of whoever owns the files."""
_IOV_MAX = min(1024, os.sysconf("SC_IOV_MAX"))


class FileHandle:
    """A file descriptor that is closed when the last user lets go of it.

    Several threads read through one handle while another may drop it (roll, purge): reference counting keeps the number
    from being reused under a reader, which an explicit close could not.
    """

    __slots__ = ("fd", "path")

    def __init__(self, path: Path, flags: int, mode: int = 0o640) -> None:
        self.path = path
        self.fd = -1
        self.fd = os.open(path, flags | os.O_CLOEXEC, mode)

    def size(self) -> int:
        """Length of the file in bytes."""
        return os.fstat(self.fd).st_size

    def close(self) -> None:
        """Closes it at once: only for a handle that no other thread uses."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


class FileSlice:
    """Bytes of a file that nobody has read yet, and perhaps nobody will: the kernel can send them from its page cache.

    What lies there must not change. If the file was cut meanwhile, there are fewer bytes than the slice says.
    """

    __slots__ = ("_file", "_offset", "_size")

    def __init__(self, file: FileHandle, offset: int, size: int) -> None:
        self._file = file
        self._offset = offset
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __bytes__(self) -> bytes:
        """All of it, read. OSError if it is not there any more; CorruptLogError if the disk cannot read it."""
        try:
            data = read_at(self._file.fd, self._size, self._offset)
        except OSError as error:
            raise self._unreadable(error) from error
        if len(data) < self._size:
            raise OSError(errno.EIO, f"it ends {self._size - len(data)} bytes too early", str(self._file.path))
        return data

    def send(self, socket: int) -> int:
        """Sends what the connection with that descriptor takes; returns how much.

        BlockingIOError; OSError if the connection is gone, or the bytes; CorruptLogError if the disk cannot read them.
        """
        try:
            sent = os.sendfile(socket, self._file.fd, self._offset, self._size)
        except OSError as error:
            if error.errno == errno.EIO:
                raise self._unreadable(error) from error
            raise
        if not sent:
            raise OSError(errno.EIO, f"it ends {self._size} bytes too early", str(self._file.path))
        return sent

    def _unreadable(self, error: OSError) -> CorruptLogError:
        return CorruptLogError(self._file.path, self._offset, f"it cannot be read: {error}")

    def split(self, count: int) -> tuple[FileSlice, FileSlice]:
        """The first `count` bytes, and the others."""
        rest = FileSlice(self._file, self._offset + count, self._size - count)
        return FileSlice(self._file, self._offset, count), rest

    def joined(self, other: FileSlice) -> FileSlice | None:
        """Both in one, if `other` follows in the same file."""
        if other._file is not self._file or other._offset != self._offset + self._size:
            return None
        return FileSlice(self._file, self._offset, self._size + other._size)


def write_at(fd: int, buffers: Sequence[Buffer], offset: int) -> int:
    """Writes all of `buffers` back to back from byte `offset`; returns the offset behind them. OSError."""
    written = os.pwritev(fd, buffers[:_IOV_MAX], offset)
    offset += written
    if written == sum(map(len, buffers)):
        return offset
    return _write_rest(fd, buffers, written, offset)


def _write_rest(fd: int, buffers: Sequence[Buffer], written: int, offset: int) -> int:
    """The same, with so many bytes written already."""
    pending = list(buffers)
    at = 0
    while True:
        while at < len(pending) and written >= len(pending[at]):
            written -= len(pending[at])
            at += 1
        if at == len(pending):
            return offset
        if written:
            pending[at] = memoryview(pending[at])[written:]
        written = os.pwritev(fd, pending[at : at + _IOV_MAX], offset)
        offset += written


def read_at(fd: int, size: int, offset: int) -> bytes:
    """Up to `size` bytes from byte `offset`: fewer only at the end of the file."""
    data = os.pread(fd, size, offset)
    if len(data) == size or not data:
        return data
    parts = [data]
    got = len(data)
    while got < size:
        data = os.pread(fd, size - got, offset + got)
        if not data:
            break
        parts.append(data)
        got += len(data)
    return b"".join(parts)


def fdatasync(fd: int) -> None:
    """Makes a file's bytes and length durable. Never call it again after it failed."""
    os.fdatasync(fd)


def fsync_directory(path: Path) -> None:
    """Makes the names in a directory durable: after creating, renaming or removing a file in it."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_file(path: Path, data: Buffer) -> None:
    """Puts a whole file in place so that after a crash at any moment either the old or the new content is there."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        try:
            write_at(fd, [data], 0)
            fdatasync(fd)
        finally:
            os.close(fd)
        temporary.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    fsync_directory(path.parent)
