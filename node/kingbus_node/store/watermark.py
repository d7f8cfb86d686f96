"""How far readers may look, shared by the processes of a node through a mapped file of 64-bit words.

The writer stores a word only after everything below it is in the files (page cache included), with one aligned 8-byte
store, which the processors that Linux runs CPython on do not tear; a reader loads it the same way and then reads the
files. The file is not durable and need not be: opening the log writes it again.

One word is a lease: when the node was last level with a quorum of its cluster. A core process that hangs or was stopped
cannot tell its serve processes anything; they see that this word grows old.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from kingbus_node.store.durable import FileHandle, write_at
from kingbus_node.store.errors import StoreError

WATERMARK_NAME = "watermark"
SIZE = 4096
_MAGIC = int.from_bytes(b"KBWATER\x01", "little")
_WORD_MAGIC, _WORD_VISIBLE, _WORD_FIRST, _WORD_COMMIT, _WORD_CONTACT, _WORD_CHANGES = range(6)


class Watermark:
    """The mapped words. `create` for the one writer, `open` for readers; both may be used from any thread."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        flags = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
        handle = FileHandle(path, flags)
        if writable and handle.size() < SIZE:
            write_at(handle.fd, [bytes(SIZE)], 0)  # a hole would be filled on access, which a full disk makes fatal
        elif handle.size() < SIZE:
            raise StoreError(
                f"{path} has {handle.size()} bytes, expected {SIZE}: the log was never opened for writing here"
            )
        self._map = mmap.mmap(handle.fd, SIZE, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ)
        self._words = memoryview(self._map).cast("Q")
        if writable:
            self._words[_WORD_MAGIC] = _MAGIC
            self._words[_WORD_CHANGES] += 2 - self._words[_WORD_CHANGES] % 2  # whatever was going on, it is over
            self._words[_WORD_CONTACT] = 0  # that of an earlier boot of the machine could lie in the future
        elif self._words[_WORD_MAGIC] != _MAGIC:
            raise StoreError(f"{path} is not a watermark of this release")

    @classmethod
    def create(cls, directory: Path) -> Watermark:
        """For the process that writes the log in `directory`."""
        return cls(directory / WATERMARK_NAME, writable=True)

    @classmethod
    def open(cls, directory: Path) -> Watermark:
        """For readers. FileNotFoundError or StoreError until the log was opened for writing for the first time."""
        return cls(directory / WATERMARK_NAME, writable=False)

    @property
    def visible_index(self) -> int:
        """The last entry that readers may see: committed, and no transaction is open after it."""
        return self._words[_WORD_VISIBLE]

    @property
    def first_index(self) -> int:
        """The oldest entry that this node still holds."""
        return self._words[_WORD_FIRST]

    @property
    def commit_index(self) -> int:
        """The last committed entry."""
        return self._words[_WORD_COMMIT]

    @property
    def contact(self) -> int:
        """When the node was last level with a quorum: `time.monotonic_ns`, the same in all processes; 0 for never."""
        return self._words[_WORD_CONTACT]

    def publish(self, visible_index: int, commit_index: int) -> None:
        """Lets readers see more. Only the writer calls it."""
        self._words[_WORD_COMMIT] = commit_index
        self._words[_WORD_VISIBLE] = visible_index

    def publish_first(self, first_index: int) -> None:
        """Tells readers what is about to be dropped."""
        self._words[_WORD_FIRST] = first_index

    @property
    def changes(self) -> int:
        """Changes whenever another log takes the place of this one; odd while that is going on."""
        return self._words[_WORD_CHANGES]

    def publish_change(self) -> None:
        """Another log takes this one's place: to be called before the first file is touched, and after the last."""
        self._words[_WORD_CHANGES] += 1

    def publish_contact(self, nanoseconds: int) -> None:
        """Prolongs the lease of the serve processes: see `contact`."""
        self._words[_WORD_CONTACT] = nanoseconds

    def close(self) -> None:
        """Unmaps the file."""
        self._words.release()
        self._map.close()
