"""Asking a server whether it could be the source from now on, without reading anything from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kingbus_node.binlog.constants import Flavor
from kingbus_node.binlog.executed import ExecutedSet
from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.binlog.mariadb import MariadbState
from kingbus_node.config import Address, SourceSettings
from kingbus_node.source.checks import Replica, SourceFacts, introduce
from kingbus_node.source.connection import SourceConnection
from kingbus_node.source.errors import Disconnected
from kingbus_node.source.link import Wakeup
from kingbus_node.source.resume import lacking, purged_behind

_HEARTBEAT = 30.0  # of a dump that never begins


@dataclass(frozen=True, slots=True)
class Survey:
    """What a server would mean as source.

    :param lacking: GTIDs that the log holds and it does not, as text; '' for none
    :param purged: GTIDs that it has purged and the log does not hold, as text; '' for none, or not to be known
    """

    endpoint: Address
    facts: SourceFacts
    lacking: str
    purged: str


def survey(settings: SourceSettings, replica: Replica, flavor: Flavor | None, held: ExecutedSet | None) -> Survey:
    """Ask the first of the endpoints that answers. `flavor` and `held`: of what the log holds, None for an empty one.

    Disconnected if none answers; Refused if the first that does cannot be a source of this log at all.
    """
    failures: list[str] = []
    for endpoint in settings.endpoints:
        try:
            facts = _ask(endpoint, settings, replica, flavor)
        except Disconnected as error:
            failures.append(f"{endpoint}: {error}")
            continue
        if held is None:
            return Survey(endpoint, facts, "", "")
        return Survey(endpoint, facts, lacking(held, facts), _purged(held, facts))
    raise Disconnected(_joined(failures))


def _ask(endpoint: Address, settings: SourceSettings, replica: Replica, flavor: Flavor | None) -> SourceFacts:
    connection = SourceConnection.open(endpoint, settings, Wakeup())
    try:
        return introduce(connection, settings, replica, _HEARTBEAT, flavor)
    finally:
        connection.close()


def _purged(held: ExecutedSet, facts: SourceFacts) -> str:
    if isinstance(held, GtidSet) and isinstance(facts.purged, GtidSet):
        return str(facts.purged - held)
    if isinstance(held, MariadbState) and isinstance(facts.purged, MariadbState):
        return purged_behind(held, facts.purged)
    return ""


def _joined(failures: Sequence[str]) -> str:
    return failures[0] if len(failures) == 1 else "none of the endpoints answers: " + "; ".join(failures)
