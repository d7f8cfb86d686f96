"""Names are worked on one at a time each, again after failures, and not at all while this operator does not lead."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kingbus_operator.kube.client import ApiError
from kingbus_operator.shell import queue as module
from kingbus_operator.shell.metrics import Metrics
from kingbus_operator.shell.queue import Queue
from kingbus_operator.shell.reconcile import Fenced

_DEADLINE = 60.0


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(_DEADLINE):
            await story()

    asyncio.run(main())


def test_what_is_added_while_it_is_worked_on_is_worked_on_once_more() -> None:
    async def story() -> None:
        rounds: list[str] = []
        started, go_on = asyncio.Event(), asyncio.Event()

        async def work(namespace: str, name: str) -> float | None:
            rounds.append(f"{namespace}/{name}")
            started.set()
            await go_on.wait()
            return 1000.0

        queue = Queue(work, Metrics())
        queue.resume()
        queue.add("a", "b")
        await started.wait()
        for _ in range(10):
            queue.add("a", "b")
        assert rounds == ["a/b"], "never twice at once"
        started.clear()
        go_on.set()
        await started.wait()
        await queue.pause()
        assert rounds == ["a/b", "a/b"], "and not ten times"

    run(story)


def test_a_standby_only_remembers() -> None:
    async def story() -> None:
        rounds: list[str] = []
        worked = asyncio.Event()

        async def work(namespace: str, name: str) -> float | None:
            del namespace
            rounds.append(name)
            if len(rounds) == 2:
                worked.set()
            return 1000.0

        queue = Queue(work, Metrics())
        queue.add("a", "one")
        queue.add("a", "two")
        await asyncio.sleep(0)
        assert rounds == []
        queue.resume()
        await worked.wait()
        await queue.pause()
        assert sorted(rounds) == ["one", "two"]

    run(story)


@pytest.mark.parametrize(
    "error", [ApiError(0, "", "away"), ApiError(503, "", "busy"), RuntimeError("a mistake of ours")]
)
def test_a_failure_is_tried_again_and_harms_nobody_else(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT", 0.001)

    async def story() -> None:
        failures = 3
        done, other = asyncio.Event(), asyncio.Event()

        async def work(namespace: str, name: str) -> float | None:
            nonlocal failures
            del namespace
            if name == "other":
                other.set()
                return 1000.0
            if failures:
                failures -= 1
                raise error
            done.set()
            return 1000.0

        metrics = Metrics()
        queue = Queue(work, metrics)
        queue.resume()
        queue.add("a", "failing")
        queue.add("a", "other")
        await done.wait()
        await other.wait()
        await queue.pause()
        assert b"kingbus_operator_reconcile_errors_total 3.0" in metrics.exposition()

    run(story)


def test_a_cluster_that_is_gone_is_forgotten_until_it_is_named_again() -> None:
    async def story() -> None:
        rounds = 0
        again = asyncio.Event()

        async def work(namespace: str, name: str) -> float | None:
            nonlocal rounds
            del namespace, name
            rounds += 1
            if rounds == 2:
                again.set()
            return None

        queue = Queue(work, Metrics())
        queue.resume()
        queue.add("a", "b")
        while rounds == 0:
            await asyncio.sleep(0)
        queue.add("a", "b")
        await again.wait()
        await queue.pause()

    run(story)


def test_metrics_count_clusters_by_phase() -> None:
    metrics = Metrics()
    metrics.seen("a", "one", "Running")
    metrics.seen("a", "two", "Running")
    metrics.seen("a", "two", "Degraded")
    text = metrics.exposition().decode()
    assert 'kingbus_operator_clusters{phase="Running"} 1.0' in text
    assert 'kingbus_operator_clusters{phase="Degraded"} 1.0' in text
    metrics.stood_down()
    assert 'kingbus_operator_clusters{phase="Running"} 0.0' in metrics.exposition().decode()


def test_a_namespace_that_is_being_deleted_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT", 0.001)
    said = 'services "orders" is forbidden: unable to create new content in namespace a because it is being terminated'

    async def story() -> None:
        gone = asyncio.Event()
        answers: list[Exception | None] = [ApiError(403, "Forbidden", said), None]

        async def work(namespace: str, name: str) -> float | None:
            del namespace, name
            answer = answers.pop(0)
            if answer is not None:
                raise answer
            gone.set()
            return None

        metrics = Metrics()
        queue = Queue(work, metrics)
        queue.resume()
        queue.add("a", "orders")
        await gone.wait()
        await queue.pause()
        assert b"kingbus_operator_reconcile_errors_total 0.0" in metrics.exposition()

    run(story)


def test_a_round_that_was_fenced_is_made_up_for_when_the_lease_is_held_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A renewal that takes long fences rounds, and nobody pauses the queue when it comes through after all."""
    monkeypatch.setattr(module, "FIRST_WAIT", 0.01)

    async def story() -> None:
        rounds = 0
        again = asyncio.Event()

        async def work(namespace: str, name: str) -> float | None:
            del namespace, name
            nonlocal rounds
            rounds += 1
            if rounds == 1:
                raise Fenced
            again.set()
            return None

        queue = Queue(work, Metrics())
        queue.resume()
        queue.add("a", "b")
        async with asyncio.timeout(30):
            await again.wait()
        await queue.pause()

    run(story)
