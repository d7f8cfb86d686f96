"""Asking the other nodes: what only the leader can do is passed on to it, and lists are put together from all.

A request that one node passes to another carries `HOP`, and is never passed on again: two nodes that each believe the
other to be the leader must not play ball. The caller's own ``Authorization`` goes along: all nodes have one token.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from http import HTTPStatus
from typing import Final

import aiohttp
from aiohttp import web

from kingbus_node.admin.problems import problem
from kingbus_node.admin.views import Member

log = logging.getLogger(__name__)

HOP: Final = "Kingbus-Forwarded-By"
"""The header of a request that a node has passed on: the node's name."""

_CONNECT_SECONDS: Final = 3.0
_ORDER_SECONDS: Final = 180.0  # for what only the leader can do: some of it waits for a member to catch up
_LOOK_SECONDS: Final = 1.5  # for a part of a list: a node that hangs must not hang the others' answers
_PASSED: Final = ("Content-Type", "WWW-Authenticate", "Allow", "Retry-After")


class Peers:
    """The admin APIs of the other nodes, asked from the server's event loop. Made inside it; ``close`` at the end."""

    def __init__(self, node: str, tls: ssl.SSLContext | None) -> None:
        self._node = node
        connector = aiohttp.TCPConnector(ssl=tls if tls is not None else True, limit_per_host=8)
        self._session = aiohttp.ClientSession(connector=connector, trust_env=False, auto_decompress=False)

    async def close(self) -> None:
        await self._session.close()

    async def pass_on(self, request: web.Request, members: Sequence[Member], leader: str | None) -> web.Response:
        """The leader's own answer to this request; a problem when there is no way to it."""
        if HOP in request.headers:
            return problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"{self._node} is not the leader any more, and the request was passed on once already: try again",
                leader=leader,
            )
        if leader is None:
            return problem(
                HTTPStatus.SERVICE_UNAVAILABLE, "there is no leader now, and only a leader can do this", leader=None
            )
        url = next((member.admin for member in members if member.name == leader), None)
        if url is None:
            return problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"only the leader {leader} can do this, and its admin address is not known here: ask it directly",
                leader=leader,
            )
        body = await request.read()
        try:
            async with self._ask(request, url, body, _ORDER_SECONDS) as answer:
                headers = {name: answer.headers[name] for name in _PASSED if name in answer.headers}
                return web.Response(status=answer.status, body=await answer.read(), headers=headers)
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            return problem(
                HTTPStatus.BAD_GATEWAY,
                f"only the leader {leader} can do this, and its admin API at {url} does not answer: {reason}. Can this "
                "node reach that address (admin.listen, admin.advertise)?",
                leader=leader,
            )

    async def ask_all(
        self, request: web.Request, members: Sequence[Member], path: str
    ) -> tuple[Mapping[str, tuple[int, object]], Sequence[str]]:
        """``path`` asked of every other node in this request's name: status and parsed answer by node; and who was
        silent.
        """
        others = [member for member in members if member.name != self._node]
        answers = await asyncio.gather(*(self._look(request, member, path) for member in others))
        told = {m.name: answer for m, answer in zip(others, answers, strict=True) if answer is not None}
        return told, [member.name for member in others if member.name not in told]

    async def _look(self, request: web.Request, member: Member, path: str) -> tuple[int, object] | None:
        if member.admin is None:
            return None
        try:
            async with self._ask(request, member.admin, b"", _LOOK_SECONDS, path) as answer:
                body = await answer.read()
                is_json = answer.content_type == "application/json"
                return answer.status, await answer.json() if body and is_json else None
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            log.debug("%s did not answer at %s: %s", member.name, member.admin, error)
            return None

    @contextlib.asynccontextmanager
    async def _ask(
        self, request: web.Request, url: str, body: bytes, seconds: float, path: str | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {HOP: self._node}
        for name in ("Authorization", "Content-Type"):
            if name in request.headers:
                headers[name] = request.headers[name]
        async with self._session.request(
            request.method,
            url.rstrip("/") + (request.raw_path if path is None else path),
            data=body or None,
            headers=headers,
            allow_redirects=False,  # a token goes nowhere else
            timeout=aiohttp.ClientTimeout(total=seconds, connect=min(seconds, _CONNECT_SECONDS)),
        ) as answer:
            yield answer


def put_together(
    local: dict[str, object], leader: str | None, told: Mapping[str, tuple[int, object]], silent: Sequence[str]
) -> dict[str, object]:
    """A node's status with the replicas of all nodes, and with what only the leader knows."""
    merged = dict(local)
    own = local["replicas"]
    replicas = list(own) if isinstance(own, list) else []
    unheard = list(silent)
    for name, (status, answer) in told.items():
        theirs = answer.get("replicas") if isinstance(answer, dict) and status == HTTPStatus.OK else None
        if not isinstance(answer, dict) or not isinstance(theirs, list):
            unheard.append(name)
            continue
        replicas += theirs
        if name == leader and answer.get("role") == "leader":
            merged |= {part: answer[part] for part in ("source", "members") if part in answer}
    return merged | {"replicas": replicas, "silent": sorted(unheard)}
