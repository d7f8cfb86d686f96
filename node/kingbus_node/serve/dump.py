"""A dump: the stream of events that a connection becomes after COM_BINLOG_DUMP or COM_BINLOG_DUMP_GTID.

The order of the stream, as captured from MySQL 9.7.4 and MariaDB 10.11.19:

1. An artificial ROTATE names the file and the position. Then the file's FORMAT_DESCRIPTION, even when the position is
   behind it; then the events from the position on, as they are in the log.
2. Where a file ends its own ROTATE comes first, if it has one (a crash leaves none), then 1 for the next file, from its
   first event on.
3. A filter leaves out what the replica has and puts events in between that say where it is (`mysql_filter`,
   `mariadb_filter`).
4. At the end of the log the dump waits. If the client SET a heartbeat period, a HEARTBEAT goes out whenever that long
   nothing was sent. A non-blocking dump ends with an EOF packet instead.
5. What is found wrong ends the stream with an error packet, which is for the caller to send.

Only committed whole transactions are in the log as `LogReader` shows it, so nothing here can send half of one. A dump
holds one block in memory, whatever the size of an event, and a client that does not read only stops its own thread.
A replica that wants to acknowledge what it has may do so (`semisync`): nothing waits for it.
"""

from __future__ import annotations

import select
import time
from dataclasses import dataclass
from typing import Final

from kingbus_node.binlog.build import fix_format_description
from kingbus_node.binlog.constants import FIRST_POSITION, ChecksumAlgorithm, Flavor
from kingbus_node.binlog.event import FormatDescription
from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.serve.artificial import Artificial
from kingbus_node.serve.blockview import BlockView
from kingbus_node.serve.channel import Channel
from kingbus_node.serve.facts import SessionFacts
from kingbus_node.serve.filters import Filter, Plan
from kingbus_node.serve.mariadb_filter import MariadbFilter
from kingbus_node.serve.mariadb_start import start_by_gtid_position
from kingbus_node.serve.misplaced import misplaced_position
from kingbus_node.serve.mysql_start import decode_set, start_by_gtid_set
from kingbus_node.serve.outgoing import Outgoing, Stored
from kingbus_node.serve.refusals import Coordinates, checksum_unknown, same_replica, unknown_file
from kingbus_node.serve.registry import Dump, Registry, StopReason
from kingbus_node.serve.semisync import ENDS_TRANSACTION, SemiSyncOutgoing
from kingbus_node.serve.start import MaybeLateError, Start, start_at_position
from kingbus_node.store.catalogue import FileInfo
from kingbus_node.store.cursor import Block, Cursor
from kingbus_node.store.errors import BeingReplacedError, PositionInsideEventError, PurgedError, StoreError
from kingbus_node.store.reader import LogReader
from kingbus_node.store.state import FACT_CLUSTER_UUID, LogState
from kingbus_node.wire.commands import DumpFlag, DumpKind, DumpRequest
from kingbus_node.wire.errors import MySQLError, shutting_down, unknown_command

_EOF: Final = b"\xfe\0\0\x02\0"  # no warnings; status: autocommit
_HEAD_BLOCK: Final = 65536
_PURGES_IN_A_ROW: Final = 5
_SHORTEST_PERIOD: Final = 0.001  # seconds; so it is for a replica (SOURCE_HEARTBEAT_PERIOD)
_LONGEST_POLL_MS: Final = 2**31 - 1  # heartbeat periods may be longer, of up to 4294967 s


@dataclass(frozen=True, slots=True)
class DumpSettings:
    """What a node's configuration says about dumps.

    server_id: in the events that a dump invents. block_bytes: how much is read, and held in memory, at a time (nothing
    while a dump waits at the end of the log); at least 65536, and best a little more than the payload of a big entry.
    patience: seconds that a dump waits for a position or GTID that is not here, before it refuses: a replica that moves
    here from another node may be a moment ahead of this one.
    """

    server_id: int
    block_bytes: int = 1280 * 1024
    patience: float = 2.0


def run_dump(
    request: DumpRequest,
    facts: SessionFacts,
    channel: Channel,
    reader: LogReader,
    settings: DumpSettings,
    registry: Registry,
) -> None:
    """Stream until the client leaves or the dump is stopped; the connection is of no use afterwards.

    Raises MySQLError for what the client is to be told (the packet that carries it has number `channel.sequence`),
    `DisconnectedError` and `PeerTimeoutError` when there is nobody to tell, StoreError when the log cannot be read.
    """
    dump = Dump(facts, channel, request, time.time())
    registry.add(dump)
    try:
        _Stream(dump, reader, settings).run()
    except BeingReplacedError:
        raise shutting_down() from None
    finally:
        registry.remove(dump)


class _Stream:
    """One dump. Used by one thread."""

    def __init__(self, dump: Dump, reader: LogReader, settings: DumpSettings) -> None:
        request, facts = dump.request, dump.facts
        flavor = reader.state().flavor
        if flavor is None:
            raise shutting_down()
        if flavor is Flavor.MARIADB and request.kind is DumpKind.GTID:
            raise unknown_command()
        self._dump = dump
        self._reader = reader
        self._settings = settings
        self._flavor = flavor
        period = max(facts.number("source_heartbeat_period", "master_heartbeat_period") or 0, 0) / 1e9
        self._period = max(period, _SHORTEST_PERIOD) if period else 0.0
        checksum = facts.text("source_binlog_checksum", "master_binlog_checksum")
        self._checksum_known = checksum is not None
        second = flavor is Flavor.MYSQL and bool(request.flags & DumpFlag.MYSQL_HEARTBEAT_V2)
        wants_checksum = checksum is not None and checksum.upper() == "CRC32"
        self._artificial = Artificial(settings.server_id, 2 if second else 1, wants_checksum)
        self._at = Coordinates(flavor, request.file, request.position)
        self._filter: Filter | None = None
        self._position = FIRST_POSITION  # where what was sent ends in the current file
        self._unfinished = 0  # bytes of the event that is being sent that are still to come
        self._folded: LogState | None = None  # of `_gtid_sent`, when it was asked last
        self._last_size = 0  # of the last event that was sent
        dump.semi_sync = bool(facts.number("rpl_semi_sync_replica", "rpl_semi_sync_slave"))
        self._out = SemiSyncOutgoing(dump.channel) if dump.semi_sync else Outgoing(dump.channel)
        self._last_sent = time.monotonic()
        self._poll = select.poll()
        self._poll.register(dump.channel.fileno(), select.POLLIN | select.POLLRDHUP)
        self._poll.register(dump.wakeup.fileno(), select.POLLIN)

    def run(self) -> None:
        """See `run_dump`."""
        start = self._find_start()
        if start is None:
            return
        cursor = self._begin(start)
        try:
            while self._step(cursor):
                pass
        except PurgedError:
            raise self._at.fatal("could not find next log") from None
        finally:
            cursor.close()

    # -- beginning -----------------------------------------------------------------------------------------------------

    def _find_start(self) -> Start | None:
        """Where to begin; None when the dump was stopped first."""
        deadline = time.monotonic() + self._settings.patience
        purges = 0
        while True:
            self._dump.wakeup.clear()
            if self._stopped():
                return None
            try:
                return self._start()
            except MaybeLateError as late:
                left = deadline - time.monotonic()
                if left <= 0 or self._reader.current_file() is None:
                    raise late.refusal from None
                self._wait(left)
            except PurgedError:
                # A purge came between two looks: the next one finds what is left, and says what is missing.
                purges += 1
                if purges == _PURGES_IN_A_ROW:
                    raise unknown_file() from None

    def _start(self) -> Start:
        request, facts = self._dump.request, self._dump.facts
        if self._reader.current_file() is None:
            raise MaybeLateError(shutting_down())
        if self._flavor is Flavor.MYSQL:
            if request.kind is DumpKind.GTID:
                uuid = self._reader.facts().get(FACT_CLUSTER_UUID)
                return start_by_gtid_set(self._reader, request, self._artificial, str(uuid or ""))
            return start_at_position(self._reader, self._flavor, request.file, request.position, None)
        annotate = bool(request.flags & DumpFlag.MARIADB_ANNOTATE_ROWS)
        connect_state = facts.text("slave_connect_state")
        if connect_state is not None:
            return start_by_gtid_position(self._reader, facts, self._artificial, connect_state, annotate=annotate)
        capability = facts.number("mariadb_slave_capability") or 0
        filter_ = MariadbFilter(self._artificial, annotate=annotate, capability=capability)
        return start_at_position(self._reader, self._flavor, request.file, request.position, filter_)

    def _begin(self, start: Start) -> Cursor:
        """Send what comes before the first event that is asked for; returns the place of that."""
        self._filter = start.filter
        self._dump.gtid_sent = self._gtid_sent
        self._dump.index = start.file.start_index - 1
        if start.position == FIRST_POSITION:
            return self._reader.cursor(start.file.start_index)
        head = self._reader.cursor(start.file.start_index)
        try:
            block = head.read(_HEAD_BLOCK)
            if block is None or not block.starts_file:
                raise PurgedError(f"the head of source file {start.file.id} is gone")
            self._enter(start.file, start.position)
            self._describe(BlockView.of(block).event(0), resets=start.resets)
        except PurgedError:
            raise self._at.fatal("could not find next log") from None
        finally:
            head.close()
        try:
            index, offset = self._reader.locate(start.file.id, start.position)
        except PositionInsideEventError as inside:
            self._flush()
            raise misplaced_position(self._reader, start.file, inside.event_start, start.position, self._at) from None
        self._progress(index - 1, start.position, 0)
        return self._reader.cursor(index, offset)

    def _enter(self, file: FileInfo, position: int) -> None:
        """Announce a file."""
        self._artificial.file = self._at.file = self._dump.file = file.name
        self._position = position
        self._out.event(self._artificial.rotate(position))
        if self._filter is not None:
            self._filter.start_file()

    def _describe(self, event: bytes, *, resets: bool) -> None:
        """Send a file's FORMAT_DESCRIPTION."""
        description = FormatDescription.parse(event)
        end = FIRST_POSITION + len(event)
        self._at.before = FIRST_POSITION if self._flavor is Flavor.MARIADB else end
        self._at.last = end
        has_checksum = description.checksum is ChecksumAlgorithm.CRC32
        if has_checksum and not self._checksum_known:
            self._flush()
            raise checksum_unknown(self._at)
        self._artificial.checksum = has_checksum
        clears_created = resets or (self._filter is not None and self._filter.clears_created)
        self._out.event(fix_format_description(event, zero_log_pos=resets, zero_create_timestamp=clears_created))

    # -- going on ------------------------------------------------------------------------------------------------------

    def _step(self, cursor: Cursor) -> bool:
        """Send a block, or wait for one. False: the stream has ended."""
        if self._stopped():
            return False
        block = self._read(cursor)
        if block is None:
            self._dump.wakeup.clear()
            if self._stopped():  # what the signals cleared were about: this, or that there is more to read
                return False
            block = self._read(cursor)
        if block is None:
            cursor.relax()
            self._dump.index = cursor.next_index - 1  # with what holds no events
            return self._rest()
        more = self._send(block)
        self._flush()
        if block.complete:
            record = block.records[-1]
            self._progress(block.last_index, int(record["end_pos"]), int(record["timestamp"]))
        return more

    def _read(self, cursor: Cursor) -> Block | None:
        """See `Cursor.read`. What fails in the middle of an event cuts the connection: an error that is sent there
        would be taken for a part of the event.
        """
        try:
            return cursor.read(self._settings.block_bytes)
        except Exception:
            if self._unfinished:
                self._dump.channel.abort()
            raise

    def _rest(self) -> bool:
        """The end of the log: tell the client so, wait. False: the stream has ended."""
        event = None if self._filter is None else self._filter.at_end()
        if event is not None:
            self._out.event(event)
        if self._dump.request.non_block:
            return self._finish()
        self._flush()
        if not self._period:
            self._wait(None)
            return True
        left = self._last_sent + self._period - time.monotonic()
        if left > 0 and self._wait(left):
            return True
        if self._last_sent + self._period <= time.monotonic():
            self._out.event(self._artificial.heartbeat(self._position))
            self._flush()
        return True

    def _send(self, block: Block) -> bool:
        """Add a block to what is to be sent. False: the stream ends with it."""
        view = BlockView.of(block)
        if len(view):
            self._last_size = view.size(len(view) - 1)
        self._unfinished = view.unfinished(self._unfinished)
        if block.starts_file:
            self._enter(self._reader.file(block.file_id), FIRST_POSITION)
            self._describe(view.event(0), resets=False)
        plan = None if self._filter is None else self._filter.plan(view)
        if self._filter is not None and self._filter.done:
            self._filter = None
        if plan is not None:
            return self._carry_out(plan, view)
        packets, start = view.packets, 0
        if block.starts_file:  # the first packet is sent already
            packets = packets[1:]
            start = int(packets[0]) if len(packets) else len(block.data)
        if start < len(block.data):
            whole = Stored(block.data, view.data, view.starts, packets, [start], [len(block.data)])
            self._out.stored(whole, acknowledge=self._acknowledged(view))
        return True

    def _carry_out(self, plan: Plan, view: BlockView) -> bool:
        behind = len(view)
        if plan.stop is not None:
            behind = plan.stop
        if plan.refusal is not None:
            behind = min(behind, plan.refusal[0])
        if view.block.starts_file:
            plan.keep[0] = False  # sent already
        row = 0
        for before, event in plan.inserts:
            if before > behind:
                break
            self._send_rows(plan, view, row, before)
            self._out.event(event)
            row = before
        self._send_rows(plan, view, row, behind)
        if plan.refusal is not None and plan.refusal[0] == behind:
            self._flush()
            raise self._refusal(view, *plan.refusal)
        if plan.stop is not None:
            return self._finish()
        if self._filter is not None and self._period and time.monotonic() >= self._last_sent + self._period:
            event_due = self._filter.overdue()
            if event_due is not None:
                self._out.event(event_due)
        return True

    def _refusal(self, view: BlockView, row: int, refusal: MySQLError | str) -> MySQLError:
        """The error that ends the stream before event `row`; for a text, with that event's coordinates."""
        if isinstance(refusal, MySQLError):
            return refusal
        self._at.last = view.end_position(row)
        self._at.before = self._at.last - view.size(row)
        return self._at.fatal(refusal)

    def _send_rows(self, plan: Plan, view: BlockView, first: int, behind: int) -> None:
        packets, starts, ends = view.cut(plan.keep, first, behind, carried=plan.carried)
        if len(starts):
            parts = Stored(view.block.data, view.data, view.starts, packets, starts.tolist(), ends.tolist())
            last = behind == len(view) and bool(plan.keep[-1:].all())
            self._out.stored(parts, acknowledge=last and self._acknowledged(view))

    def _acknowledged(self, view: BlockView) -> bool:
        """Whether a replica that acknowledges is asked to do so for the last event of the block."""
        return len(view) > 0 and not view.ends_in_transaction and int(view.types[-1]) in ENDS_TRANSACTION

    def _flush(self) -> None:
        if self._out.flush():
            self._last_sent = time.monotonic()
            if self._dump.semi_sync:
                self._take_input()

    def _take_input(self) -> None:
        """What the client has sent: acknowledgements, or nothing that matters. DisconnectedError at its end."""
        for data in self._dump.channel.received():
            if self._dump.semi_sync:
                self._dump.acknowledged.feed(data)

    def _progress(self, index: int, position: int, timestamp: int) -> None:
        """Note how far the stream is, for whoever asks about replicas; once for each block."""
        self._position = self._at.before = self._at.last = position
        if self._flavor is Flavor.MARIADB:
            self._at.before -= self._last_size
        dump = self._dump
        dump.index, dump.position = index, position
        if timestamp:
            dump.timestamp = timestamp

    def _gtid_sent(self) -> str:
        """The GTIDs that the replica has by now: what it said, and what the log holds up to here; '' when that cannot
        be told any more. For one other thread, again and again.
        """
        try:
            state, index = self._reader.state(), self._dump.index
            if index < state.index:
                state = self._folded = self._reader.state_after(index, self._folded)
        except StoreError:  # purged while a slow client is still reading it; what else it may be ends the dump itself
            return ""
        executed = state.executed
        if isinstance(executed, GtidSet) and self._dump.request.kind is DumpKind.GTID:
            executed = executed | decode_set(self._dump.request.gtid_set)
        return "" if executed is None else str(executed)

    # -- waiting and ending --------------------------------------------------------------------------------------------

    def _wait(self, seconds: float | None) -> bool:
        """Wait until the log grows, the dump is stopped or the client leaves (DisconnectedError). False: the time is
        up, or 24 days have passed, more than which cannot be waited at once.
        """
        ready = self._poll.poll(None if seconds is None else max(1, min(_LONGEST_POLL_MS, int(seconds * 1000 + 0.999))))
        if any(fd == self._dump.channel.fileno() for fd, _ in ready):
            self._take_input()
        return bool(ready)

    def _stopped(self) -> bool:
        """Whether the dump is to end, by somebody else's wish."""
        match self._dump.stop:
            case None:
                return False
            case StopReason.NOT_SERVING if self._unfinished:
                pass  # an error would be taken for a part of the event: the connection is cut, without waiting for it
            case StopReason.DUPLICATE | StopReason.SHUTDOWN if self._unfinished:
                return False  # when the event has been sent
            case StopReason.DUPLICATE:
                raise same_replica(self._at)
            case StopReason.NOT_SERVING:
                raise shutting_down()
            case StopReason.SHUTDOWN:
                self._finish()
            case StopReason.KILLED:
                pass
        return True

    def _finish(self) -> bool:
        """End the stream as a source does."""
        self._out.packet(_EOF)
        self._flush()
        return False
