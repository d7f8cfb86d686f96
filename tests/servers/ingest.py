"""A reader and a log in the test's own process, and whether the log holds what is on the source's disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from kingbus_node.config import Address, SourceSettings
from kingbus_node.demo.alone import lead_alone
from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER, Options, Server
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until
from kingbus_node.source.checks import Replica
from kingbus_node.source.reader import SourceReader, SourceState, SourceStatus
from kingbus_node.store.entry import CONTINUATION, OFFSET_MASK, Flag, Kind
from kingbus_node.store.log import Log

UUID = "77777777-e697-11f1-8268-02fc00000001"
IN_USE = 21
# The source waits for an acknowledgement once, for half a second, when nobody is there to give it (by default ten).
SEMI_SYNC: dict[Flavor, Options] = {
    Flavor.MYSQL: {
        "plugin-load-add": "semisync_source.so",
        "loose-rpl-semi-sync-source-enabled": "ON",
        "loose-rpl-semi-sync-source-timeout": 500,
    },
    Flavor.MARIADB: {
        "rpl-semi-sync-master-enabled": "ON",
        "rpl-semi-sync-master-timeout": 500,
        "rpl-semi-sync-master-wait-point": "AFTER_SYNC",
    },
}


class Ingest:
    """A reader with its log, in this process."""

    def __init__(self, folder: Path, *sources: Server, entry_bytes: int = 1 << 20, port: int | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.source = sources[0]
        self.entry_bytes = entry_bytes
        ports = [port] if port is not None else [source.port for source in sources]
        (folder / "password").write_text(REPLICATION_PASSWORD)
        self.settings: dict[str, object] = {
            "endpoints": [Address("127.0.0.1", one) for one in ports],
            "user": REPLICATION_USER,
            "password_file": folder / "password",
            "retry": {"initial": 0.02, "max": 0.5},
        }

    @contextmanager
    def running(self, **settings: object) -> Iterator[Running]:
        """Read from the source meanwhile."""
        log = Log.open(self.folder / "log", segment_bytes=8 << 20)
        node = lead_alone(log)
        values = SourceSettings.model_validate(self.settings | settings)
        reader = SourceReader(values, log, node, Replica(4242, UUID), heartbeat=1.0, entry_bytes=self.entry_bytes)
        node.add_commit_listener(reader.committed)
        reader.start()
        try:
            yield Running(self, log, reader)
        finally:
            assert reader.stop()
            node.close()
            log.close()


class Running:
    """An `Ingest` that runs."""

    def __init__(self, ingest: Ingest, log: Log, reader: SourceReader) -> None:
        self.ingest = ingest
        self.log = log
        self.reader = reader

    def status(self) -> SourceStatus:
        return self.reader.status()

    def wait_for(self, *states: SourceState) -> SourceStatus:
        """Wait until it is in one of these states; the status then."""

        def reached() -> SourceStatus | None:
            now = self.status()  # once: it may be in another state when it is asked again
            return now if now.state in states else None

        names = " or ".join(states)
        return wait_until(reached, 60, f"state {names}", found=lambda: str(self.status()))

    def wait_all(self) -> None:
        """Until the log ends where the source's last file does."""
        wait_until(self.has_all, 120, "the log to hold all that the source has", found=lambda: str(self.status()))

    def has_all(self) -> bool:
        last = self.ingest.source.table("SHOW BINARY LOGS")[-1]
        file = self.log.state.file
        return file is not None and file.source_name == last["Log_name"] and str(file.end_pos) == str(last["File_size"])

    def files(self, *, served: bool = False) -> dict[str, bytes]:
        """The bytes of each file in the log, by the source's name or that which replicas see, as a file has them."""
        out: dict[str, bytearray] = {}
        opened: list[bytes] = []
        name = ""
        for index in range(self.log.first_index, self.log.commit_index + 1):
            entry = self.log.read(index)
            if entry.kind == Kind.CANCEL:
                opened = []
            if entry.kind != Kind.DATA:
                continue
            if entry.meta.file is not None:
                name = entry.meta.file.name if served else entry.meta.file.source_name
                assert name not in out
                out[name] = bytearray(b"\xfebin")
            ends = [*(packet & OFFSET_MASK for packet in entry.packets.tolist()[1:]), len(entry.payload)]
            for packet, end in zip(entry.packets.tolist(), ends, strict=True):
                at = packet & OFFSET_MASK
                opened.append(bytes(entry.payload[at + (4 if packet >= CONTINUATION else 5) : end]))
            if entry.flags & Flag.LAST:
                out[name] += b"".join(opened)
                opened = []
        return {name: bytes(data) for name, data in out.items()}

    def assert_holds_the_source_files(self) -> None:
        names = self.ingest.source.binary_logs()
        on_disk = {name: bytearray((self.ingest.source.data / name).read_bytes()) for name in names}
        # MariaDB adds a BINLOG_CHECKPOINT whenever it likes: what was on disk just now is to be here in a moment.
        last = len(on_disk[names[-1]])
        wait_until(lambda: self.log.state.end_pos >= last, 60, f"position {last} of {names[-1]}")
        stored = self.files()
        for name, wanted in on_disk.items():
            wanted[IN_USE] &= 0xFE
            found = stored[name][: len(wanted)] if name == names[-1] else stored[name]
            # Hundreds of megabytes: not for pytest's explanation of what differs.
            if found != wanted:
                at = first_difference(found, wanted)
                pytest.fail(f"{name}: {len(wanted)} bytes expected, {len(found)} found, which differ from byte {at} on")


def first_difference(one: Sequence[int], other: Sequence[int]) -> int:
    """Where two different strings of bytes begin to differ."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
