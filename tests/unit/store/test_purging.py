"""What could be purged while the disk is full: more than ever."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.store.samples import started, write
from unit.store.test_recovery import no_space

from kingbus_node.store import catalogue as catalogue_module
from kingbus_node.store.purging import Order, Purger


def test_a_file_that_finds_no_room_in_the_catalogue_stands_in_no_purges_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, source = started(tmp_path, segment_bytes=64 * 1024)
    for _ in range(6):
        write(log, source.file(), *(source.transaction([20_000]) for _ in range(3)))
    with monkeypatch.context() as patched:
        patched.setattr(catalogue_module, "write_at", no_space)
        write(log, source.file(), *(source.transaction([20_000]) for _ in range(3)))
        assert log.state.file_id == 8
        assert log.commit_index < log.state.index
        purger = Purger(log)
        seen = purger.survey()
        cut = seen[2].file_start
        assert cut is not None
        assert purger.order(cut).oldest.start_index == cut
        for order in (purger.to_file("binlog.000007"), purger.before(2e9), purger.before(2e9, [cut])):
            assert isinstance(order, Order)
            assert order.oldest.id <= 7
    log.commit(log.last_index)
    last = log.state.file
    assert last is not None
    # Nor is it taken for a segment without a file later on.
    write(log, source.file(), *(source.transaction([20_000]) for _ in range(4)))
    assert last.start_index in [use.file_start for use in purger.survey()]
    order = purger.before(2e9)
    assert isinstance(order, Order)
    assert order.oldest.id == 9
    log.close()
