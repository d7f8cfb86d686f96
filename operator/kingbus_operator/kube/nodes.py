"""A client of the nodes' admin API, as far as the operator needs it.

Pods are reached by their IP address (DNS is late when a pod is new) and must prove by their certificate that they are
the pod that is meant. The bearer token goes nowhere else.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

import aiohttp

from kingbus_operator.api.types import Json
from kingbus_operator.build.common import ADMIN_PORT
from kingbus_operator.planning.observed import MemberView, NodeView, SourceView, dig

_NODES = "-nodes."
"""What is in the address of every pod: the name of the headless Service, and a dot."""

_LOOK = aiohttp.ClientTimeout(total=3)
_ORDER = aiohttp.ClientTimeout(total=60)


@dataclass(frozen=True, slots=True)
class Target:
    """A pod's admin API: where it is, what its certificate must say, and what it takes."""

    ip: str
    host: str
    ca: str = field(repr=False)
    token: str = field(repr=False)
    port: int = ADMIN_PORT


class NodeError(Exception):
    """A node did not answer, or refused an order; `refused` tells the two apart. `missing`: GTIDs that it is about."""

    def __init__(self, message: str, *, refused: bool = False, missing: str | None = None) -> None:
        super().__init__(message)
        self.refused = refused
        self.missing = missing


class Nodes(Protocol):
    """What the operator asks of nodes. Every method raises ``NodeError``."""

    async def look(self, target: Target) -> NodeView:
        """What it says of itself."""

    async def add_member(self, target: Target, name: str, address: str) -> None:
        """Returns when the member is in the log."""

    async def remove_member(self, target: Target, address: str) -> None:
        """Returns when the member is out of the log."""

    async def transfer(self, target: Target, address: str) -> None:
        """Returns when the member with this address leads."""

    async def set_source(self, target: Target, changes: Json) -> None:
        """Returns when the log holds them."""

    async def switch_source(self, target: Target, endpoints: tuple[str, ...]) -> None:
        """Refused when the new source lacks something."""


class HttpNodes:
    """The real thing."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._contexts: dict[str, ssl.SSLContext] = {}

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def look(self, target: Target) -> NodeView:
        status = await self._call(target, "GET", "/v1/status", timeout=_LOOK)
        settings: Json = {}
        if status.get("role") == "leader" and status.get("quorum"):
            try:
                settings = await self._call(target, "GET", "/v1/source", timeout=_LOOK)
            except NodeError:
                settings = {}  # it has just lost the leadership, or knows no source yet
        return node_view(status, settings)

    async def add_member(self, target: Target, name: str, address: str) -> None:
        await self._call(target, "POST", "/v1/members", {"name": name, "address": address})

    async def remove_member(self, target: Target, address: str) -> None:
        await self._call(target, "DELETE", f"/v1/members/{address}")

    async def transfer(self, target: Target, address: str) -> None:
        await self._call(target, "POST", "/v1/leader/transfer", {"to": address})

    async def set_source(self, target: Target, changes: Json) -> None:
        await self._call(target, "PUT", "/v1/source", changes)

    async def switch_source(self, target: Target, endpoints: tuple[str, ...]) -> None:
        await self._call(target, "POST", "/v1/source/switch", {"endpoints": list(endpoints)})

    async def _call(
        self,
        target: Target,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        timeout: aiohttp.ClientTimeout = _ORDER,
    ) -> Json:
        assert self._session is not None, "use the client as a context manager"
        address = f"[{target.ip}]" if ":" in target.ip else target.ip
        headers = {"Authorization": f"Bearer {target.token}"}
        try:
            async with self._session.request(
                method,
                f"https://{address}:{target.port}{path}",
                json=body,
                headers=headers,
                timeout=timeout,
                ssl=self._context(target.ca),
                server_hostname=target.host,
                allow_redirects=False,
            ) as response:
                text = await response.text()
                if response.status < 300:
                    answer: Json = json.loads(text) if text else {}
                    return answer
                raise _refusal(response.status, text)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise NodeError(f"{target.host} does not answer: {str(error) or type(error).__name__}") from error

    def _context(self, ca: str) -> ssl.SSLContext:
        if ca not in self._contexts:
            if len(self._contexts) > 1000:
                self._contexts.clear()  # CAs of clusters that are gone
            self._contexts[ca] = ssl.create_default_context(cadata=ca)
        return self._contexts[ca]


def node_view(status: Mapping[str, object], settings: Mapping[str, object]) -> NodeView:
    """From ``GET /v1/status`` and, of a leader, ``GET /v1/source``."""
    members = status.get("members")
    replicas = status.get("replicas")
    lag = dig(status, "source", "lag_seconds")
    semi_sync = dig(status, "source", "semi_sync")
    held = dig(settings, "settings")
    configured = dig(held, "endpoints")
    reasons = status.get("reasons")
    source = SourceView(
        endpoint=_text(dig(status, "source", "endpoint")),
        state=_text(dig(status, "source", "state")) or "connecting",
        error=_text(dig(status, "source", "error")),
        semi_sync=semi_sync if isinstance(semi_sync, bool) else None,
        lag_seconds=float(lag) if isinstance(lag, int | float) else None,
        configured=tuple(map(str, configured)) if isinstance(configured, list) else None,
        settings=held if isinstance(held, Mapping) else None,
        missing=_text(dig(settings, "missing")),
    )
    return NodeView(
        role=str(status.get("role")),
        term=int(str(status.get("term", 0))),
        leader=_text(status.get("leader")),
        quorum=bool(status.get("quorum")),
        ready=bool(status.get("ready")),
        reasons=tuple(map(str, reasons)) if isinstance(reasons, list) else (),
        members=tuple(_member(member) for member in members) if isinstance(members, list) else (),
        source=source,
        executed=_text(dig(status, "gtid", "executed")) or "",
        purged=_text(dig(status, "gtid", "purged")) or "",
        replicas=len(replicas) if isinstance(replicas, list) else 0,
    )


def _member(member: Mapping[str, object]) -> MemberView:
    """A member is known by its address, which begins with the pod's name: it tells its own with its first greeting."""
    index = member.get("match_index")
    address = str(member.get("address") or "")
    return MemberView(
        name=address.partition(".")[0] if _NODES in address else str(member.get("name")),
        role=str(member.get("role")),
        connected=bool(member.get("connected")),
        index=index if isinstance(index, int) else None,
    )


def _text(value: object) -> str | None:
    return str(value) if value else None


def _refusal(status: int, text: str) -> NodeError:
    detail, missing = f"HTTP {status}", None
    try:
        problem = json.loads(text)
        detail, missing = str(problem.get("detail") or detail), _text(problem.get("missing"))
    except (ValueError, AttributeError):
        return NodeError(detail)
    return NodeError(detail, refused=400 <= status < 500, missing=missing)
