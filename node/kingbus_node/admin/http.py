"""The admin HTTP server: aiohttp in a thread of its own, with its own event loop, so that nothing else waits for it.

- ``/livez``, ``/readyz`` and ``/metrics`` are open and say nothing that is private.
- Everything below ``/v1`` shows user names or addresses, and needs ``Authorization: Bearer <token>`` when a token file
  is configured. Without one the server only ever listens on a loopback address (the configuration sees to it).
- Errors are RFC 9457 problem details (``application/problem+json``).

The token file is read for each request that needs it, so a rotated token needs no restart.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import ssl
import threading
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from aiohttp import web
from pydantic import TypeAdapter

from kingbus_node.admin.metrics import CONTENT_TYPE, Metrics
from kingbus_node.admin.openapi import REFERENCE, Route, document
from kingbus_node.admin.views import Binlog, Node, Replica, Status
from kingbus_node.config import Address, AdminSettings

log = logging.getLogger(__name__)

PROBLEM = "application/problem+json"

_STATUS = TypeAdapter(Status)
_REPLICAS = TypeAdapter(list[Replica])
_BINLOGS = TypeAdapter(list[Binlog])

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AdminError(Exception):
    """The admin server can't start; the text is for people."""


class AdminServer:
    """Serves the admin API of ``node`` from ``start()`` to ``stop()``."""

    def __init__(self, settings: AdminSettings, node: Node, metrics: Metrics) -> None:
        self._settings = settings
        self._node = node
        self._metrics = metrics
        self._loop: asyncio.AbstractEventLoop | None = None  # while the server answers
        self._thread = threading.Thread(target=self._run, name="admin", daemon=True)
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._address: Address | None = None
        self._stop = asyncio.Event()

    @property
    def address(self) -> Address:
        """Where it listens, with the real port when the configuration said 0. Only after ``start()``."""
        if self._address is None:
            raise RuntimeError("the admin server has not been started")
        return self._address

    def start(self) -> None:
        """Listen, and return when the server answers. Raises ``AdminError`` when it can't."""
        if self._settings.token_file is not None:
            self._token()
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self._thread.join()
            raise AdminError(f"admin.listen {self._settings.listen}: {self._failure}") from self._failure
        log.info("admin API is listening", extra={"address": str(self.address)})

    def stop(self, timeout: float = 5.0) -> None:
        """Finish what is being answered, then end the thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(timeout)
            self._loop = None

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except (OSError, ssl.SSLError) as error:
            self._failure = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=2.0)
        try:
            await runner.setup()
            listen = self._settings.listen
            site = web.TCPSite(runner, listen.host, listen.port, ssl_context=self._tls())
            await site.start()
            port = int(runner.addresses[0][1])
            self._address = Address(listen.host, port)
            self._loop = asyncio.get_running_loop()
            self._started.set()
            await self._stop.wait()
        finally:
            await runner.cleanup()

    def _tls(self) -> ssl.SSLContext | None:
        tls = self._settings.tls
        if tls.cert is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tls.cert, tls.key)
        return context

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[_problems, self._authorised], client_max_size=64 * 1024)
        for route in self._routes():
            application.router.add_route(route.method, route.path, route.handler)
        return application

    def _routes(self) -> list[Route]:
        adapters = (_STATUS, _REPLICAS, _BINLOGS)
        status, replicas, binlogs = (adapter.json_schema(ref_template=REFERENCE) for adapter in adapters)
        return [
            Route("GET", "/livez", "Whether the process is alive", self._livez, {"type": "object"}),
            Route("GET", "/readyz", "Whether replicas should be sent here", self._readyz, {"type": "object"}),
            Route("GET", "/metrics", "Metrics in Prometheus' text format", self._metrics_text, None),
            Route("GET", "/openapi.json", "This description", self._openapi, {"type": "object"}),
            Route("GET", "/v1/status", "Members, source, GTID sets, replicas, storage", self._status, status),
            Route("GET", "/v1/replicas", "Connections that receive the binlog", self._replicas, replicas),
            Route("DELETE", "/v1/replicas/{id}", "End the connection of a replica", self._kill_replica, None),
            Route("GET", "/v1/binlogs", "Binlog files that are served", self._binlogs, binlogs),
        ]

    # -- handlers --------------------------------------------------------------------------------------------------

    async def _livez(self, _request: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def _readyz(self, _request: web.Request) -> web.Response:
        readiness = await asyncio.to_thread(self._node.readiness)
        if readiness.ready:
            return web.json_response({"ready": True})
        reasons = list(readiness.reasons)
        return problem(
            HTTPStatus.SERVICE_UNAVAILABLE, "; ".join(reasons), title="Not ready", ready=False, reasons=reasons
        )

    async def _metrics_text(self, _request: web.Request) -> web.Response:
        text = await asyncio.to_thread(self._metrics.exposition)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})

    async def _openapi(self, _request: web.Request) -> web.Response:
        return web.json_response(document(self._routes(), secured=self._settings.token_file is not None))

    async def _status(self, _request: web.Request) -> web.Response:
        return _json(_STATUS.dump_json(await asyncio.to_thread(self._node.status)))

    async def _replicas(self, _request: web.Request) -> web.Response:
        status = await asyncio.to_thread(self._node.status)
        return _json(_REPLICAS.dump_json(list(status.replicas)))

    async def _kill_replica(self, request: web.Request) -> web.Response:
        replica = request.match_info["id"]
        if not await asyncio.to_thread(self._node.kill_replica, replica):
            return problem(HTTPStatus.NOT_FOUND, f"no replica {replica!r} is connected to this node")
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def _binlogs(self, _request: web.Request) -> web.Response:
        return _json(_BINLOGS.dump_json(list(await asyncio.to_thread(self._node.binlogs))))

    # -- who may ask -------------------------------------------------------------------------------------------------

    @web.middleware
    async def _authorised(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._settings.token_file is not None and request.path.startswith("/v1/"):
            scheme, _, given = request.headers.get("Authorization", "").partition(" ")
            expected = await asyncio.to_thread(self._token)
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), expected.encode()):
                response = problem(HTTPStatus.UNAUTHORIZED, "expected the header Authorization: Bearer <token>")
                response.headers["WWW-Authenticate"] = 'Bearer realm="kingbus"'
                return response
        return await handler(request)

    def _token(self) -> str:
        path = self._settings.token_file
        try:
            token = path.read_text(encoding="utf-8").strip() if path else ""
        except (OSError, UnicodeDecodeError) as error:
            raise AdminError(f"admin.token_file {path}: expected a text file with the token in it: {error}") from error
        if not token:
            raise AdminError(f"admin.token_file {path}: expected a token in the file, found nothing")
        return token


def problem(status: HTTPStatus, detail: str, *, title: str | None = None, **members: object) -> web.Response:
    """An error as RFC 9457 wants it; ``members`` are further facts for programs."""
    body: dict[str, object] = {"type": "about:blank", "title": title or status.phrase, "status": status.value}
    return web.Response(
        status=status.value, body=json.dumps(body | {"detail": detail} | members).encode(), content_type=PROBLEM
    )


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")


_DETAILS: Mapping[int, str] = {
    HTTPStatus.NOT_FOUND: "there is nothing at {path}; /openapi.json says what there is",
    HTTPStatus.METHOD_NOT_ALLOWED: "{path} does not take {method}",
}


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error leaves as problem details; what was not foreseen is logged in full and told in brief."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        detail = _DETAILS.get(error.status, error.reason).format(path=request.path, method=request.method)
        response = problem(HTTPStatus(error.status), detail)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except Exception:  # the border of the server: logged here, and the caller gets an answer
        log.exception("the admin API failed", extra={"method": request.method, "path": request.path})
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the node could not answer; its log says why")
