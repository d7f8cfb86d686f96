"""Who is let in: so many connections at a time, whoever opens them.

The admin API is in the process that holds the log. Every connection takes one of its file descriptors, and anybody who
reaches the port may open some, without a token and without ever asking for anything. So their number is bounded: for
a new one the oldest that waits for nothing has to go. Probes always get in.
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

from aiohttp import web

from kingbus_node.admin.problems import Handler

CONNECTIONS: Final = 200
HANDSHAKE_SECONDS: Final = 5.0
"""How long a TLS handshake may take."""


class Doors:
    """Makes the protocol of each connection that is accepted. In the server's event loop."""

    def __init__(self, limit: int = CONNECTIONS) -> None:
        self._limit = limit
        self._answered: set[asyncio.BaseProtocol] = set()
        self._server: web.Server

    def open(self, server: web.Server) -> None:
        """Lets connections in to `server`."""
        self._server = server

    def accept(self) -> asyncio.Protocol:
        """For a new connection; the protocol of one that is closed at once when all others are being answered."""
        there = [one for one in self._server.connections if one.transport is not None]
        surplus = len(there) + 1 - self._limit
        idle = [one for one in there if one not in self._answered] if surplus > 0 else []
        for one in idle[: max(surplus, 0)]:
            one.force_close()
        return _Closed() if surplus > len(idle) else cast("asyncio.Protocol", self._server())

    @web.middleware
    async def answering(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Whose request is being answered stays."""
        self._answered.add(request.protocol)
        try:
            return await handler(request)
        finally:
            self._answered.discard(request.protocol)


class _Closed(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
