"""``/healthz``, ``/readyz`` and ``/metrics`` of the operator."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from aiohttp import web

from kingbus_operator.shell.metrics import Metrics

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def application(metrics: Metrics, alive: Callable[[], str | None], ready: Callable[[], bool]) -> web.Application:
    """`alive` gives what is wrong, None while all is well."""

    async def healthz(_: web.Request) -> web.Response:
        wrong = alive()
        return web.Response(
            status=HTTPStatus.OK if wrong is None else HTTPStatus.INTERNAL_SERVER_ERROR,
            text=wrong or "ok",
        )

    async def readyz(_: web.Request) -> web.Response:
        if ready():
            return web.Response(text="ok")
        return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, text="the watches have not begun yet")

    async def exposition(_: web.Request) -> web.Response:
        return web.Response(
            body=metrics.exposition(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", exposition)
    return app
