"""The description of the admin API in OpenAPI 3.1, made from the same list of routes that the server serves."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from aiohttp import web

from kingbus_node import __version__
from kingbus_node.admin.auth import PROTECTED

Who = Literal["any", "leader", "all"]

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Route:
    """One operation.

    :param answer: the JSON schema of its answer; None: no body, or one that is not JSON
    :param body: the JSON schema of what it takes; None: nothing
    :param query: names and meanings of its query parameters, none of them required
    :param media: the media type of its answer
    :param who: who answers: any node by itself, the leader (others pass the request on), or one for all nodes
    """

    method: str
    path: str
    summary: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    answer: Mapping[str, object] | None = None
    body: Mapping[str, object] | None = None
    query: Mapping[str, str] | None = None
    media: str = JSON
    who: Who = "any"

    @property
    def success(self) -> int:
        """The status when all is well."""
        return 204 if self.answer is None and self.media == JSON else 200

    @property
    def secured(self) -> bool:
        """Whether it needs the token where there is one."""
        return self.path.startswith(PROTECTED)


REFERENCE = "#/components/schemas/{model}"
"""Where the schemas of a ``Route`` must expect the parts that they refer to."""

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
_WHO: Mapping[Who, str] = {
    "any": "",
    "leader": "Only the leader can do this: any other node passes the request on to it, and its answer back.",
    "all": "Put together from all nodes; those that do not answer in time are left out.",
}


def document(routes: Sequence[Route], *, secured: bool) -> dict[str, object]:
    """The whole document. ``secured``: whether ``/v1`` needs the bearer token on this node."""
    paths: dict[str, dict[str, object]] = {}
    parts: dict[str, object] = {"Problem": _PROBLEM}
    for route in routes:
        for schema in (route.answer, route.body):
            definitions = (schema or {}).get("$defs", {})
            parts |= definitions if isinstance(definitions, dict) else {}
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, secured=secured and route.secured)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Kingbus admin API", "version": __version__},
        "paths": paths,
        "components": {"schemas": parts, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(route: Route, *, secured: bool) -> dict[str, object]:
    problem = {"application/problem+json": {"schema": {"$ref": REFERENCE.format(model="Problem")}}}
    words = [route.method.lower(), *re.findall(r"[a-z0-9.]+", route.path)]
    operation: dict[str, object] = {
        "summary": route.summary,
        "operationId": "_".join(words).replace(".", "_"),
        "responses": {str(route.success): _answer(route), "default": {"description": "Error", "content": problem}},
    }
    if _WHO[route.who]:
        operation["description"] = _WHO[route.who]
    parameters: list[dict[str, object]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]
    for name, meaning in (route.query or {}).items():
        parameters.append({"name": name, "in": "query", "description": meaning, "schema": {"type": "string"}})
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": _without_parts(route.body)}}}
    if secured:
        operation["security"] = [{"token": []}]
    return operation


def _answer(route: Route) -> dict[str, object]:
    if route.answer is not None:
        return {"description": "Answer", "content": {route.media: {"schema": _without_parts(route.answer)}}}
    if route.media == JSON:
        return {"description": "Done"}
    return {"description": "Answer", "content": {route.media: {"schema": {"type": "string"}}}}


def _without_parts(schema: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in schema.items() if name != "$defs"}
