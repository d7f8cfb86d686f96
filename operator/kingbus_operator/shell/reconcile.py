"""One round for one cluster: look, plan, act, tell.

Whatever goes wrong, the next round begins with a fresh look. Nothing that matters is remembered between rounds: an
operator that is killed anywhere is continued by the next one.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError

from kingbus_operator.api import API_VERSION, KIND
from kingbus_operator.api.types import Cluster, Json
from kingbus_operator.build.certificates import host_names, renewed
from kingbus_operator.build.common import Names
from kingbus_operator.kube.client import Api, ApiError
from kingbus_operator.kube.nodes import NodeError, Nodes
from kingbus_operator.planning.actions import Action, Apply, LabelPod, PointLeaderService, RestartPod, SwitchSource
from kingbus_operator.planning.observed import Desired, Observed
from kingbus_operator.planning.plan import Plan, Problem, plan
from kingbus_operator.planning.quorum import quorum
from kingbus_operator.planning.status import Note, notes, restless, status
from kingbus_operator.shell.act import Actor
from kingbus_operator.shell.events import event
from kingbus_operator.shell.metrics import Metrics
from kingbus_operator.shell.observe import observe

log = logging.getLogger(__name__)

STATUS_MANAGER = "kingbus-operator-status"
SOON = 2.0
"""Seconds to the next look while something is on its way."""
RESYNC = 15.0
"""Seconds to the next look when all is as wanted: what no watch tells (Secrets, nodes) is seen then."""
_CALM = timedelta(seconds=60)
"""How often numbers that always move are written to the status."""
_RETRY_SWITCH = timedelta(seconds=60)


class Fenced(Exception):
    """This operator does not lead any more: another one may be acting already."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator was started with."""

    image: str
    instance: str
    cluster_domain: str = "cluster.local"


@dataclass(slots=True)
class _Memory:
    """What only saves work when it is there: lost with the process, and nothing depends on it."""

    status_written: datetime | None = None
    switch_refused: tuple[tuple[str, ...], Problem, datetime] | None = None


class Reconciler:
    """Rounds for all clusters. `may_act` says whether this operator leads; it is asked before every write."""

    def __init__(
        self,
        api: Api,
        nodes: Nodes,
        settings: Settings,
        metrics: Metrics,
        may_act: Callable[[], bool],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api = api
        self._nodes = nodes
        self._settings = settings
        self._metrics = metrics
        self._may_act = may_act
        self._clock = clock
        self._memories: dict[tuple[str, str], _Memory] = {}
        self._kinds: tuple[datetime, frozenset[str]] | None = None

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """One round. Seconds to the next one, None when the cluster is gone. ApiError, Fenced."""
        body = await self._api.get(KIND, namespace, name)
        metadata = body["metadata"] if body is not None else {}
        assert isinstance(metadata, dict)
        if body is None or metadata.get("deletionTimestamp"):
            self._memories.pop((namespace, name), None)
            self._metrics.forget(namespace, name)
            return None  # ownerReferences see to the rest
        try:
            cluster = Cluster.parse(body)
        except ValidationError as error:
            log.error(
                "%s/%s is not a valid BinlogCluster: is the CRD of this release installed? %s", namespace, name, error
            )
            return RESYNC
        memory = self._memories.setdefault((namespace, name), _Memory())
        now = self._clock()
        sight = await observe(self._api, self._nodes, cluster, await self._optional_kinds(now), now)
        hosts = host_names(Names(name, namespace), self._settings.cluster_domain)
        desired = Desired(
            cluster=cluster,
            image=self._settings.image,
            certificates=renewed(sight.certificates, f"{name}.{namespace}", hosts, now),
            admin_token=sight.token or secrets.token_urlsafe(32),
            cluster_domain=self._settings.cluster_domain,
        )
        made = self._without_refused(plan(desired, sight.observed), memory, now)
        view = quorum(sight.observed.pods)
        actor = Actor(self._api, self._nodes, cluster, sight.targets, view.leader if view is not None else None)
        told: list[Note] = []
        try:
            made, refused = await self._act(actor, made, memory, now, told)
        finally:
            for note in told:
                await self._tell(cluster, note, now)
        present = body.get("status")
        phase = await self._write_status(
            desired, sight.observed, made, present if isinstance(present, dict) else {}, now
        )
        self._metrics.seen(namespace, name, phase)
        if refused is not None:
            raise refused  # now that people can see it
        return SOON if made.actions or made.progress is not None else RESYNC

    async def _optional_kinds(self, now: datetime) -> frozenset[str]:
        if self._kinds is None or now - self._kinds[0] > timedelta(seconds=60):
            self._kinds = now, await self._api.optional_kinds()
        return self._kinds[1]

    async def _act(
        self, actor: Actor, made: Plan, memory: _Memory, now: datetime, told: list[Note]
    ) -> tuple[Plan, ApiError | None]:
        """Carries out a plan. What the API server refuses for good is a problem of it, and given back: the rest is not
        done then but for what stands by itself, as each action may rest on those before it.
        """
        problems = list(made.problems)
        refused: ApiError | None = None
        for action in made.actions:
            if refused is not None and not isinstance(action, LabelPod | PointLeaderService):
                continue
            self._fence()
            try:
                note = await actor.act(action)
            except NodeError as error:
                log.warning("%s: %s", action, error)
                if not error.refused:
                    continue  # it may be gone: the next look tells
                if not isinstance(action, SwitchSource):
                    problems.append(Problem("NodeRefused", str(error)))
                    continue
                missing = f"; missing: {error.missing}" if error.missing else ""
                problem = Problem("SourceSwitchRefused", f"{', '.join(action.endpoints)}: {error}{missing}")
                memory.switch_refused = action.endpoints, problem, now
                problems.append(problem)
            except ApiError as error:
                budget = isinstance(action, RestartPod) and error.status == 429
                if error.refusal and not error.conflict:
                    refused = refused or error
                    problems.append(Problem("ApiServerRefused", _refusal(action, error)))
                    continue
                if not (error.conflict or budget):
                    raise
                log.info("%s has to wait: %s", type(action).__name__, error)
            else:
                if note is not None:
                    log.info("%s: %s", note.reason, note.message)
                    told.append(note)
        return replace(made, problems=tuple(problems)), refused

    def _without_refused(self, made: Plan, memory: _Memory, now: datetime) -> Plan:
        """A switch that was refused a moment ago is not asked for again at once, but stays a problem."""
        if memory.switch_refused is None:
            return made
        endpoints, problem, when = memory.switch_refused
        if SwitchSource(endpoints) not in made.actions:
            memory.switch_refused = None
            return made
        if now - when >= _RETRY_SWITCH:
            return made
        actions = tuple(action for action in made.actions if action != SwitchSource(endpoints))
        return replace(made, actions=actions, problems=(*made.problems, problem))

    async def _write_status(
        self, desired: Desired, observed: Observed, made: Plan, present: Json, now: datetime
    ) -> str:
        cluster = desired.cluster
        memory = self._memories[(cluster.namespace, cluster.name)]
        wanted = status(desired, observed, made, present, now.strftime("%Y-%m-%dT%H:%M:%SZ"))
        stale = memory.status_written is None or now - memory.status_written > _CALM
        if wanted != present and (stale or restless(wanted) != restless(present)):
            self._fence()
            manifest: Json = {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "metadata": {"name": cluster.name, "namespace": cluster.namespace, "uid": cluster.uid},
                "status": wanted,
            }
            await self._api.apply(manifest, manager=STATUS_MANAGER, subresource="status")
            memory.status_written = now
            for note in notes(present, wanted):
                await self._tell(cluster, note, now)
        return str(wanted["phase"])

    async def _tell(self, cluster: Cluster, note: Note, now: datetime) -> None:
        try:
            await self._api.create(event(cluster, note, now, self._settings.instance))
        except ApiError as error:
            if error.namespace_ends:
                return
            log.warning("an Event could not be written (%s): %s: %s", error, note.reason, note.message)

    def _fence(self) -> None:
        if not self._may_act():
            raise Fenced


def _refusal(action: Action, error: ApiError) -> str:
    """For people. What is said of a Secret may hold a part of it, and is left out."""
    what = f"{action.kind} {action.name}" if isinstance(action, Apply) else type(action).__name__
    secret = isinstance(action, Apply) and action.kind == "Secret"
    return f"the API server refuses {what}: {error.reason if secret else error.message[:1000]}"
