"""Errors of the admin API: RFC 9457 problem details, for every error that leaves the server."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from aiohttp import web

from kingbus_node.admin.views import Refused

log = logging.getLogger(__name__)

PROBLEM = "application/problem+json"
"""The media type."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_DETAILS: Mapping[int, str] = {
    HTTPStatus.NOT_FOUND: "there is nothing at {path}; /openapi.json says what there is",
    HTTPStatus.METHOD_NOT_ALLOWED: "{path} does not take {method}",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "the request's body is too large: expected at most 64 KiB",
}


def problem(status: int, detail: str, *, title: str | None = None, **members: object) -> web.Response:
    """An error as RFC 9457 wants it; ``members`` are further facts for programs."""
    phrase = HTTPStatus(status).phrase
    body: dict[str, object] = {"type": "about:blank", "title": title or phrase, "status": int(status)}
    return web.Response(
        status=status, body=json.dumps(body | {"detail": detail} | members).encode(), content_type=PROBLEM
    )


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error leaves as problem details; what was not foreseen is logged in full and told in brief."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        detail = _DETAILS.get(error.status, error.text or error.reason).format(path=request.path, method=request.method)
        response = problem(error.status, detail)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except Refused as error:
        facts: Mapping[str, object] = error.facts
        return problem(error.status, str(error), title=None, **facts)
    except Exception:  # the border of the server: logged here, and the caller gets an answer
        log.exception("the admin API failed", extra={"method": request.method, "path": request.path})
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the node could not answer; its log says why")
