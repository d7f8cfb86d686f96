"""An operator that ends gives the Lease back, whatever of its own or of others' comes in between."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from kingbus_operator.api.types import Json
from kingbus_operator.kube.client import Api, ApiError
from kingbus_operator.kube.credentials import Credentials
from kingbus_operator.planning.observed import dig
from kingbus_operator.shell.lease import Lease

_DEADLINE = 60.0


@dataclass(slots=True)
class Store:
    """The one Lease that an API server has."""

    lease: Json | None = None
    version: int = 0
    before_a_release: list[Callable[[], None]] = field(default_factory=list)
    """What comes between a release's GET and its PUT, one thing for each attempt."""

    @property
    def holder(self) -> object:
        return dig(self.lease, "spec", "holderIdentity")

    def put(self, body: Json) -> Json:
        """A conflict when the body is not made from the present Lease."""
        if dig(body, "metadata", "resourceVersion") != dig(self.lease, "metadata", "resourceVersion"):
            raise ApiError(409, "Conflict", "the object has been modified")
        self.version += 1
        metadata = body["metadata"]
        assert isinstance(metadata, dict)
        self.lease = {**body, "metadata": {**metadata, "resourceVersion": str(self.version)}}
        return self.lease

    def put_by(self, holder: str) -> None:
        """Somebody writes the Lease as he finds it, with this holder."""
        body = copy.deepcopy(self.lease)
        spec = dig(body, "spec")
        assert body is not None
        assert isinstance(spec, dict)
        spec["holderIdentity"] = holder
        self.put(body)


class FakeApi(Api):
    """A client of that API server. A renewal, if one is to get stuck, is noted instead of being made."""

    def __init__(self, store: Store) -> None:
        super().__init__(Credentials("http://unused"))
        self._store = store
        self.stuck: Json | None = None
        self.under_way = asyncio.Event()
        self.silent = False
        self.releases = 0

    async def get(self, kind: str, namespace: str | None, name: str) -> Json | None:
        del kind, namespace, name
        return copy.deepcopy(self._store.lease)

    async def create(self, manifest: Json, subresource: str | None = None, name: str | None = None) -> Json:
        del subresource, name
        return self._store.put(manifest)

    async def replace(self, manifest: Json) -> Json:
        if dig(manifest, "spec", "holderIdentity"):
            self.stuck = manifest
            self.under_way.set()
            await asyncio.Event().wait()
        self.releases += 1
        if self.silent:
            await asyncio.Event().wait()
        if self._store.before_a_release:
            self._store.before_a_release.pop(0)()
        return self._store.put(manifest)


def end_during_a_renewal(api: FakeApi, deadline: float = _DEADLINE) -> None:
    """An operator that leads is ended while a renewal of its Lease is under way."""

    async def main() -> None:
        async def lost() -> None:
            pass

        lease = Lease(api, "system", "one", deadline=deadline, period=0, monotonic=lambda: 0.0)
        async with asyncio.timeout(_DEADLINE):
            task = asyncio.create_task(lease.run(lambda: None, lost))
            await api.under_way.wait()
            assert lease.held
            task.cancel()
            await asyncio.wait([task])
        assert task.cancelled()
        assert not lease.held

    asyncio.run(main())


def test_a_renewal_that_comes_between_does_not_keep_the_lease() -> None:
    store = Store()
    api = FakeApi(store)

    def arrive() -> None:
        assert api.stuck is not None
        store.put(api.stuck)

    store.before_a_release.append(arrive)
    end_during_a_renewal(api)
    assert (store.holder, api.releases) == ("", 2)
    with pytest.raises(ApiError):
        arrive()  # one that comes later still is refused


def test_what_another_has_taken_in_the_meantime_stays_his() -> None:
    store = Store()
    api = FakeApi(store)
    store.before_a_release.append(lambda: store.put_by("two"))
    end_during_a_renewal(api)
    assert (store.holder, api.releases) == ("two", 1)


def test_one_that_is_always_too_late_gives_up() -> None:
    store = Store()
    api = FakeApi(store)
    store.before_a_release += [lambda: store.put_by("one")] * 1000
    end_during_a_renewal(api)
    assert store.holder == "one"
    assert 1 < api.releases < 10


def test_one_that_is_not_answered_gives_up_before_others_may_take_the_lease(caplog: pytest.LogCaptureFixture) -> None:
    api = FakeApi(Store())
    api.silent = True
    end_during_a_renewal(api, deadline=0.5)
    assert "no answer" in caplog.text
