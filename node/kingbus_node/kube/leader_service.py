"""The leader Service: the elected node points its selector at its own pod, so that replicas reach the leader by name.

One conditional PATCH, made when the leader's first entry of its term is committed. It carries the Raft term, as an
annotation of the Service, and holds only if the Service is as it was when its term was read. So whoever is slow, a
leader that was paused and comes back, for example, can't overwrite what a leader of a later term has set:

1. read the Service and its term;
2. a later term than ours: we are not the leader any more, whatever we think. Leave it;
3. else patch selector and term, on the condition that the resourceVersion is the one that was read;
4. a conflict: begin anew. Any other failure: again, with growing waits, for as long as we lead.

Raft's election safety (at most one leader in a term; Ongaro's dissertation, section 3.4) makes terms a total order of
leaders, which is all that is needed here.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

from kingbus_node.kube.api import ApiError, Json, ServiceApi
from kingbus_node.raft.api import Leadership
from kingbus_node.util.backoff import Backoff

log = logging.getLogger(__name__)

TERM_ANNOTATION = "kingbus.io/term"
POD_NAME_LABEL = "statefulset.kubernetes.io/pod-name"
MANAGER = "kingbus-leader"

_FIRST_WAIT = 0.05
_LONGEST_WAIT = 1.0


class Services(Protocol):
    """What is needed of the Kubernetes API; see ``ServiceApi``."""

    def get(self, name: str) -> Json: ...

    def patch(self, name: str, operations: Sequence[Json], manager: str) -> Json: ...


class LeaderService:
    """Follows this node's leadership, in a thread of its own.

    :param service: the Service's name
    :param pod: this pod's name
    """

    def __init__(self, services: Services, service: str, pod: str) -> None:
        self._services = services
        self._service = service
        self._pod = pod
        self._changed = threading.Condition()
        self._term: int | None = None
        self._done: int | None = None  # the term that needs nothing more
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="leader-service", daemon=True)
        self._thread.start()

    @classmethod
    def in_pod(cls, environ: Mapping[str, str] = os.environ) -> LeaderService | None:
        """From the environment that the operator gives to pods; None when there is no leader Service to care for."""
        service, pod = environ.get("KINGBUS_LEADER_SERVICE"), environ.get("POD_NAME")
        services = ServiceApi.in_pod(environ)
        if not service or not pod or services is None:
            return None
        return cls(services, service, pod)

    def leadership_changed(self, leadership: Leadership | None) -> None:
        """A leadership listener of ``raft.api.ClusterConsensus``: returns at once."""
        with self._changed:
            self._term = leadership.term if leadership is not None and leadership.ready else None
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the thread. The Service stays as it is: the next leader sets it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(10)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._term not in (None, self._done))
                if self._closed:
                    return
                term = self._term
            assert term is not None
            self._follow(term)
            self._done = term

    def _follow(self, term: int) -> None:
        """Until the Service names us, or a later term, or we do not lead in this term any more."""
        backoff = Backoff(_FIRST_WAIT, _LONGEST_WAIT)
        while self._leads(term):
            try:
                outcome = point(self._services, self._service, self._pod, term)
            except ApiError as error:
                wait = backoff.next()
                log.log(
                    logging.INFO if error.conflict else logging.WARNING,
                    "the leader Service could not be changed; it is tried again",
                    extra={"service": self._service, "term": term, "error": str(error), "seconds": round(wait, 2)},
                )
                with self._changed:
                    self._changed.wait_for(lambda: self._closed or self._term != term, wait)
                continue
            if outcome:
                log.info("the leader Service names this pod", extra={"service": self._service, "term": term})
            else:
                log.warning("the leader Service names a later leader", extra={"service": self._service, "term": term})
            return

    def _leads(self, term: int) -> bool:
        with self._changed:
            return not self._closed and self._term == term


def point(services: Services, service: str, pod: str, term: int) -> bool:
    """Points the Service at `pod`, as leader of `term`. False: a leader of a later term was here. ApiError."""
    found = services.get(service)
    metadata, spec = found.get("metadata"), found.get("spec")
    if not isinstance(metadata, dict) or not isinstance(spec, dict):
        raise ApiError(0, f"the Kubernetes API gave no Service {service}")
    annotations = metadata.get("annotations") or {}
    known = _term(annotations.get(TERM_ANNOTATION))
    selector = {POD_NAME_LABEL: pod}
    if known > term:
        return False
    if known == term and spec.get("selector") == selector:
        return True
    operations: list[Json] = [
        {"op": "test", "path": "/metadata/resourceVersion", "value": metadata.get("resourceVersion")}
    ]
    if not annotations:
        operations.append({"op": "add", "path": "/metadata/annotations", "value": {}})
    escaped = TERM_ANNOTATION.replace("/", "~1")  # RFC 6901, section 3
    operations.append({"op": "add", "path": f"/metadata/annotations/{escaped}", "value": str(term)})
    operations.append({"op": "add", "path": "/spec/selector", "value": selector})
    services.patch(service, operations, MANAGER)
    return True


def _term(text: object) -> int:
    """What somebody wrote there by hand and is no number counts as no term."""
    try:
        return int(str(text))
    except ValueError:
        return -1
