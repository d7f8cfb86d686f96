"""What a node can be told to do: the orders of the admin API, carried out on the leader.

A thin layer: it checks, proposes, waits for the commit, and turns what can go wrong into answers for people. Every
order raises ``NotLeaderError`` on a node that does not lead, which the server takes as "ask the leader".
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Final, Protocol

from kingbus_node.admin.snapshot import source_view
from kingbus_node.admin.views import Purged, Refused, SourceDetails, SourceSettings
from kingbus_node.config import Address, Config, ConfigError
from kingbus_node.raft.api import ConsensusError, DeadlineError, MemberKind, NotLeaderError
from kingbus_node.raft.errors import ChangeRefusedError
from kingbus_node.raft.keeper import Purged as KeeperPurged
from kingbus_node.raft.keeper import PurgeUnfinishedError
from kingbus_node.source import settings
from kingbus_node.source.checks import Replica
from kingbus_node.source.errors import Disconnected
from kingbus_node.source.errors import Refused as SourceRefused
from kingbus_node.source.reader import SourceStatus
from kingbus_node.source.survey import Survey, survey
from kingbus_node.store.entry import Entry, Json, Kind, Meta
from kingbus_node.store.purging import UnknownLogError
from kingbus_node.store.state import FACT_CLUSTER_UUID, LogState

log = logging.getLogger(__name__)

PATIENCE: Final = 60.0
"""Seconds that an order may take until it is committed."""
CATCH_UP: Final = 30.0
"""Seconds that a new source gets to receive what the old one has written last."""
STUCK: Final = 3.0
"""Seconds without progress after which it is not waited for any more."""
_LOOK: Final = 0.5


class Members(Protocol):
    """What is needed of `raft.api.ClusterConsensus`."""

    @property
    def leader(self) -> str | None: ...

    @property
    def is_leader(self) -> bool: ...

    def propose(self, entries: Sequence[Entry], /) -> int: ...

    def wait_committed(self, index: int, deadline: float, /) -> bool: ...

    def add_member(
        self, name: str, address: str, *, role: MemberKind = "voter", priority: int = 0, deadline: float
    ) -> None: ...

    def remove_member(self, name: str, deadline: float, /) -> None: ...

    def transfer(self, name: str | None, deadline: float, /) -> str: ...


class SourceWork(Protocol):
    """What is needed of `leader.LeaderWork`."""

    def reconsider(self, index: int, /) -> None: ...

    def pause(self, timeout: float, /) -> bool: ...

    def resume(self) -> None: ...

    def status(self) -> SourceStatus: ...


class Purging(Protocol):
    """What is needed of `raft.keeper.RetentionKeeper`."""

    def purge_to(self, name: str, /) -> KeeperPurged | None: ...

    def purge_before(self, timestamp: float, /) -> KeeperPurged | None: ...


class CommittedLog(Protocol):
    """What is needed of `store.log.Log`."""

    @property
    def state(self) -> LogState:
        """The sum of the committed entries."""


class Operations:
    """`views.Control` of a node."""

    def __init__(self, config: Config, log: CommittedLog, members: Members, work: SourceWork, purging: Purging) -> None:
        self._config = config
        self._log = log
        self._members = members
        self._work = work
        self._purging = purging

    # -- the source

    def source(self) -> SourceDetails:
        """The settings, and how it goes. NotLeaderError elsewhere: only the leader reads from the source."""
        self._check_leader()
        now, state = self._work.status(), self._log.state
        with _told():
            shown = settings.shown(self._config, state.facts)
        return SourceDetails(
            settings=_view(shown),
            status=source_view(now, state, leads=True),
            missing=now.missing,
            identity=now.identity,
            tls=now.tls,
            compression=now.compression,
            warnings=list(now.warnings),
        )

    def set_source(self, changes: Mapping[str, Json]) -> None:
        """Change some settings."""
        self._check_leader()
        with _told():
            self._settle(settings.changed(self._config, self._log.state.facts, changes))

    def stop_source(self) -> None:
        """Read no more until it is started."""
        self._check_leader()
        with _told():
            self._settle(settings.stopped(self._config, self._log.state.facts, value=True))

    def start_source(self) -> None:
        """Read again."""
        self._check_leader()
        with _told():
            self._settle(settings.stopped(self._config, self._log.state.facts, value=False))

    def switch_source(self, changes: Mapping[str, Json], *, force: bool) -> None:
        """Read from another server.

        The old source is left first, so that what the log holds stays what it is while the new one is asked. It gets a
        little time to catch up: whoever promotes a replica and tells us at once should not have to try twice. When it
        does not hold all, nothing is changed and the old source is read from again.
        """
        self._check_leader()
        with _told():
            if not self._work.pause(PATIENCE):
                raise DeadlineError(
                    "what was read from the present source is not committed yet: has the cluster a quorum?"
                )
            try:
                accepted = self._checked(changes, force=force)
                fact = settings.switched(self._config, self._log.state.facts, changes, accepted)
                self._settle(fact)
            finally:
                self._work.resume()

    def _checked(self, changes: Mapping[str, Json], *, force: bool) -> str:
        """Whether the new source will do; what it is allowed to lack."""
        state = self._log.state
        fact = settings.switched(self._config, state.facts, changes)
        wanted = settings.effective(self._config, {settings.FACT_SETTINGS: fact})
        uuid = state.facts.get(FACT_CLUSTER_UUID)
        replica = Replica(wanted.server_id, str(uuid or ""), port=self._config.serve.listen.port)
        begun = moved = time.monotonic()
        before = ""
        while True:
            found = survey(wanted, replica, state.flavor, state.executed)
            if found.lacking != before:
                before, moved = found.lacking, time.monotonic()
            if found.purged:
                raise Refused(
                    HTTPStatus.CONFLICT,
                    f"{found.endpoint} has purged binary logs that are needed here: missing are {found.purged}. "
                    "Switch to a source that still has them (this cannot be forced: replicas would miss them silently)",
                    missing=found.purged,
                )
            if not found.lacking or force:
                _warn(found)
                return found.lacking
            now = time.monotonic()
            if now - moved >= STUCK or now - begun >= CATCH_UP:
                raise Refused(
                    HTTPStatus.CONFLICT,
                    f"{found.endpoint} does not hold all that the log holds: it lacks {found.lacking}. "
                    "Let it catch up first; with force these transactions are given up at the source",
                    missing=found.lacking,
                )
            time.sleep(_LOOK)  # another server's progress: there is nothing to wait for but time

    def _settle(self, fact: dict[str, Json]) -> None:
        """Put the settings into the log, and have them gone by. Nothing is done when they are so already."""
        if self._log.state.facts.get(settings.FACT_SETTINGS) == fact:
            return
        index = self._members.propose([Entry(Kind.STATE, meta=Meta(json={settings.FACT_SETTINGS: fact}))])
        self._work.reconsider(index)  # however late it is committed
        if not self._members.wait_committed(index, _deadline()):
            raise DeadlineError(
                "it was proposed, but not committed in time; it may still be. Has the cluster a quorum?"
            )

    # -- the cluster

    def add_member(self, name: str, address: str, role: MemberKind, priority: int) -> None:
        """Take in a node; returns when that is committed. It catches up first, and votes then."""
        try:
            parsed = Address.parse(address)
        except ValueError as error:
            raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, f"address: {error}") from error
        if not parsed.port:
            raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, f"address: {address} has no port")
        with _told():
            self._members.add_member(
                name or str(parsed), str(parsed), role=role, priority=priority, deadline=_deadline()
            )

    def remove_member(self, name: str) -> None:
        """Remove a member by name or address; returns when that is committed."""
        with _told():
            self._members.remove_member(name, _deadline())

    def transfer(self, to: str | None) -> str:
        """Hand the leadership over; the new leader's name."""
        with _told():
            return self._members.transfer(to, _deadline())

    # -- the store

    def purge(self, to: str | None, before: float | None) -> Purged:
        """Drop old binlog files, but for those that a connected replica reads."""
        self._check_leader()
        with _told():
            if to is not None:
                done = self._purging.purge_to(to)
            else:
                done = self._purging.purge_before(before if before is not None else 0.0)
        state = self._log.state
        return Purged(
            files=0 if done is None else done.files,
            oldest=None if done is None or not done.files else done.oldest_file,
            purged="" if state.purged is None else str(state.purged),
            held=0 if done is None else done.held,
        )

    def _check_leader(self) -> None:
        if not self._members.is_leader:
            raise NotLeaderError(self._members.leader)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What can go wrong with an order, as an answer. NotLeaderError passes: it is not for people."""
    try:
        yield
    except NotLeaderError:
        raise
    except ConfigError as error:
        raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(error.problems)) from error
    except ChangeRefusedError as error:
        raise Refused(HTTPStatus.CONFLICT, str(error)) from error
    except UnknownLogError as error:
        raise Refused(HTTPStatus.NOT_FOUND, str(error)) from error
    except (DeadlineError, PurgeUnfinishedError) as error:
        raise Refused(HTTPStatus.GATEWAY_TIMEOUT, str(error)) from error
    except SourceRefused as error:
        raise Refused(HTTPStatus.CONFLICT, str(error)) from error
    except Disconnected as error:
        raise Refused(HTTPStatus.BAD_GATEWAY, f"the new source cannot be asked: {error}") from error
    except ConsensusError as error:
        raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error


def _warn(found: Survey) -> None:
    if found.lacking:
        log.warning("switching to %s by force, although it lacks %s", found.endpoint, found.lacking)


def _deadline() -> float:
    return time.monotonic() + PATIENCE


def _view(shown: Mapping[str, Json]) -> SourceSettings:
    """The fact as a view: its shape is `source.settings`'s own."""
    tls, retry, endpoints, compression = shown["tls"], shown["retry"], shown["endpoints"], shown["compression"]
    return SourceSettings(
        endpoints=[str(endpoint) for endpoint in endpoints] if isinstance(endpoints, list) else [],
        flavor=str(shown["flavor"]),
        user=str(shown["user"]),
        server_id=int(str(shown["server_id"])),
        semi_sync=shown["semi_sync"] is True,
        compression=[str(one) for one in compression] if isinstance(compression, list) else [],
        tls={key: str(value) for key, value in tls.items()} if isinstance(tls, dict) else {},
        start=str(shown["start"]),
        retry={key: float(str(value)) for key, value in retry.items()} if isinstance(retry, dict) else {},
        stopped=shown["stopped"] is True,
        accept_missing=str(shown["accept_missing"]),
    )
