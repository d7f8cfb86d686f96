"""Leadership among operators by a Lease, as client-go's leaderelection does it.

No clock is compared with another machine's: a Lease counts as expired when *we* have seen it unchanged for its
duration. The holder renews every few seconds and stops acting well before others may take over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from kingbus_operator.api.types import Json
from kingbus_operator.kube.client import Api, ApiError
from kingbus_operator.planning.observed import dig, number

log = logging.getLogger(__name__)

NAME = "kingbus-operator"
_RELEASES = 5
"""How often giving back is tried when it meets changes. One suffices but for a renewal that is still under way."""


class Lease:
    """Tries for ever to hold the Lease.

    :param duration: seconds after which another may take a Lease that is not renewed
    :param deadline: seconds after which a holder that could not renew stops acting; less than `duration`
    :param period: seconds between attempts
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        identity: str,
        *,
        duration: float = 15.0,
        deadline: float = 10.0,
        period: float = 2.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._identity = identity
        self._duration = duration
        self._deadline = deadline
        self._period = period
        self._monotonic = monotonic
        self._renewed: float | None = None
        self._seen: tuple[object, float] | None = None

    @property
    def held(self) -> bool:
        """Whether this operator may act at this moment."""
        return self._renewed is not None and self._monotonic() - self._renewed < self._deadline

    async def run(self, gained: Callable[[], None], lost: Callable[[], Awaitable[None]]) -> None:
        """Calls `gained` and `lost` in turns, until cancelled; gives the Lease back then."""
        leading = False
        try:
            while True:
                await self.attempt()
                if self.held and not leading:
                    leading = True
                    log.info("%s leads: it holds the Lease %s/%s", self._identity, self._namespace, NAME)
                    gained()
                elif leading and not self.held:
                    leading = False
                    log.warning("%s does not lead any more: it could not renew the Lease", self._identity)
                    await lost()
                await asyncio.sleep(self._period)
        finally:
            if leading:
                await lost()
            await self._release()

    async def attempt(self) -> None:
        """One attempt to take or renew it."""
        began = self._monotonic()
        try:
            present = await self._api.get("Lease", self._namespace, NAME)
            if present is None:
                await self._api.create(self._body(None, 0))
            elif self._free(present, began):
                await self._api.replace(self._body(present, self._transitions(present)))
            else:
                self._renewed = None
                return
        except ApiError as error:
            if error.conflict:
                self._renewed = None  # another one was faster
            log.warning("the Lease %s/%s could not be renewed: %s", self._namespace, NAME, error)
            return
        self._renewed = began

    def _free(self, present: Json, now: float) -> bool:
        holder = dig(present, "spec", "holderIdentity")
        if not holder or holder == self._identity:
            return True
        version = dig(present, "metadata", "resourceVersion")
        if self._seen is None or self._seen[0] != version:
            self._seen = version, now
        return now - self._seen[1] >= number(dig(present, "spec", "leaseDurationSeconds"), int(self._duration))

    def _transitions(self, present: Json) -> int:
        same = dig(present, "spec", "holderIdentity") == self._identity
        return number(dig(present, "spec", "leaseTransitions")) + (0 if same else 1)

    def _body(self, present: Json | None, transitions: int) -> Json:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        taken = (
            dig(present, "spec", "acquireTime") if dig(present, "spec", "holderIdentity") == self._identity else None
        )
        metadata: Json = {"name": NAME, "namespace": self._namespace}
        if present is not None:
            metadata["resourceVersion"] = dig(present, "metadata", "resourceVersion")
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": int(self._duration),
                "acquireTime": taken or now,
                "renewTime": now,
                "leaseTransitions": transitions,
            },
        }

    async def _release(self) -> None:
        """So that the next one need not wait. What fails here is made good by time."""
        if self._renewed is None:
            return
        self._renewed = None
        try:
            # Longer is of little use, as others may take it soon after; and the pod's grace period has to be enough.
            async with asyncio.timeout(self._deadline):
                for _ in range(_RELEASES):
                    if await self._given_back():
                        return
            log.warning("the Lease could not be given back: it was changed again and again")
        except TimeoutError:
            log.warning("the Lease could not be given back: no answer for %.0f s", self._deadline)
        except ApiError as error:
            log.warning("the Lease could not be given back: %s", error)

    async def _given_back(self) -> bool:
        """One attempt. False when somebody was faster: mostly our own last renewal, which we did not see the end of."""
        present = await self._api.get("Lease", self._namespace, NAME)
        if present is None or dig(present, "spec", "holderIdentity") != self._identity:
            return True  # it is not ours to give
        body = self._body(present, self._transitions(present))
        spec = body["spec"]
        assert isinstance(spec, dict)
        spec["holderIdentity"] = ""
        try:
            await self._api.replace(body)
        except ApiError as error:
            if not error.conflict:
                raise
            return False
        return True
