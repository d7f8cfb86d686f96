"""What requests may carry: the JSON bodies of the admin API, checked before anything is done."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kingbus_node.admin.views import Refused
from kingbus_node.raft.api import MemberKind
from kingbus_node.store.entry import Json


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_BodyT = TypeVar("_BodyT", bound=_Body)


class NewMember(_Body):
    """A node that shall belong to the cluster. It receives the log first, and votes when it has caught up."""

    address: str = Field(description="where the other nodes reach it: its raft.advertise")
    name: str = Field(default="", description="its node.name; it tells it itself if this is left out")
    role: MemberKind = "voter"
    priority: int = Field(default=0, ge=-1000, le=1000, description="leadership drifts to the highest")


class Transfer(_Body):
    """Who shall lead."""

    to: str | None = Field(default=None, description="a member's name; null: the best of the others")


class SourceTls(_Body):
    mode: str


class SourceRetry(_Body):
    initial: float | str | None = None
    max: float | str | None = None


class SourceChanges(_Body):
    """Settings of the source: what is not given stays as it is. The values are those of the configuration file."""

    endpoints: list[str] | None = None
    flavor: str | None = None
    user: str | None = None
    server_id: int | None = None
    semi_sync: bool | None = None
    compression: list[str] | None = None
    tls: SourceTls | None = None
    start: str | None = None
    retry: SourceRetry | None = None

    def changes(self) -> dict[str, Json]:
        """What is given."""
        return self.model_dump(exclude_none=True, exclude={"force"})


class Switch(SourceChanges):
    """Another server to read from. ``endpoints`` is needed."""

    endpoints: list[str] = Field(min_length=1)
    force: bool = Field(default=False, description="allow it to lack transactions that the log holds")


class PurgeOrder(_Body):
    """Which binlog files shall go: one of the two."""

    to: str | None = Field(default=None, description="the oldest file to keep")
    before: float | None = Field(default=None, description="Unix time: files with nothing newer go")


class MendOrder(_Body):
    """Which file of the log is to be fetched again."""

    segment: str = Field(pattern=r"^\d{20}\.log$", description="the name of a segment's file, as a report names it")


async def read_body(request: web.Request, model: type[_BodyT]) -> _BodyT:
    """The request's body as `model`. ``Refused`` with 400, 415 or 422 when it is something else."""
    if request.content_type != "application/json":
        # Also what keeps pages of other sites out: browsers ask before they send this type across sites.
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected a body of Content-Type: application/json")
    try:
        document: object = json.loads(await request.read())
    except ValueError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, f"expected a JSON object as body: {error}") from error
    try:
        return model.model_validate(document)
    except ValidationError as error:
        told = [_told(".".join(map(str, one["loc"])), one["type"], one["msg"]) for one in error.errors()]
        raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(told)) from None  # the values may be secrets


def _told(path: str, kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        message = "unknown key"
    return f"{path}: {message}" if path else message
