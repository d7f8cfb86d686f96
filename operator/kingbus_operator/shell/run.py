"""Puts the operator together and runs it until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

from kingbus_operator.api import KIND
from kingbus_operator.kube.client import Api, ApiError
from kingbus_operator.kube.credentials import Credentials
from kingbus_operator.kube.nodes import HttpNodes
from kingbus_operator.planning.observed import dig
from kingbus_operator.shell.health import application
from kingbus_operator.shell.lease import Lease
from kingbus_operator.shell.metrics import Metrics
from kingbus_operator.shell.queue import Queue
from kingbus_operator.shell.reconcile import Reconciler, Settings
from kingbus_operator.shell.signals import stop_on_signals
from kingbus_operator.shell.watch import watch

log = logging.getLogger(__name__)

_RELIST = 60.0


@dataclass(frozen=True, slots=True)
class Options:
    """The command line."""

    image: str
    identity: str
    namespace: str
    """Where the operator itself lives, and its Lease."""
    namespaces: tuple[str, ...] = ()
    """What it watches; empty: all."""
    port: int = 8081
    cluster_domain: str = "cluster.local"


async def run(credentials: Credentials, options: Options) -> None:
    """Until SIGTERM or SIGINT."""
    stop, watching = asyncio.Event(), asyncio.Event()
    stop_on_signals(stop)
    metrics = Metrics()
    async with Api(credentials) as api, HttpNodes() as nodes:
        lease = Lease(api, options.namespace, options.identity)
        settings = Settings(options.image, options.identity, options.cluster_domain)
        reconciler = Reconciler(api, nodes, settings, metrics, lambda: lease.held)
        queue = Queue(reconciler.reconcile, metrics)

        def gained() -> None:
            metrics.leading.set(1)
            queue.resume()

        async def lost() -> None:
            metrics.leading.set(0)
            await queue.pause()
            metrics.stood_down()

        tasks = {
            asyncio.create_task(lease.run(gained, lost), name="lease"),
            asyncio.create_task(watch(queue, credentials, options.namespaces, watching, stop), name="watches"),
            asyncio.create_task(_relist(api, queue, options.namespaces), name="relist"),
        }

        def wrong() -> str | None:
            ended = [task.get_name() for task in tasks if task.done()]
            return f"ended: {', '.join(ended)}" if ended else None

        runner = web.AppRunner(application(metrics, wrong, watching.is_set), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, port=options.port).start()
        try:
            await stop.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await runner.cleanup()


async def _relist(api: Api, queue: Queue, namespaces: Sequence[str]) -> None:
    """Names every cluster now and then: what a watch may have lost is found here."""
    while True:
        try:
            for namespace in namespaces or (None,):
                for body in await api.list(KIND, namespace):
                    queue.add(str(dig(body, "metadata", "namespace")), str(dig(body, "metadata", "name")))
        except ApiError as error:
            log.warning("the clusters could not be listed: %s", error)
        await asyncio.sleep(_RELIST)
