"""Orders on the leader: what is proposed, what is refused, and in which words."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from kingbus_node.admin import operations
from kingbus_node.admin.operations import Operations
from kingbus_node.admin.views import Refused
from kingbus_node.binlog.constants import ChecksumAlgorithm, Flavor
from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.config import Address, Config, SourceSettings, parse
from kingbus_node.raft.api import MemberKind, NotLeaderError
from kingbus_node.raft.errors import ChangeRefusedError
from kingbus_node.raft.keeper import Purged
from kingbus_node.source.checks import Replica, SourceFacts
from kingbus_node.source.errors import Disconnected
from kingbus_node.source.errors import Refused as SourceRefused
from kingbus_node.source.reader import SourceState, SourceStatus
from kingbus_node.source.settings import FACT_SETTINGS, seed
from kingbus_node.source.survey import Survey
from kingbus_node.store.entry import Entry, Kind
from kingbus_node.store.purging import UnknownLogError
from kingbus_node.store.state import LogState

UUID = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
HELD = GtidSet.parse(f"{UUID}:1-9")


def config() -> Config:
    document = {"source": {"endpoints": ["db1:3306"], "user": "repl", "password_file": "pw"}}
    return parse(document, Path("/etc/kingbus"), {})


@dataclass
class Cluster:
    """A consensus that commits at once."""

    state: LogState
    leads: bool = True
    commits: bool = True
    refusal: Exception | None = None
    told: list[tuple[object, ...]] = field(default_factory=list)

    @property
    def leader(self) -> str | None:
        return "node-1" if self.leads else "node-2"

    @property
    def is_leader(self) -> bool:
        return self.leads

    def propose(self, entries: Sequence[Entry]) -> int:
        if not self.leads:
            raise NotLeaderError("node-2")
        for entry in entries:
            assert entry.kind == Kind.STATE
            self.state.facts.update(entry.meta.json or {})
        return 1

    def wait_committed(self, _index: int, _deadline: float) -> bool:
        return self.commits

    def add_member(
        self, name: str, address: str, *, role: MemberKind = "voter", priority: int = 0, deadline: float
    ) -> None:
        assert deadline > time.monotonic()
        self._note("add", name, address, role, priority)

    def remove_member(self, name: str, _deadline: float) -> None:
        self._note("remove", name)

    def transfer(self, name: str | None, _deadline: float) -> str:
        self._note("transfer", name)
        return "node-2"

    def _note(self, *order: object) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.told.append(order)


@dataclass
class Work:
    """Leader work that only notes."""

    told: list[str] = field(default_factory=list)
    settles: bool = True

    def reconsider(self, _index: int) -> None:
        self.told.append("reconsider")

    def pause(self, _timeout: float) -> bool:
        self.told.append("pause")
        return self.settles

    def resume(self) -> None:
        self.told.append("resume")

    def status(self) -> SourceStatus:
        return SourceStatus(
            SourceState.CONNECTED, None, None, Address("db1", 3306), "9.7.4", f"uuid:{UUID}", "TLSv1.3", "zstd", True,
            (), "b.1", 4, 0.0, 0, 0, 0, 0, 0,
        )  # fmt: skip


@dataclass
class Keeper:
    """Retention that has one file to drop."""

    def purge_to(self, name: str) -> Purged | None:
        if name != "b.000002":
            raise UnknownLogError(f"there is no binlog {name}")
        return Purged("b.000002", 1, 3)

    def purge_before(self, _timestamp: float) -> Purged | None:
        return None


@dataclass
class Log:
    """What is committed."""

    state: LogState


@dataclass
class Bench:
    """An `Operations`, and what is around it."""

    cluster: Cluster
    work: Work
    operations: Operations
    asked: list[SourceSettings] = field(default_factory=list)
    answers: list[Survey | Exception] = field(default_factory=list)

    def survey(self, settings: SourceSettings, _who: Replica, flavor: Flavor | None, _held: object) -> Survey:
        assert flavor is Flavor.MYSQL
        self.asked.append(settings)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def settings(self) -> dict[str, object]:
        value = self.cluster.state.facts[FACT_SETTINGS]
        assert isinstance(value, dict)
        return dict(value)


FOUND = Survey(
    Address("db2", 3306),
    SourceFacts(
        Flavor.MYSQL, "9.7.4", 2, UUID, ChecksumAlgorithm.CRC32, semi_sync=False, clock_offset=0.0, executed=HELD,
        purged=GtidSet(),
    ),
    lacking="",
    purged="",
)  # fmt: skip


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    state = LogState(flavor=Flavor.MYSQL, executed=HELD, purged=GtidSet())
    state.facts[FACT_SETTINGS] = seed(config())
    cluster, work = Cluster(state), Work()
    made = Bench(cluster, work, Operations(config(), Log(state), cluster, work, Keeper()), answers=[FOUND])
    monkeypatch.setattr(operations, "survey", made.survey)
    monkeypatch.setattr(operations, "STUCK", 0.0)
    return made


def test_a_change_is_proposed_and_gone_by(bench: Bench) -> None:
    bench.operations.set_source({"semi_sync": False})
    assert bench.settings["semi_sync"] is False
    assert bench.settings["endpoints"] == ["db1:3306"]
    assert bench.work.told == ["reconsider"]


def test_what_is_so_already_is_not_proposed_again(bench: Bench) -> None:
    bench.operations.start_source()
    bench.operations.set_source({"semi_sync": True})
    assert bench.work.told == []


def test_stop_and_start_are_kept_in_the_log(bench: Bench) -> None:
    bench.operations.stop_source()
    assert bench.settings["stopped"] is True
    assert bench.operations.source().settings.stopped
    bench.operations.start_source()
    assert bench.settings["stopped"] is False


def test_a_switch_leaves_the_old_source_first_and_asks_the_new_one(bench: Bench) -> None:
    bench.operations.switch_source({"endpoints": ["db2:3306"]}, force=False)
    assert bench.asked[0].endpoints == (Address("db2", 3306),)
    assert bench.settings["endpoints"] == ["db2:3306"]
    assert bench.work.told == ["pause", "reconsider", "resume"]


def test_a_new_source_may_catch_up_while_it_is_asked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "STUCK", 60.0)
    monkeypatch.setattr(operations, "_LOOK", 0.0)
    bench.answers = [replace(FOUND, lacking=f"{UUID}:8-9"), replace(FOUND, lacking=f"{UUID}:9"), FOUND]
    bench.operations.switch_source({"endpoints": ["db2:3306"]}, force=False)
    assert len(bench.asked) == 3
    assert bench.settings["accept_missing"] == ""


def test_one_that_lacks_something_is_refused_with_what_it_lacks_and_nothing_changes(bench: Bench) -> None:
    bench.answers = [replace(FOUND, lacking=f"{UUID}:8-9")]
    before = bench.settings
    with pytest.raises(Refused, match=f"it lacks {UUID}:8-9") as refused:
        bench.operations.switch_source({"endpoints": ["db2:3306"]}, force=False)
    assert (refused.value.status, refused.value.facts) == (409, {"missing": f"{UUID}:8-9"})
    assert bench.settings == before
    assert bench.work.told == ["pause", "resume"]


def test_force_takes_it_and_notes_what_it_may_lack(bench: Bench) -> None:
    bench.answers = [replace(FOUND, lacking=f"{UUID}:8-9")]
    bench.operations.switch_source({"endpoints": ["db2:3306"]}, force=True)
    assert bench.settings["accept_missing"] == f"{UUID}:8-9"


def test_one_that_has_purged_what_is_needed_is_refused_even_by_force(bench: Bench) -> None:
    bench.answers = [replace(FOUND, purged=f"{UUID}:10-12")]
    for force in (False, True):
        with pytest.raises(Refused, match="has purged binary logs that are needed here") as refused:
            bench.operations.switch_source({"endpoints": ["db2:3306"]}, force=force)
        assert refused.value.status == 409


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (Disconnected("db2:3306: connection refused"), 502, "the new source cannot be asked: db2:3306"),
        (SourceRefused("db2 is mariadb, but the log holds the binlog of mysql"), 409, "is mariadb"),
    ],
)
def test_what_keeps_the_new_source_from_answering_is_told(
    bench: Bench, error: Exception, status: int, told: str
) -> None:
    bench.answers = [error]
    with pytest.raises(Refused, match=told) as refused:
        bench.operations.switch_source({"endpoints": ["db2:3306"]}, force=True)
    assert refused.value.status == status
    assert bench.work.told[-1] == "resume"


def test_a_source_whose_last_entries_cannot_be_committed_is_not_left(bench: Bench) -> None:
    bench.work.settles = False
    with pytest.raises(Refused, match="has the cluster a quorum") as refused:
        bench.operations.switch_source({"endpoints": ["db2:3306"]}, force=True)
    assert refused.value.status == 504
    assert bench.settings["endpoints"] == ["db1:3306"]


def test_settings_that_cannot_be_used_are_422_with_the_key(bench: Bench) -> None:
    with pytest.raises(Refused, match=r"source\.endpoints\.0: 'nowhere'") as refused:
        bench.operations.switch_source({"endpoints": ["nowhere"]}, force=False)
    assert refused.value.status == 422


def test_what_is_not_committed_in_time_is_said_to_be_open(bench: Bench) -> None:
    bench.cluster.commits = False
    with pytest.raises(Refused, match="it may still be") as refused:
        bench.operations.stop_source()
    assert refused.value.status == 504
    assert bench.work.told == ["reconsider"]  # it is gone by as soon as it is committed


def test_members_are_named_by_their_address_until_they_tell_their_name(bench: Bench) -> None:
    bench.operations.add_member("", "10.0.0.4:7401", "learner", 5)
    bench.operations.remove_member("node-2")
    assert bench.operations.transfer(None) == "node-2"
    assert bench.cluster.told == [
        ("add", "10.0.0.4:7401", "10.0.0.4:7401", "learner", 5), ("remove", "node-2"), ("transfer", None),
    ]  # fmt: skip
    for address in ("10.0.0.4", "10.0.0.4:0", "http://x"):
        with pytest.raises(Refused, match="address: ") as refused:
            bench.operations.add_member("", address, "voter", 0)
        assert refused.value.status == 422
    bench.cluster.refusal = ChangeRefusedError("node-2 is no member")
    with pytest.raises(Refused, match="node-2 is no member") as refused:
        bench.operations.remove_member("node-2")
    assert refused.value.status == 409


def test_a_purge_tells_what_went_and_what_replicas_kept(bench: Bench) -> None:
    done = bench.operations.purge("b.000002", None)
    assert (done.files, done.oldest, done.held) == (1, "b.000002", 3)
    assert bench.operations.purge(None, 1.0).files == 0
    with pytest.raises(Refused, match=r"there is no binlog b\.9") as refused:
        bench.operations.purge("b.9", None)
    assert refused.value.status == 404


def test_a_node_that_does_not_lead_says_who_does(bench: Bench) -> None:
    bench.cluster.leads = False
    for order in (
        bench.operations.source,
        bench.operations.stop_source,
        lambda: bench.operations.set_source({}),
        lambda: bench.operations.switch_source({"endpoints": ["db2:1"]}, force=False),
        lambda: bench.operations.purge("b", None),
    ):
        with pytest.raises(NotLeaderError) as refused:
            order()
        assert refused.value.leader == "node-2"
