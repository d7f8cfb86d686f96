"""``docs/http.md`` is made from the routes themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import golden
from unit.admin.fakes import FakeControl, FakeNode

from kingbus_node.admin.http import AdminServer
from kingbus_node.admin.metrics import Metrics
from kingbus_node.admin.openapi import Route
from kingbus_node.config import AdminSettings

DOCS = Path(__file__).parents[3] / "docs"

INTRODUCTION = """\
# The admin API

<!-- Made from the code by `make docs`: change node/kingbus_node/admin instead. -->

Every node serves it at `admin.listen`: the status page for people at `/`, probes, metrics, and JSON below `/v1`. What
is said here is also at `/openapi.json`.

- **Any node answers.** What only the leader can do is passed on to it, and its answer comes back unchanged, errors too.
  Lists of replicas are put together from all nodes; a node that does not answer in time is named in `silent`.
- **The token.** Where `admin.token_file` is set, everything below `/v1` needs `Authorization: Bearer <token>`; the
  file is followed when it changes. The rest needs none, and shows no user names and no addresses. Without a token the
  API only listens on a loopback address, answers below `/v1` only where the header `Host` is an address, `localhost` or
  what `admin.advertise` names, and pages of other sites can't give orders.
- **Errors** are problem details (RFC 9457, `application/problem+json`): `detail` is a sentence for people, and some
  have further facts: `missing` (GTIDs that a new source lacks), `leader`, `reasons` (why a node is not ready).
- **Units**: bytes, seconds, Unix time. `null` is "not known" or "does not apply", never zero.

| | | answered by | token |
|---|---|---|---|
"""
WHO = {"any": "the node asked", "leader": "the leader", "all": "all nodes together"}


def table(routes: list[Route]) -> str:
    return "\n".join(
        f"| `{route.method} {route.path}` | {route.summary} | {WHO[route.who]} | {'yes' if route.secured else 'no'} |"
        for route in routes
    )


def kind(schema: Mapping[str, object]) -> str:
    """A schema in a word or two."""
    if "$ref" in schema:
        return f"[{str(schema['$ref']).rsplit('/', 1)[-1]}](#{str(schema['$ref']).rsplit('/', 1)[-1].lower()})"
    choices = schema.get("anyOf")
    if isinstance(choices, list):
        return " or ".join(kind(one) for one in choices)
    values = schema.get("enum")
    if isinstance(values, list):
        return " or ".join(f"`{value}`" for value in values)
    items = schema.get("items")
    if isinstance(items, dict):
        return f"list of {kind(items)}"
    inner = schema.get("additionalProperties")
    if isinstance(inner, dict):
        return f"object of {kind(inner)}"
    return str(schema.get("type", "anything"))


def fields(schema: Mapping[str, object]) -> str:
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return ""
    rows = ["| field | type | |", "|---|---|---|"]
    for name, one in properties.items():
        assert isinstance(one, dict)
        default = "" if one.get("default") in (None, "") else f"default `{json.dumps(one['default'])}`"
        told = "; ".join(part for part in (str(one.get("description", "")), default) if part)
        rows.append(f"| `{name}` | {kind(one)} | {told} |")
    return "\n".join(rows)


def described(schema: Mapping[str, object]) -> str:
    text = "\n\n".join(" ".join(part.split()) for part in str(schema.get("description", "")).split("\n\n"))
    return text.replace("``", "`")


def page(routes: list[Route]) -> str:
    parts: dict[str, Mapping[str, object]] = {}
    sections = []
    for route in routes:
        if not route.secured:
            continue
        lines = [f"## `{route.method} {route.path}`", f"{route.summary}. Answered by {WHO[route.who]}."]
        if route.query:
            lines.append("Query: " + "; ".join(f"`{name}`: {meaning}" for name, meaning in route.query.items()) + ".")
        for schema in (route.body, route.answer):
            definitions = (schema or {}).get("$defs", {})
            assert isinstance(definitions, dict)
            parts |= definitions
        if route.body is not None:
            lines += [f"Takes: {described(route.body)}", fields(route.body)]
        lines.append(answer(route, parts))
        sections.append("\n\n".join(line for line in lines if line))
    sections += [f"### {name}\n\n{described(part)}\n\n{fields(part)}".rstrip() for name, part in sorted(parts.items())]
    return INTRODUCTION + table(routes) + "\n\n" + "\n\n".join(sections) + "\n"


def answer(route: Route, parts: dict[str, Mapping[str, object]]) -> str:
    schema = route.answer
    if schema is None:
        return f"Answers {route.success}" + (
            f", `{route.media}`." if route.media != "application/json" else ", no body."
        )
    title = schema.get("title")
    if isinstance(title, str) and "properties" in schema:
        parts.setdefault(title, schema)
        return f"Answers {route.success}, [{title}](#{title.lower()})."
    properties = schema.get("properties")
    if isinstance(properties, dict):
        return f"Answers {route.success}, an object with {', '.join(f'`{name}`' for name in properties)}."
    return f"Answers {route.success}, {kind(schema)}."


def test_the_page_of_the_api_is_what_the_server_serves() -> None:
    server = AdminServer(AdminSettings(), "node-1", FakeNode(), FakeControl(), Metrics("1"))
    golden.check(DOCS / "http.md", page(server.routes()))


def test_every_promised_path_is_served() -> None:
    server = AdminServer(AdminSettings(), "node-1", FakeNode(), FakeControl(), Metrics("1"))
    served = {f"{route.method} {route.path}" for route in server.routes()}
    promised = """
        GET /livez, GET /readyz, GET /metrics, GET /, GET /openapi.json, GET /v1/status, GET /v1/members,
        POST /v1/members, DELETE /v1/members/{name}, POST /v1/leader/transfer, GET /v1/source, PUT /v1/source,
        POST /v1/source/stop, POST /v1/source/start, POST /v1/source/switch, GET /v1/replicas,
        DELETE /v1/replicas/{id}, GET /v1/binlogs, POST /v1/binlogs/purge
    """
    assert {" ".join(one.split()) for one in promised.split(",")} <= served
