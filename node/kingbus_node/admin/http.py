"""The admin HTTP server: aiohttp in a thread of its own, with its own event loop, so that nothing else waits for it.

- ``/``, ``/livez``, ``/readyz``, ``/metrics`` and ``/openapi.json`` are open and say nothing that is private.
- Everything below ``/v1`` needs the bearer token when there is one: see ``auth``.
- Any node answers: what only the leader can do is passed on to it, lists are put together from all: see ``peers``.
- Errors are RFC 9457 problem details: see ``problems``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import TypeVar

from aiohttp import web
from pydantic import TypeAdapter

from kingbus_node.admin import bodies, page
from kingbus_node.admin.auth import PROTECTED, TokenError, TokenFile, refusal
from kingbus_node.admin.doors import HANDSHAKE_SECONDS, Doors
from kingbus_node.admin.metrics import CONTENT_TYPE, Metrics
from kingbus_node.admin.openapi import REFERENCE, Route, document
from kingbus_node.admin.peers import HOP, Peers, put_together
from kingbus_node.admin.problems import Handler, problem, problems
from kingbus_node.admin.views import (
    Binlog,
    Control,
    Member,
    Mended,
    Node,
    Purged,
    Refused,
    Replica,
    SourceDetails,
    Status,
)
from kingbus_node.config import Address, AdminSettings
from kingbus_node.raft.api import NotLeaderError
from kingbus_node.util.files import stamp

log = logging.getLogger(__name__)

_LOOK_SECONDS = 5.0
"""How often the certificate files are looked at."""

_ORDERS = 8
"""How many orders are carried out at a time. One may wait a minute for a quorum; what is only looked at must not."""

BINLOG = "application/octet-stream"
LINES = "application/x-ndjson"

_T = TypeVar("_T")
_STATUS = TypeAdapter(Status)
_MEMBERS = TypeAdapter(list[Member])
_REPLICAS = TypeAdapter(list[Replica])
_BINLOGS = TypeAdapter(list[Binlog])
_SOURCE = TypeAdapter(SourceDetails)
_PURGED = TypeAdapter(Purged)
_MENDED = TypeAdapter(Mended)
_LOCAL = {"local": "true: only what this node knows, without asking the others"}


class AdminError(Exception):
    """The admin server can't start; the text is for people."""


class AdminServer:
    """Serves the admin API of ``node`` from ``start()`` to ``stop()``."""

    def __init__(
        self, settings: AdminSettings, name: str, node: Node, control: Control | None, metrics: Metrics
    ) -> None:
        """``name``: the node's. ``control``: None if it cannot be told to do anything."""
        self._settings = settings
        self._name = name
        self._node = node
        self._orders = control
        self._metrics = metrics
        self._token = None if settings.token_file is None else TokenFile(settings.token_file)
        self._advertised = (settings.advertise or "").partition("://")[2]
        self._doors = Doors()
        self._peers: Peers
        self._verifying = False
        self._order_threads = ThreadPoolExecutor(_ORDERS, "admin-order")  # asyncio's own threads are for looks
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
        try:
            if self._token is not None:
                self._token.read()
        except TokenError as error:
            raise AdminError(str(error)) from error
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
        tls, peer_tls = self._tls(), self._peer_tls()
        self._peers = Peers(self._name, peer_tls)
        accepting: asyncio.Server | None = None
        try:
            await runner.setup()
            listen = self._settings.listen
            server = runner.server
            assert server is not None  # after setup
            self._doors.open(server)
            handshake = None if tls is None else HANDSHAKE_SECONDS
            accepting = await asyncio.get_running_loop().create_server(
                self._doors.accept,
                listen.host,
                listen.port,
                ssl=tls,
                ssl_handshake_timeout=handshake,
                reuse_address=True,
            )
            port = int(accepting.sockets[0].getsockname()[1])
            self._address = Address(listen.host, port)
            self._loop = asyncio.get_running_loop()
            self._started.set()
            following = asyncio.create_task(self._follow_certificates(tls, peer_tls))
            await self._stop.wait()
            following.cancel()
        finally:
            if accepting is not None:
                accepting.close()
            await runner.cleanup()
            await self._peers.close()
            self._order_threads.shutdown(wait=False, cancel_futures=True)

    def _tls(self) -> ssl.SSLContext | None:
        tls = self._settings.tls
        if tls.cert is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tls.cert, tls.key)
        return context

    async def _follow_certificates(self, tls: ssl.SSLContext | None, peer_tls: ssl.SSLContext | None) -> None:
        """New connections use what the files hold now: certificates are renewed while the node runs."""
        settings = self._settings.tls
        files = [file for file in (settings.cert, settings.key, settings.ca) if file is not None]
        seen = stamp(files)
        while tls is not None:
            await asyncio.sleep(_LOOK_SECONDS)
            now = stamp(files)
            if now == seen:
                continue
            try:
                if settings.cert is not None:
                    # Tried elsewhere first: a certificate without its key would leave the context without either.
                    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.cert, settings.key)
                    tls.load_cert_chain(settings.cert, settings.key)
                if peer_tls is not None and settings.ca is not None:
                    peer_tls.load_verify_locations(settings.ca)
            except (OSError, ssl.SSLError) as error:
                log.warning("admin.tls: the files have changed, but can't be used: %s", error)
            else:
                seen = now
                log.info("admin.tls: loaded the changed files")

    def _peer_tls(self) -> ssl.SSLContext | None:
        """How the other nodes' certificates are verified; None: by the system's authorities."""
        ca = self._settings.tls.ca
        return None if ca is None else ssl.create_default_context(cafile=str(ca))

    def _application(self) -> web.Application:
        application = web.Application(
            middlewares=[self._doors.answering, problems, self._authorised], client_max_size=64 * 1024
        )
        for route in self.routes():
            application.router.add_route(route.method, route.path, route.handler)
            if route.method == "GET" and route.media != BINLOG:
                application.router.add_route("HEAD", route.path, route.handler)
        return application

    def routes(self) -> list[Route]:
        """All that is served."""
        adapters = (_STATUS, _MEMBERS, _REPLICAS, _BINLOGS, _SOURCE, _PURGED, _MENDED)
        status, members, replicas, binlogs, source, purged, mended = (
            adapter.json_schema(ref_template=REFERENCE) for adapter in adapters
        )

        new_member, changes, switch, transfer, purge, mend = (
            model.model_json_schema(ref_template=REFERENCE)
            for model in (
                bodies.NewMember,
                bodies.SourceChanges,
                bodies.Switch,
                bodies.Transfer,
                bodies.PurgeOrder,
                bodies.MendOrder,
            )
        )
        new_leader: dict[str, object] = {"type": "object", "properties": {"leader": {"type": "string"}}}
        anything: dict[str, object] = {"type": "object"}
        start = {"from": "position of an event: the file's head, then from there on"}
        return [
            Route("GET", "/", "The status page", self._page, media="text/html"),
            Route("GET", "/livez", "Whether the process is alive", self._livez, anything),
            Route("GET", "/readyz", "Whether replicas should be sent here", self._readyz, anything),
            Route("GET", "/metrics", "Metrics in Prometheus' text format", self._metrics_text, media="text/plain"),
            Route("GET", "/openapi.json", "This description", self._openapi, anything),
            Route("GET", "/v1/status", "Members, source, GTID sets, replicas, storage", self._status, status,
                  query=_LOCAL, who="all"),
            Route("GET", "/v1/members", "The members of the cluster", self._list_members, members, who="leader"),
            Route("POST", "/v1/members", "Add a member", self._add_member, members, new_member, who="leader"),
            Route("DELETE", "/v1/members/{name}", "Remove a member", self._remove_member, who="leader"),
            Route("POST", "/v1/leader/transfer", "Hand the leadership over", self._transfer, new_leader, transfer,
                  who="leader"),
            Route("GET", "/v1/source", "The source: its settings and how it goes", self._source, source, who="leader"),
            Route("PUT", "/v1/source", "Change settings of the source", self._set_source, source, changes,
                  who="leader"),
            Route("POST", "/v1/source/stop", "Read no more until it is started", self._stop_source, who="leader"),
            Route("POST", "/v1/source/start", "Read again", self._start_source, who="leader"),
            Route("POST", "/v1/source/switch", "Read from another server, once it is known to hold all that is needed",
                  self._switch_source, source, switch, who="leader"),
            Route("GET", "/v1/replicas", "Connections that receive the binlog", self._replicas, replicas,
                  query=_LOCAL, who="all"),
            Route("DELETE", "/v1/replicas/{id}", "End a replica's connections", self._kill_replica, who="all"),
            Route("GET", "/v1/binlogs", "Binlog files that are served", self._binlogs, binlogs),
            Route("POST", "/v1/binlogs/purge", "Drop old binlog files", self._purge, purged, purge, who="leader"),
            Route("POST", "/v1/verify", "Read this node's log again: JSON in lines, the last is the report",
                  self._verify, media=LINES),
            Route("POST", "/v1/verify/mend", "Fetch a damaged segment of this node's log from another node",
                  self._mend, mended, mend),
            Route("GET", "/v1/binlogs/{name}", "A binlog file, as its source wrote it", self._binlog, query=start,
                  media=BINLOG),
        ]  # fmt: skip

    # -- open to all -----------------------------------------------------------------------------------------------

    async def _page(self, _request: web.Request) -> web.Response:
        return web.Response(body=page.document(), content_type="text/html", charset="utf-8", headers=page.HEADERS)

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
        return web.json_response(document(self.routes(), secured=self._token is not None))

    # -- of all nodes ----------------------------------------------------------------------------------------------

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response(await self._status_of_all(request))

    async def _replicas(self, request: web.Request) -> web.Response:
        return web.json_response((await self._status_of_all(request))["replicas"])

    async def _status_of_all(self, request: web.Request) -> dict[str, object]:
        status = await asyncio.to_thread(self._node.status)
        local: dict[str, object] = _STATUS.dump_python(status, mode="json")
        if HOP in request.headers or request.query.get("local") == "true":
            return local
        told, silent = await self._peers.ask_all(request, status.members, "/v1/status?local=true")
        return put_together(local, status.leader, told, silent)

    async def _kill_replica(self, request: web.Request) -> web.Response:
        replica = request.match_info["id"]
        found = await asyncio.to_thread(self._node.kill_replica, replica)
        silent: list[str] = []
        if HOP not in request.headers:
            members = (await asyncio.to_thread(self._node.status)).members
            told, unheard = await self._peers.ask_all(request, members, request.raw_path)
            found = found or any(status == HTTPStatus.NO_CONTENT for status, _ in told.values())
            answers = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND)
            silent = sorted([*unheard, *(name for name, (status, _) in told.items() if status not in answers)])
        if found:
            return web.Response(status=HTTPStatus.NO_CONTENT)
        if silent:
            text = f"no replica {replica!r} is connected to the nodes that answered, and {', '.join(silent)} did not"
            return problem(HTTPStatus.BAD_GATEWAY, f"{text}: it may be there, try again", silent=silent)
        return problem(HTTPStatus.NOT_FOUND, f"no replica {replica!r} is connected", silent=silent)

    # -- of this node ----------------------------------------------------------------------------------------------

    async def _binlogs(self, _request: web.Request) -> web.Response:
        return _json(_BINLOGS.dump_json(list(await asyncio.to_thread(self._node.binlogs))))

    async def _binlog(self, request: web.Request) -> web.StreamResponse:
        name, start = request.match_info["name"], request.query.get("from", "4")
        if not start.isdecimal() or len(start) > 18:
            return problem(HTTPStatus.BAD_REQUEST, f"from={start}: expected the position of an event, a number")
        pieces = await asyncio.to_thread(self._node.binlog, name, int(start))
        answer = web.StreamResponse(headers={"Content-Type": BINLOG})
        await answer.prepare(request)
        while (piece := await asyncio.to_thread(_next, pieces)) is not None:
            await answer.write(piece)
        await answer.write_eof()
        return answer

    async def _mend(self, request: web.Request) -> web.StreamResponse:
        order = await bodies.read_body(request, bodies.MendOrder)
        return _json(_MENDED.dump_json(await self._carry_out(lambda: self._node.mend(order.segment))))

    async def _verify(self, request: web.Request) -> web.StreamResponse:
        """In a process of its own, which ends with the request."""
        if self._verifying:
            return problem(HTTPStatus.CONFLICT, "this node's log is being verified already")
        self._verifying = True
        command = [sys.executable, "-m", "kingbus_node.store.verify", str(self._node.log_directory)]
        try:
            process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, limit=1 << 20)
            try:
                return await self._report(request, process)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        finally:
            self._verifying = False

    async def _report(self, request: web.Request, process: asyncio.subprocess.Process) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": LINES})
        await answer.prepare(request)
        output = process.stdout
        line = b""
        while output is not None and (following := await output.readline()):
            line = following
            await answer.write(line)
        if await process.wait():
            await answer.write(b'{"error": "the log could not be read to its end; the node\'s log says why"}\n')
        else:
            self._metrics.note_corruptions(len(json.loads(line)["damages"]))
        await answer.write_eof()
        return answer

    # -- of the leader ---------------------------------------------------------------------------------------------

    async def _list_members(self, request: web.Request) -> web.StreamResponse:
        status = await asyncio.to_thread(self._node.status)
        if status.role != "leader" and status.leader is not None and HOP not in request.headers:
            answer = await self._peers.pass_on(request, status.members, status.leader)
            if answer.status == HTTPStatus.OK:
                return answer  # else what this node knows is better than nothing
        return _json(_MEMBERS.dump_json(list(status.members)))

    async def _add_member(self, request: web.Request) -> web.StreamResponse:
        new = await bodies.read_body(request, bodies.NewMember)

        def add() -> web.Response:
            self._control.add_member(new.name, new.address, new.role, new.priority)
            return _json(_MEMBERS.dump_json(list(self._node.status().members)))

        return await self._by_leader(request, add)

    async def _remove_member(self, request: web.Request) -> web.StreamResponse:
        return await self._order(request, lambda: self._control.remove_member(request.match_info["name"]))

    async def _transfer(self, request: web.Request) -> web.StreamResponse:
        to = (await bodies.read_body(request, bodies.Transfer)).to
        return await self._by_leader(request, lambda: web.json_response({"leader": self._control.transfer(to)}))

    async def _source(self, request: web.Request) -> web.StreamResponse:
        return await self._or_by_leader(request, asyncio.to_thread(self._source_answer))

    async def _set_source(self, request: web.Request) -> web.StreamResponse:
        changes = (await bodies.read_body(request, bodies.SourceChanges)).changes()

        def change() -> web.Response:
            self._control.set_source(changes)
            return self._source_answer()

        return await self._by_leader(request, change)

    async def _stop_source(self, request: web.Request) -> web.StreamResponse:
        return await self._order(request, lambda: self._control.stop_source())

    async def _start_source(self, request: web.Request) -> web.StreamResponse:
        return await self._order(request, lambda: self._control.start_source())

    async def _switch_source(self, request: web.Request) -> web.StreamResponse:
        order = await bodies.read_body(request, bodies.Switch)

        def switch() -> web.Response:
            self._control.switch_source(order.changes(), force=order.force)
            return self._source_answer()

        return await self._by_leader(request, switch)

    async def _purge(self, request: web.Request) -> web.StreamResponse:
        order = await bodies.read_body(request, bodies.PurgeOrder)
        if (order.to is None) == (order.before is None):
            return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "expected one of to and before")
        return await self._by_leader(
            request, lambda: _json(_PURGED.dump_json(self._control.purge(order.to, order.before)))
        )

    def _source_answer(self) -> web.Response:
        return _json(_SOURCE.dump_json(self._control.source()))

    async def _order(self, request: web.Request, work: Callable[[], None]) -> web.StreamResponse:
        def done() -> web.Response:
            work()
            return web.Response(status=HTTPStatus.NO_CONTENT)

        return await self._by_leader(request, done)

    async def _carry_out(self, work: Callable[[], _T]) -> _T:
        """Something that may take long."""
        return await asyncio.get_running_loop().run_in_executor(self._order_threads, work)

    async def _by_leader(self, request: web.Request, work: Callable[[], web.Response]) -> web.StreamResponse:
        """The answer of ``work``, an order, if this node leads; else the leader's answer to the same request."""
        return await self._or_by_leader(request, self._carry_out(work))

    async def _or_by_leader(self, request: web.Request, here: Awaitable[web.Response]) -> web.StreamResponse:
        try:
            return await here
        except NotLeaderError as error:
            members = (await asyncio.to_thread(self._node.status)).members
            return await self._peers.pass_on(request, members, error.leader)

    @property
    def _control(self) -> Control:
        if self._orders is None:
            raise Refused(HTTPStatus.NOT_IMPLEMENTED, "this node runs alone and cannot do that")
        return self._orders

    # -- who may ask -----------------------------------------------------------------------------------------------

    @web.middleware
    async def _authorised(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._token is not None and request.path.startswith(PROTECTED):
            refused = await asyncio.to_thread(refusal, request, self._token)  # reads the token's file
        else:
            refused = refusal(request, None, self._advertised)  # at once: a probe of the process waits for no thread
        return await handler(request) if refused is None else refused


def _next(pieces: Iterator[bytes]) -> bytes | None:
    return next(pieces, None)


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")
