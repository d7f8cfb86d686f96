"""Every rule switched off, one at a time: the simulator must notice.

A mutation is a subclass with one method changed, put in the place of the real class by ``Rules``. Nothing in the code
under test knows of it. Each names a seed or a plot that fails with it, and so do the docstrings of the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kingbus_node.raft.configuration import Configuration
from kingbus_node.raft.core import Raft
from kingbus_node.raft.formation import Formation
from kingbus_node.raft.leadership import Leadership
from kingbus_node.raft.messages import Append, AppendReply, Entry, Kind, Message
from kingbus_node.raft.progress import Mode, Progress
from kingbus_node.raft.storage import HardState

from .disk import Disk
from .source import Reader
from .world import Rules


@dataclass(frozen=True, slots=True)
class Mutation:
    """A rule that is switched off.

    :param rules: the classes to run with
    :param story: a seed that fails, or the name of a plot
    :param expected: how the message of the violation may begin
    """

    rules: Rules
    story: int | str
    expected: tuple[str, ...]


class TruncateWhatMatches(Raft):
    """Correction 2: deletes everything behind the leader's previous entry before looking at what was sent."""

    def _on_append(self, peer: str, message: Append) -> None:
        behind = message.prev_index + 1
        if self.commit_index < behind <= self.storage.last_index and message.prev_index:
            self._truncate_from(behind)
        super()._on_append(peer, message)


class AcknowledgeUnsynced(Raft):
    """Correction 4, the follower's side."""

    def _acknowledged(self) -> int:
        return self._received


class CountUnsynced(Leadership):
    """Correction 4, the leader's side."""

    def _match(self, voter: str) -> int:
        return self._storage.last_index if voter == self._raft.address else super()._match(voter)


class ForgetVote(Disk):
    """Correction 5: term and vote are written, but not synced."""

    def save_hard_state(self, state: HardState) -> None:
        self._unsynced_state = state
        super().save_hard_state(state)

    def crash(self, power: bool) -> None:
        super().crash(power)
        if power:
            self._hard_state = HardState(max(0, self._hard_state.term - 1), None)


class VoteTwice(Raft):
    """Does not remember the vote at all."""

    def _enter_term(self, term: int, vote: str | None) -> None:
        super()._enter_term(term, None)


class VoteForAnyLog(Raft):
    """Votes without comparing logs (3.6.1)."""

    def _up_to_date(self, last_index: int, last_term: int) -> bool:
        return True


class CommitOlderTerms(Leadership):
    """Commits entries of earlier terms by counting (3.6.2)."""

    def _of_this_term(self, index: int) -> bool:
        return True


class BelieveOldAnswers(Raft):
    """Counts answers that were given in an earlier term."""

    def _is_current(self, message: Message) -> bool:
        return isinstance(message, AppendReply) or super()._is_current(message)


class StandAtOnce(Raft):
    """Correction 6: elections without asking first."""

    def _before_election(self) -> None:
        self._stand(transferred=False)


class HelpAnybody(Raft):
    """Grants pre-votes and votes although the leader is in touch (4.2.3)."""

    def _has_leader(self) -> bool:
        return False


class LeadAlone(Leadership):
    """Correction 7: never steps down for lack of a majority."""

    def quorum_lost(self) -> bool:
        return False


class NextGoesBack(Progress):
    """Correction 1: the next index goes back to what was acknowledged."""

    def acknowledge(self, match: int, received: int) -> None:
        super().acknowledge(match, received)
        self.next = self.received + 1


class NeverGoesBack(Progress):
    """Correction 3: a rejection does not move the next index back for good."""

    def reject(self, rejected: int, next_index: int) -> None:
        if self.mode is Mode.PROBE:
            self.asked = False


class KeepWhatWasReceived(Progress):
    """Takes what a follower held only in memory to be still there after it was away."""

    def connect(self, last_index: int) -> None:
        received = self.received
        super().connect(last_index)
        self.received = received


class TrustLostDisk(Progress):
    """Takes what a lost disk acknowledged to be on the new one."""

    def replaced(self, incarnation: int) -> None:
        self.incarnation = incarnation


class NoSnapshot(Leadership):
    """Correction 10: nothing for a follower that needs purged entries."""

    def _send_snapshot(self, progress: Progress) -> None:
        return


class CommitWithHeartbeat(Leadership):
    """Correction 11: followers learn of commits when something is sent anyway."""

    def _send_commit(self, progress: Progress) -> None:
        return


class NoWindow(Leadership):
    """Sends everything at once."""

    def _send_entries(self, progress: Progress) -> None:
        settings = self._raft.settings
        self._raft.settings = replace(settings, window_bytes=1 << 40)
        super()._send_entries(progress)
        self._raft.settings = settings


class LeaveLostDisks(Leadership):
    """Does not make learners of voters that lost their disk."""

    def _tend_members(self) -> None:
        return


class ChangeAnyTime(Leadership):
    """Changes the membership while another change is not committed, or nothing of this term is."""

    def _check_change(self, wanted: Configuration) -> None:
        return


class ChangeBeforeCommit(Leadership):
    """Changes the membership before an entry of this term is committed."""

    @property
    def ready(self) -> bool:
        return True


class ConfigureWhenCommitted(Raft):
    """A configuration counts only once it is committed."""

    def _configured(self, entries: Sequence[Entry]) -> None:
        self._pending = [*getattr(self, "_pending", []), *(e for e in entries if e.kind is Kind.CONFIGURATION)]

    def _commit_to(self, index: int) -> None:
        super()._commit_to(index)
        pending: list[Entry] = getattr(self, "_pending", [])
        self._pending = [e for e in pending if e.index > self.commit_index]
        super()._configured([e for e in pending if e.index <= self.commit_index])


class KeepTruncatedConfiguration(Raft):
    """A configuration stays in effect when its entry is deleted."""

    def _truncate_from(self, index: int) -> None:
        kept = list(self._configurations)
        super()._truncate_from(index)
        self._configurations = [(min(at, index - 1), configuration) for at, configuration in kept]


class SyncCoversReplaced(Raft):
    """Takes a sync that began before a truncation to cover what came in the place of the deleted entries."""

    def _truncate_from(self, index: int) -> None:
        syncing = self._syncing
        super()._truncate_from(index)
        self._syncing = syncing


class NobodyForgets(Formation):
    """A node that lost its disk votes as if nothing had happened."""

    def _found_if_all_empty(self) -> None:
        if not self.formed:
            self._form(())


class LeaveOpen(Reader):
    """A leader does not cancel what an earlier one left open."""

    def _cancel(self) -> bool:
        return True


class ReadAtOnce(Reader):
    """A leader reads from the source before all that was ever committed is known to it."""

    def _may_begin(self) -> bool:
        return True


class ReadOn(Reader):
    """A reader goes on when its node has lost its leadership and leads again."""

    def look(self) -> None:
        if not self.node.raft.is_leader and self.node.alive and self.source.running:
            self.source.world.after(0.01, self.look)
        else:
            super().look()

    def _over(self) -> bool:
        return not self.node.raft.is_leader


class AskToTakeOver(Raft):
    """A node that the leader hands over to asks for pre-votes, which nobody grants while the leader is there."""

    def _on_timeout_now(self, peer: str) -> None:
        self._before_election()


class SitOutWhenRemoved(Raft):
    """A node that its latest configuration leaves out does not stand for election, committed or not (4.2.2)."""

    def _may_stand(self) -> bool:
        return super()._may_stand() and self.configuration.is_voter(self.address)


def _raft(raft_class: type[Raft]) -> Rules:
    return Rules(raft_class=raft_class)


def _leadership(leadership: type[Leadership]) -> Rules:
    return Rules(raft_class=type(leadership.__name__, (Raft,), {"leadership_class": leadership}))


def _progress(progress: type[Progress]) -> Rules:
    return _leadership(type(progress.__name__, (Leadership,), {"progress_class": progress}))


SAFETY = (
    "election safety",
    "log matching",
    "leader completeness",
    "quorum before visibility",
    "committed entry",
    "exactly once",
    "half transactions",
    "durability",
    "configuration",
    "crash: DivergedError",
)

MUTATIONS: dict[str, Mutation] = {
    "truncate-what-matches": Mutation(_raft(TruncateWhatMatches), 15, SAFETY),
    "acknowledge-unsynced": Mutation(_raft(AcknowledgeUnsynced), 0, SAFETY),
    "count-unsynced": Mutation(_leadership(CountUnsynced), 0, SAFETY),
    "forget-vote": Mutation(Rules(disk_class=ForgetVote), 6, SAFETY),
    "vote-twice": Mutation(_raft(VoteTwice), 83, SAFETY),
    "vote-for-any-log": Mutation(_raft(VoteForAnyLog), 2, SAFETY),
    "commit-older-terms": Mutation(_leadership(CommitOlderTerms), "older-term", SAFETY),
    "believe-old-answers": Mutation(_raft(BelieveOldAnswers), "old-answer", SAFETY),
    "stand-at-once": Mutation(_raft(StandAtOnce), 1, ("disturbance",)),
    "help-anybody": Mutation(_raft(HelpAnybody), 1, ("disturbance",)),
    "lead-alone": Mutation(_leadership(LeadAlone), 1, ("stale leader",)),
    "next-goes-back": Mutation(_progress(NextGoesBack), 0, ("waste",)),
    "never-goes-back": Mutation(_progress(NeverGoesBack), 0, ("liveness",)),
    "keep-what-was-received": Mutation(_progress(KeepWhatWasReceived), "forgotten-memory", ("liveness",)),
    "trust-lost-disk": Mutation(_progress(TrustLostDisk), 9, (*SAFETY, "liveness")),
    "no-snapshot": Mutation(_leadership(NoSnapshot), 1, ("liveness",)),
    "commit-with-heartbeat": Mutation(_leadership(CommitWithHeartbeat), 1, ("late",)),
    "no-window": Mutation(_leadership(NoWindow), 0, ("unbounded",)),
    "leave-lost-disks": Mutation(_leadership(LeaveLostDisks), 1, ("liveness",)),
    "change-any-time": Mutation(_leadership(ChangeAnyTime), "changes-at-once", SAFETY),
    "change-before-commit": Mutation(_leadership(ChangeBeforeCommit), "two-changes", SAFETY),
    "configure-when-committed": Mutation(_raft(ConfigureWhenCommitted), 1, SAFETY),
    "keep-truncated-configuration": Mutation(_raft(KeepTruncatedConfiguration), 42, SAFETY),
    "sync-covers-replaced": Mutation(_raft(SyncCoversReplaced), 15, SAFETY),
    "nobody-forgets": Mutation(
        Rules(raft_class=type("Forgetful", (Raft,), {"formation_class": NobodyForgets})), 1, SAFETY
    ),
    "leave-open": Mutation(Rules(reader_class=LeaveOpen), 3, SAFETY),
    "read-at-once": Mutation(Rules(reader_class=ReadAtOnce), 3, SAFETY),
    "read-on": Mutation(Rules(reader_class=ReadOn), 10, SAFETY),
    "ask-to-take-over": Mutation(_raft(AskToTakeOver), 1, ("liveness",)),
    "sit-out-when-removed": Mutation(_raft(SitOutWhenRemoved), "removed-leader", ("liveness",)),
}
