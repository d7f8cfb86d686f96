"""The watches: kopf tells when something happens to a cluster or to what it is made of, and we note its name.

Handlers decide nothing. Only ``on.event`` is used: no finalizers, no annotations on anybody's objects, no state in
kopf. kopf's peering is not leader election, so it is off; the Lease decides who acts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress

import kopf

from kingbus_operator.api import GROUP, PLURAL, VERSION
from kingbus_operator.build.common import MANAGER
from kingbus_operator.kube.credentials import Credentials
from kingbus_operator.shell.queue import Queue
from kingbus_operator.shell.signals import stop_on_signals

log = logging.getLogger(__name__)

_OURS = {"app.kubernetes.io/managed-by": MANAGER, "app.kubernetes.io/name": "kingbus"}
_INSTANCE = "app.kubernetes.io/instance"
_AGAIN = 5.0


def registry_for(queue: Queue, credentials: Credentials) -> kopf.OperatorRegistry:
    """The handlers."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**_: object) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(
            server=credentials.server,
            ca_data=credentials.ca_data,
            token=credentials.bearer(),
            certificate_data=credentials.certificate_data,
            private_key_data=credentials.key_data,
        )

    # Coroutines, all of them: kopf runs plain functions in threads, where the queue has no event loop.
    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def cluster(namespace: str | None, name: str | None, **_: object) -> None:
        if namespace is not None and name is not None:
            queue.add(namespace, name)

    @kopf.on.event("apps", "v1", "statefulsets", labels=_OURS, registry=registry)
    @kopf.on.event("", "v1", "services", labels=_OURS, registry=registry)
    async def part(namespace: str | None, labels: Mapping[str, str], **_: object) -> None:
        instance = labels.get(_INSTANCE)
        if namespace is not None and instance:
            queue.add(namespace, instance)

    return registry


async def watch(
    queue: Queue, credentials: Credentials, namespaces: Sequence[str], ready: asyncio.Event, stop: asyncio.Event
) -> None:
    """Watches until `stop`; for ever, also when the API server is away for long. `ready` is set once it watches."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True  # what we watch is known; looking for new resources needs more rights
    settings.networking.request_timeout = 30
    settings.watching.server_timeout = 300
    # Else kopf kills the process ten minutes after a failure, which it takes for the process's end.
    settings.process.ultimate_exiting_timeout = None
    while not stop.is_set():
        others = asyncio.all_tasks()
        try:
            # kopf.operator() in its two halves. The first ends with kopf taking the process's signals for itself, and
            # never giving them back: they would be lost once it has failed. Nothing runs before they are ours again.
            tasks = await kopf.spawn_tasks(
                registry=registry_for(queue, credentials),
                settings=settings,
                standalone=True,
                clusterwide=not namespaces,
                namespaces=list(namespaces),
                ready_flag=ready,
                stop_flag=stop,
            )
            stop_on_signals(stop)
            await kopf.run_tasks(tasks, ignored=others)
        except Exception as error:  # noqa: BLE001 - whatever ended the watches, they are begun again
            log.warning("the watches ended (%s: %s); again in %.0f s", type(error).__name__, error, _AGAIN)
        with suppress(TimeoutError):
            async with asyncio.timeout(_AGAIN):
                await stop.wait()
