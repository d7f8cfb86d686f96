"""Two operators, one Lease: one acts at a time, and the other takes over."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass

from kingbus_operator.kube.client import Api
from kingbus_operator.planning.observed import dig
from kingbus_operator.shell.lease import NAME, Lease
from kube.world import Namespace


@dataclass(slots=True)
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def test_one_leads_and_another_follows_when_it_is_silent(namespace: Namespace) -> None:
    async def story() -> None:
        clock = Clock()
        async with Api(namespace.plane.admin) as api:
            one, two = (Lease(api, namespace.name, name, monotonic=clock) for name in ("one", "two"))
            await one.attempt()
            await two.attempt()
            assert (one.held, two.held) == (True, False)
            clock.now += 9
            await one.attempt()
            await two.attempt()
            assert (one.held, two.held) == (True, False), "renewed in time"
            clock.now += 10.5
            await two.attempt()
            assert (one.held, two.held) == (False, False), "the silent one stops before the other begins"
            clock.now += 5
            await two.attempt()
            assert (one.held, two.held) == (False, True)
            await one.attempt()
            assert (one.held, two.held) == (False, True), "it does not come back"
            lease = await api.get("Lease", namespace.name, NAME)
            assert dig(lease, "spec", "holderIdentity") == "two"
            assert dig(lease, "spec", "leaseTransitions") == 1

    asyncio.run(story())


def test_of_many_that_begin_at_once_one_leads(namespace: Namespace) -> None:
    async def story() -> None:
        async with AsyncExitStack() as stack:
            apis = [await stack.enter_async_context(Api(namespace.plane.admin)) for _ in range(5)]
            leases = [Lease(api, namespace.name, f"operator-{number}") for number, api in enumerate(apis)]
            for _ in range(3):
                await asyncio.gather(*(lease.attempt() for lease in leases))
                assert sum(lease.held for lease in leases) == 1

    asyncio.run(story())


def test_one_that_ends_gives_the_lease_back(namespace: Namespace) -> None:
    async def story() -> None:
        async with Api(namespace.plane.admin) as api:
            one, two = Lease(api, namespace.name, "one", period=0.05), Lease(api, namespace.name, "two")
            gained, lost = asyncio.Event(), asyncio.Event()

            async def stand_down() -> None:
                lost.set()

            task = asyncio.create_task(one.run(gained.set, stand_down))
            async with asyncio.timeout(60):
                await gained.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert lost.is_set()
            await two.attempt()
            assert two.held, "without waiting"

    asyncio.run(story())
