"""However often and wherever a dump is cut, the log is what the source's files are, byte for byte, or it is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.source.harness import FLAVORS, SEMI_SYNC, Harness, assert_holds
from unit.source.origin import OTHER_UUID, Origin

from kingbus_node.binlog.constants import Flavor
from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.binlog.mariadb import MariadbState
from kingbus_node.source import batch, resume
from kingbus_node.source.errors import Disconnected, Diverged, Refused, StreamError
from kingbus_node.source.resume import purged_behind
from kingbus_node.source.settings import FACT_SETTINGS
from kingbus_node.store.entry import Entry, Flag, Kind, Meta
from kingbus_node.wire.commands import parse_binlog_dump_gtid

KINDS = pytest.mark.parametrize(
    ("flavor", "legacy_positions"),
    [(Flavor.MYSQL, True), (Flavor.MARIADB, True), (Flavor.MARIADB, False)],
    ids=["mysql", "mariadb-10.11", "mariadb-11.8"],
)


def small(flavor: Flavor, *, checksum: bool = True, legacy_positions: bool = True) -> Origin:
    origin = Origin(flavor, checksum=checksum, legacy_positions=legacy_positions)
    origin.write(b"one")
    origin.write(b"two", b"three")
    origin.rotate()
    origin.write(b"four")
    return origin


@FLAVORS
@pytest.mark.parametrize("checksum", [True, False], ids=["CRC32", "NONE"])
def test_a_whole_dump_is_the_source_files(flavor: Flavor, checksum: bool) -> None:
    origin, harness = small(flavor, checksum=checksum), Harness()
    assert isinstance(harness.session(origin), Disconnected)
    assert_holds(harness, origin)


@FLAVORS
@SEMI_SYNC
def test_a_dump_cut_at_any_byte_goes_on_exactly(flavor: Flavor, semi_sync: bool) -> None:
    origin = small(flavor)
    for cut in range(0, Harness().length(origin) + 1, 3 if semi_sync else 1):
        harness = Harness(entry_bytes=300)
        harness.session(origin, cut=cut, semi_sync=semi_sync)
        harness.session(origin, semi_sync=semi_sync)
        assert_holds(harness, origin)


def test_events_without_positions_within_transactions_go_on_exactly() -> None:
    origin = small(Flavor.MARIADB, legacy_positions=False)
    for cut in range(0, Harness().length(origin) + 1, 3):
        harness = Harness(entry_bytes=300)
        harness.session(origin, cut=cut)
        harness.session(origin)
        assert_holds(harness, origin)


@pytest.fixture
def small_positions(monkeypatch: pytest.MonkeyPatch) -> int:
    """Positions of 11 bits in the place of those of 32: files need not have gigabytes to go beyond them."""
    wrap = 1 << 11
    monkeypatch.setattr(batch, "_WRAP", wrap)
    monkeypatch.setattr(resume, "_MAX_FILE_POSITION", wrap - 1)
    return wrap


@KINDS
def test_files_whose_positions_no_longer_fit_their_events_go_on_exactly_wherever_they_are_cut(
    small_positions: int, flavor: Flavor, legacy_positions: bool
) -> None:
    origin = Origin(flavor, wrap=small_positions, legacy_positions=legacy_positions)
    for size in (300, 700, 1, 900, 10, 400, 800, 2, 3):
        origin.write(bytes(size), b"row")
        if flavor is Flavor.MARIADB and size == 10:
            origin.checkpoint()
    if flavor is Flavor.MYSQL:  # MariaDB, asked by GTID, would leave out a ROTATE with nothing new before it
        origin.rotate()
        origin.write(b"in the next file")
    assert origin.files[0].end > 2 * small_positions
    for cut in range(0, Harness().length(origin) + 1, 43):
        harness = Harness(entry_bytes=300)
        harness.session(origin, cut=cut)
        for _ in range(2):
            assert isinstance(harness.session(origin), Disconnected)
        assert_holds(harness, origin)


@FLAVORS
def test_a_start_far_into_a_file_is_at_the_right_place(small_positions: int, flavor: Flavor) -> None:
    """Behind more than half of what positions can say; beyond all of it MySQL only can say where it is."""
    origin = Origin(flavor, wrap=small_positions)
    for size in (500, 600) if flavor is Flavor.MARIADB else (500, 600, 700, 800):
        origin.write(bytes(size))
    start, place = str(origin.executed), origin.files[0].end
    origin.write(b"wanted")
    harness = Harness(start=start)
    harness.session(origin)
    entries = [entry for entry in harness.log.live() if not entry.flags & Flag.FILE_START]
    assert [(entry.start_pos, entry.end_pos) for entry in entries] == [(place, origin.files[0].end)]
    origin.write(b"more")
    harness.session(origin)
    assert harness.log.state.end_pos == origin.files[0].end
    assert str(harness.log.state.executed) == str(origin.executed)


@FLAVORS
def test_fragments_of_a_cut_transaction_are_cancelled_and_fetched_again(flavor: Flavor) -> None:
    origin = Origin(flavor)
    origin.write(b"before")
    origin.write(*[bytes(100) for _ in range(20)])
    harness = Harness(entry_bytes=500)
    harness.session(origin, cut=harness.length(origin) - 700, portions=by(97))
    assert harness.log.state.open_index is not None
    harness.session(origin, portions=by(97))
    assert_holds(harness, origin)
    assert [entry.kind for entry in harness.log.entries].count(Kind.CANCEL) == 1
    fragments = [
        entry for entry in harness.log.live() if entry.flags & (Flag.FIRST | Flag.LAST) != Flag.FIRST | Flag.LAST
    ]
    assert len(fragments) > 2
    assert sum(entry.transaction_count for entry in fragments) == 1
    assert [bool(entry.meta.gtids) for entry in fragments] == [False] * (len(fragments) - 1) + [True]


@FLAVORS
def test_fragments_are_small_however_much_of_a_transaction_comes_at_once(flavor: Flavor) -> None:
    origin, harness = Origin(flavor), Harness(entry_bytes=500)
    origin.write(*[bytes(100) for _ in range(300)])
    harness.session(origin, portions=by(25_000))
    assert_holds(harness, origin)
    sizes = [len(entry.payload) for entry in harness.log.live()]
    assert sum(sizes[:-1]) > 20_000
    assert max(sizes[:-1]) < 2_300


@FLAVORS
def test_a_source_that_was_restarted_goes_on_in_its_next_file(flavor: Flavor) -> None:
    origin, harness = small(flavor), Harness()
    harness.session(origin)
    origin.restart()
    origin.write(b"five")
    harness.session(origin)
    assert_holds(harness, origin)


@FLAVORS
def test_a_source_that_was_killed_leaves_a_file_without_rotate(flavor: Flavor) -> None:
    origin, harness = small(flavor), Harness()
    harness.session(origin)
    origin.new_file()
    origin.new_file()
    origin.write(b"five")
    harness.session(origin)
    assert_holds(harness, origin)


@FLAVORS
def test_files_without_transactions_are_not_lost(flavor: Flavor) -> None:
    origin, harness = Origin(flavor), Harness()
    origin.rotate()
    harness.session(origin)
    origin.rotate()
    origin.rotate()
    harness.session(origin)
    assert_holds(harness, origin)


@FLAVORS
def test_a_log_that_ends_with_a_file_goes_on_with_the_next(flavor: Flavor) -> None:
    origin, harness = small(flavor), Harness()
    rotated = harness.length(origin)
    origin.rotate()
    harness.session(origin, cut=rotated + 50)
    file = harness.log.state.file
    assert file is not None
    assert file.closed
    origin.write(b"five")
    harness.session(origin)
    assert_holds(harness, origin)


@FLAVORS
def test_only_the_end_of_the_log_is_repeated(flavor: Flavor) -> None:
    origin, harness = Origin(flavor), Harness(entry_bytes=300)
    for _ in range(50):
        origin.write(b"row")
    whole = harness.length(origin)
    harness.session(origin)
    assert harness.length(origin) < whole / 5
    origin.write(b"more")
    harness.session(origin)
    assert_holds(harness, origin)


def test_positions_beyond_32_bits_go_on_exactly() -> None:
    origin, harness = Origin(Flavor.MYSQL), Harness()
    harness.session(origin)
    origin.write(b"row")
    harness.session(origin)
    # Let the transaction be four GiB further on in its file, in the log and at the source: its events stay the same.
    far = 1 << 32
    entry, file = harness.log.entries[-1], harness.log.folded.file
    assert file is not None
    harness.log.entries[-1] = replace(entry, start_pos=entry.start_pos + far, end_pos=entry.end_pos + far)
    harness.log.folded.file = file._replace(end_pos=file.end_pos + far)
    events = origin.files[-1].events
    origin.files[-1].events = [replace(e, start=e.start + far * (e.group is not None)) for e in events]
    gtid = origin.write(b"next")
    assert isinstance(harness.session(origin), Disconnected)
    assert parse_binlog_dump_gtid(harness.commands[-1][1:]).position > far
    assert harness.log.state.end_pos == origin.files[-1].end > far
    assert str(harness.log.state.executed) == str(origin.executed) == gtid.replace(":", ":1-")


# Starting


@FLAVORS
def test_earliest_counts_what_the_source_has_purged_as_executed_and_purged(flavor: Flavor) -> None:
    origin, harness = small(flavor), Harness()
    origin.purge(1)
    harness.session(origin)
    assert_holds(harness, origin)
    assert str(harness.log.state.purged) == str(origin.purged) != ""


@KINDS
def test_current_begins_with_what_comes_now(flavor: Flavor, legacy_positions: bool) -> None:
    origin, harness = small(flavor, legacy_positions=legacy_positions), Harness(start="current")
    harness.session(origin)
    state = harness.log.state
    assert str(state.executed) == str(state.purged) == str(origin.executed)
    first = origin.files[-1].events[0].data
    assert harness.log.files()["binlog.000002"].startswith(first[:17])
    origin.write(b"new")
    harness.session(origin)
    origin.write(b"newer")
    harness.session(origin)
    assert str(harness.log.state.executed) == str(origin.executed)
    new = b"".join(event.data for event in origin.files[-1].events if event.group is not None and event.group > 3)
    assert harness.log.files()["binlog.000002"].endswith(new)


@FLAVORS
def test_a_gtid_set_as_start_leaves_out_what_is_in_it(flavor: Flavor) -> None:
    origin = Origin(flavor)
    gtids = [origin.write(b"row") for _ in range(5)]
    start = gtids[2] if flavor is Flavor.MARIADB else f"{origin.server_uuid}:1-3"
    harness = Harness(start=start)
    harness.session(origin)
    origin.write(b"row")
    harness.session(origin)
    assert str(harness.log.state.executed) == str(origin.executed)
    assert sum(entry.transaction_count for entry in harness.log.live()) == 3
    assert str(harness.log.state.purged) == start


def test_a_gtid_set_with_holes_as_start_is_filled_up() -> None:
    origin = Origin(Flavor.MYSQL)
    for _ in range(9):
        origin.write(b"row")
    harness = Harness(start=f"{origin.server_uuid}:1-2:5-6:9")
    harness.session(origin, cut=900)
    harness.session(origin)
    assert str(harness.log.state.executed) == str(origin.executed)
    assert sum(entry.transaction_count for entry in harness.log.live()) == 4


def test_a_start_of_the_wrong_flavor_is_refused() -> None:
    origin, harness = small(Flavor.MYSQL), Harness(start="0-1-5")
    assert isinstance(harness.session(origin), Refused)


@FLAVORS
def test_a_start_that_the_source_has_purged_is_refused_with_what_is_missing(flavor: Flavor) -> None:
    origin = small(flavor)
    start = "0-1-1" if flavor is Flavor.MARIADB else f"{origin.server_uuid}:1"
    origin.purge(1)
    error = Harness(start=start).session(origin)
    assert isinstance(error, Refused)
    assert not isinstance(error, Diverged)
    if flavor is Flavor.MYSQL:
        assert error.missing == f"{origin.server_uuid}:2"


# The source has changed


@KINDS
def test_a_file_purged_at_the_source_is_left_for_the_next(flavor: Flavor, legacy_positions: bool) -> None:
    origin, harness = small(flavor, legacy_positions=legacy_positions), Harness()
    harness.session(origin)
    held = harness.log.files()
    origin.rotate()
    origin.rotate()
    origin.write(b"five")
    origin.purge(3)
    assert isinstance(harness.session(origin), Disconnected)
    assert harness.log.files() == held | {file.name: file.bytes for file in origin.files}
    assert str(harness.log.state.executed) == str(origin.executed)


def damaged(number: int) -> Callable[[bytes], bytes]:
    """Changes a byte in packet `number` of a dump."""

    def damage(data: bytes) -> bytes:
        at = 0
        for _ in range(number):
            at += 4 + int.from_bytes(data[at : at + 3], "little")
        changed = bytearray(data)
        changed[at + 30] ^= 1
        return bytes(changed)

    return damage


@SEMI_SYNC
def test_no_event_where_the_log_has_one_is_another_file(semi_sync: bool) -> None:
    """A reset source may have anything at that position: what MySQL sends for an event has no right checksum then."""
    origin, harness = small(Flavor.MYSQL), Harness(entry_bytes=300)
    for number in range(10):
        origin.write(b"%d" % number)
    harness.session(origin)
    before = harness.log.files()
    origin.write(b"five")
    error = harness.session(origin, semi_sync=semi_sync, damage=damaged(2))  # behind ROTATE and FORMAT_DESCRIPTION
    position = parse_binlog_dump_gtid(harness.commands[-1][1:]).position
    assert isinstance(error, Diverged)
    assert f"no event begins at position {position} of binlog.000002" in str(error)
    assert "Was the source reset" in str(error)
    assert harness.log.files() == before


@SEMI_SYNC
def test_a_damaged_event_behind_good_ones_is_told_with_its_place(semi_sync: bool) -> None:
    origin, harness = small(Flavor.MYSQL), Harness()
    harness.session(origin)
    end = origin.files[-1].end
    origin.write(b"five")
    ends = [event.end for event in origin.files[-1].events if event.end >= end]
    error = harness.session(origin, semi_sync=semi_sync, damage=lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    assert isinstance(error, StreamError)
    assert f"an event behind binlog.000002 {ends[-2]} does not match its checksum" in str(error)
    assert isinstance(harness.session(origin), Disconnected)
    assert_holds(harness, origin)


@FLAVORS
def test_transactions_purged_at_the_source_are_named_in_the_refusal(flavor: Flavor) -> None:
    origin, harness = small(flavor), Harness()
    harness.session(origin)
    origin.write(b"lost to us")
    origin.rotate()
    origin.write(b"later")
    origin.purge(2)
    before = harness.log.files()
    error = harness.session(origin)
    assert isinstance(error, Refused)
    mysql = flavor is Flavor.MYSQL
    assert error.missing == (f"{origin.server_uuid}:4" if mysql else "domain 0: after 0-1-3, up to 0-1-4")
    assert f"missing are {error.missing}" in str(error)
    assert harness.log.files() == before


@pytest.mark.parametrize(
    ("ours", "purged", "missing"),
    [
        ("", "", ""),
        ("0-1-10", "", ""),
        ("0-1-10", "0-1-10", ""),
        ("0-1-10", "0-1-9", ""),
        ("0-1-10", "0-1-11", "domain 0: after 0-1-10, up to 0-1-11"),
        ("", "0-1-11", "domain 0: up to 0-1-11"),
        ("0-2-12,0-1-13", "0-2-11", ""),
        ("0-1-12", "0-2-11", ""),  # another server's, but before ours in the domain
        ("0-1-10,3-1-4", "0-2-14,3-1-4,7-2-9", "domain 0: after 0-1-10, up to 0-2-14; domain 7: up to 7-2-9"),
    ],
)
def test_what_a_mariadb_source_has_purged_is_told_by_domain(ours: str, purged: str, missing: str) -> None:
    assert purged_behind(MariadbState.parse(ours), MariadbState.parse(purged)) == missing


def test_a_mariadb_source_that_lacks_our_newest_by_force_is_asked_for_what_follows_its_own_newest() -> None:
    origin, harness = small(Flavor.MARIADB), Harness()
    harness.session(origin)
    second = Origin(Flavor.MARIADB, server_id=2, base="second")
    second.write(b"one", server_id=1)
    second.write(b"two", b"three", server_id=1)
    second.write(b"instead of four")
    assert isinstance(harness.session(second), Diverged)
    harness.log.propose([Entry(Kind.STATE, meta=Meta(json={FACT_SETTINGS: {"accept_missing": "0-1-3"}}))])
    for newest in ("0-2-3", "0-2-4"):
        assert isinstance(harness.session(second), Disconnected)
        assert str(harness.log.state.executed) == newest
        taken = [event.data for event in second.files[-1].events if event.gtid in ("0-2-3", newest)]
        assert all(event in harness.log.files()["binlog.000003"] for event in taken)
        second.write(b"five")


@FLAVORS
def test_a_reset_source_is_refused(flavor: Flavor) -> None:
    origin, harness = small(flavor), Harness()
    harness.session(origin)
    before = list(harness.log.entries)
    origin.reset()
    assert isinstance(harness.session(origin), Diverged)
    origin.write(b"another history")
    assert isinstance(harness.session(origin), Diverged)
    assert harness.log.entries == before


@FLAVORS
def test_a_reset_source_is_refused_even_when_it_has_as_many_transactions_again(flavor: Flavor) -> None:
    origin, harness = small(flavor), Harness()
    harness.session(origin)
    before = list(harness.log.entries)
    origin.reset()
    for size in range(1, 6):
        origin.write(bytes(size))
        origin.rotate()
    assert isinstance(harness.session(origin), Diverged)
    assert harness.log.entries == before


@FLAVORS
def test_the_same_file_name_and_creation_with_other_bytes_is_refused(flavor: Flavor) -> None:
    origin, other = Origin(flavor), Origin(flavor)
    origin.write(b"one")
    other.write(b"two")
    harness = Harness()
    harness.session(origin)
    before = list(harness.log.entries)
    error = harness.session(other)
    assert isinstance(error, Diverged)
    assert "differ" in str(error)
    assert harness.log.entries == before


def test_a_source_that_lost_its_newest_transactions_is_refused_with_what_it_lacks() -> None:
    origin, harness = small(Flavor.MYSQL), Harness()
    origin.write(b"lost")
    harness.session(origin)
    origin.lose(5)
    origin.write(b"instead", b"of", b"it")
    before = list(harness.log.entries)
    error = harness.session(origin)
    assert isinstance(error, Diverged)
    assert harness.log.entries == before


def test_a_transaction_that_waits_for_our_acknowledgement_is_no_reason_to_refuse() -> None:
    # With semi-sync AFTER_SYNC the source has sent a transaction that it has not executed yet.
    origin, harness = small(Flavor.MYSQL), Harness()
    harness.session(origin)
    assert isinstance(origin.executed, GtidSet)
    origin.committing = GtidSet.parse(f"{origin.server_uuid}:3")
    origin.executed -= origin.committing
    assert isinstance(harness.session(origin), Disconnected)


def test_a_server_with_another_uuid_that_holds_everything_is_followed() -> None:
    origin, harness = small(Flavor.MYSQL), Harness()
    origin.write(b"shared")
    harness.session(origin)
    held = harness.log.files()
    promoted = Origin(
        Flavor.MYSQL, server_uuid=OTHER_UUID, server_id=2, base="mysql-bin", executed=origin.executed.copy()
    )
    promoted.write(b"from the new one")
    promoted.rotate()
    promoted.write(b"again")
    assert isinstance(harness.session(promoted), Disconnected)
    names = {file.name: file.bytes for file in promoted.files}
    assert list(harness.log.files()) == [*held, "binlog.000003", "binlog.000004"]
    assert list(harness.log.files().values())[2:] == list(names.values())
    assert str(harness.log.state.executed) == str(promoted.executed)
    promoted.write(b"more")
    harness.session(promoted)
    assert harness.log.files()["binlog.000004"] == promoted.files[-1].bytes


@FLAVORS
def test_a_crash_right_behind_the_note_of_a_new_source_does_not_take_its_files_for_the_old_ones(flavor: Flavor) -> None:
    origin, harness = small(flavor), Harness()
    harness.session(origin)
    if flavor is Flavor.MYSQL:
        promoted = Origin(flavor, server_uuid=OTHER_UUID, server_id=2, executed=origin.executed.copy())
    else:
        promoted = Origin(flavor, server_id=2)
        for _ in range(3):
            promoted.write(b"", server_id=1)
    promoted.rotate()
    promoted.write(b"from the new one")
    assert {file.name for file in promoted.files} >= {origin.files[-1].name}
    harness.session(promoted)
    entries = harness.log.entries
    note = max(i for i, entry in enumerate(entries) if entry.kind == Kind.STATE)
    assert any(entry.kind == Kind.DATA for entry in entries[note:])
    after = Harness()
    after.log.propose(entries[: note + 1])
    assert isinstance(after.session(promoted), Disconnected)
    assert after.log.files() == harness.log.files()
    assert str(after.log.state.executed) == str(harness.log.state.executed)
    promoted.write(b"more")
    assert isinstance(after.session(promoted), Disconnected)
    assert list(after.log.files().values())[-1] == promoted.files[-1].bytes


def test_a_server_with_another_uuid_that_lacks_something_is_refused() -> None:
    origin, harness = small(Flavor.MYSQL), Harness()
    executed = origin.executed.copy()
    origin.write(b"only there")
    harness.session(origin)
    before = list(harness.log.entries)
    stale = Origin(Flavor.MYSQL, server_uuid=OTHER_UUID, server_id=2, executed=executed)
    error = harness.session(stale)
    assert isinstance(error, Diverged)
    assert error.missing == f"{origin.server_uuid}:4"
    assert harness.log.entries == before


def test_a_mariadb_server_with_another_id_that_holds_everything_is_followed() -> None:
    origin, harness = small(Flavor.MARIADB), Harness()
    harness.session(origin)
    held = harness.log.files()
    promoted = Origin(Flavor.MARIADB, server_id=2)
    for event_size in range(3):
        promoted.write(bytes(event_size), server_id=1)
    promoted.write(b"from the new one")
    assert isinstance(harness.session(promoted), Disconnected)
    assert list(harness.log.files()) == [*held, "binlog.000003"]
    assert str(harness.log.state.executed) == "0-2-4"


def test_a_mariadb_source_with_several_domains_goes_on_exactly() -> None:
    origin, harness = Origin(Flavor.MARIADB), Harness(entry_bytes=200)
    for i in range(12):
        origin.write(b"row %d" % i, domain=i % 3, server_id=1 + i % 2)
        if i == 6:
            origin.rotate()
    harness.session(origin, cut=harness.length(origin) * 2 // 3)
    origin.checkpoint()
    harness.session(origin)
    assert_holds(harness, origin)


def test_a_mariadb_source_with_several_domains_is_followed_by_gtid_when_the_file_is_gone() -> None:
    origin, harness = Origin(Flavor.MARIADB), Harness()
    for i in range(6):
        origin.write(b"row %d" % i, domain=i % 3)
    harness.session(origin)
    held = harness.log.files()
    origin.rotate()
    origin.purge(1)
    for i in range(6):
        origin.write(b"more %d" % i, domain=i % 3)
    assert isinstance(harness.session(origin), Disconnected)
    assert harness.log.files() == held | {file.name: file.bytes for file in origin.files}
    executed = harness.log.state.executed
    assert isinstance(executed, MariadbState)
    assert str(executed) == str(origin.executed)


# Any story

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.lists(st.integers(0, 400), min_size=0, max_size=6)),
        st.tuples(st.sampled_from(["rotate", "restart", "crash"]), st.none()),
        st.tuples(st.just("session"), st.tuples(st.integers(0, 4000), st.integers(1, 2000), st.booleans())),
    ),
    max_size=25,
)


@FLAVORS
@given(steps=STEPS, entry_bytes=st.integers(50, 3000))
def test_any_story_of_writes_rotations_crashes_and_cuts_ends_well(
    flavor: Flavor, steps: list[tuple[str, object]], entry_bytes: int
) -> None:
    origin, harness = Origin(flavor), Harness(entry_bytes=entry_bytes)
    for step, value in steps:
        if step == "write":
            assert isinstance(value, list)
            origin.write(*[bytes(size) for size in value])
        elif step == "session":
            assert isinstance(value, tuple)
            cut, portion, semi_sync = value
            assert isinstance(harness.session(origin, cut=cut, portions=by(portion), semi_sync=semi_sync), Disconnected)
        else:
            {"rotate": origin.rotate, "restart": origin.restart, "crash": origin.new_file}[step]()
    assert isinstance(harness.session(origin), Disconnected)
    assert_holds(harness, origin)


def by(portion: int) -> Iterator[int]:
    while True:
        yield portion
