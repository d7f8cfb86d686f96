"""The description of the admin API in OpenAPI 3.1, made from the same list of routes that the server serves."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web

from kingbus_node import __version__


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. ``schema``: the JSON schema of its answer; None: plain text or no body at all."""

    method: str
    path: str
    summary: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    schema: Mapping[str, object] | None


REFERENCE = "#/components/schemas/{model}"
"""Where the schemas of ``Route.schema`` must expect the parts that they refer to."""

_PROBLEM: Mapping[str, object] = {
    "type": "object",
    "description": "RFC 9457 problem details",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}


def document(routes: Sequence[Route], *, secured: bool) -> dict[str, object]:
    """The whole document. ``secured``: whether ``/v1`` needs the bearer token on this node."""
    paths: dict[str, dict[str, object]] = {}
    parts: dict[str, object] = {}
    for route in routes:
        definitions = (route.schema or {}).get("$defs", {})
        parts |= definitions if isinstance(definitions, dict) else {}
        operation: dict[str, object] = {
            "summary": route.summary,
            "responses": {
                "200" if route.method == "GET" else "204": _answer(route),
                "default": {"description": "Error", "content": {"application/problem+json": {"schema": _PROBLEM}}},
            },
        }
        names = re.findall(r"\{(\w+)\}", route.path)
        if names:
            operation["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
            ]
        if secured and route.path.startswith("/v1/"):
            operation["security"] = [{"token": []}]
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Kingbus admin API", "version": __version__},
        "paths": paths,
        "components": {"schemas": parts, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _answer(route: Route) -> dict[str, object]:
    if route.method != "GET":
        return {"description": "Done"}
    if route.schema is None:
        return {"description": "Text", "content": {"text/plain": {"schema": {"type": "string"}}}}
    schema = {name: value for name, value in route.schema.items() if name != "$defs"}
    return {"description": "Answer", "content": {"application/json": {"schema": schema}}}
