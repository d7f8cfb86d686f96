"""``kingbus source``: the server whose binlog the cluster holds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import click

from kingbus_node.cli.client import ORDER_SECONDS, AdminClient, asks_a_node
from kingbus_node.cli.output import Format, Report, field, items, output_option, seconds, show, text

_P = ParamSpec("_P")
_R = TypeVar("_R")

TLS_MODES = ("disabled", "preferred", "required", "verify-ca", "verify-identity")


def _settings(command: Callable[_P, _R]) -> Callable[..., _R]:
    """The options that ``set`` and ``switch`` share; the command gets those that were given as ``changes``."""
    options = [
        click.option("--user", help="The account to log in with. Its password is in each node's source.password_file."),
        click.option("--flavor", type=click.Choice(["auto", "mysql", "mariadb"]), help="What the server has to be."),
        click.option("--server-id", type=click.IntRange(1, 2**32 - 1), help="The id that the cluster shows to it."),
        click.option("--semi-sync/--no-semi-sync", default=None, help="Acknowledge what a majority has on disk."),
        click.option(
            "--compression", metavar="LIST", help="What may be used, the preferred first: zstd,zlib,uncompressed."
        ),
        click.option("--tls-mode", type=click.Choice(TLS_MODES), help="As MySQL's --ssl-mode."),
        click.option("--start", help="Where an empty log begins: earliest, current or a GTID set."),
        click.option("--retry-initial", metavar="DURATION", help="First wait between attempts to connect: 100ms."),
        click.option("--retry-max", metavar="DURATION", help="Longest wait between attempts to connect: 10s."),
    ]

    @functools.wraps(command)
    def wrapped(
        *arguments: object,
        tls_mode: str | None,
        retry_initial: str | None,
        retry_max: str | None,
        user: str | None,
        flavor: str | None,
        server_id: int | None,
        semi_sync: bool | None,
        compression: str | None,
        start: str | None,
        **more: object,
    ) -> _R:
        retry = {"initial": retry_initial, "max": retry_max}
        given: dict[str, object] = {
            "user": user,
            "flavor": flavor,
            "server_id": server_id,
            "semi_sync": semi_sync,
            "compression": None if compression is None else [one.strip() for one in compression.split(",")],
            "start": start,
            "tls": None if tls_mode is None else {"mode": tls_mode},
            "retry": {name: value for name, value in retry.items() if value is not None} or None,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        return command(*arguments, changes=changes, **more)  # type: ignore[arg-type]

    made: Callable[..., _R] = wrapped
    for option in reversed(options):
        made = option(made)
    return made


@click.group()
def source() -> None:
    """The server whose binlog the cluster holds."""


@source.command("show")
@output_option
@asks_a_node
def show_source(client: AdminClient, form: Format) -> None:
    """Show the settings, and how it goes."""
    show(client.get("/v1/source"), form, report)


@source.command("set")
@click.option(
    "--endpoint", "endpoints", multiple=True, metavar="HOST:PORT", help="Where it is; several: in this order."
)
@_settings
@output_option
@asks_a_node
def set_source(client: AdminClient, form: Format, endpoints: tuple[str, ...], changes: dict[str, object]) -> None:
    """Change settings, on all nodes. What is not given stays as it is.

    To read from another server rather use switch, which checks it first.
    """
    body = changes | ({"endpoints": list(endpoints)} if endpoints else {})
    if not body:
        raise click.UsageError("give at least one setting to change")
    show(client.send("PUT", "/v1/source", body, ORDER_SECONDS), form, report)


@source.command("switch")
@click.argument("endpoints", nargs=-1, required=True, metavar="HOST:PORT...")
@click.option("--force", is_flag=True, help="Also if it lacks transactions that the cluster holds.")
@_settings
@output_option
@asks_a_node
def switch_source(
    client: AdminClient, form: Format, endpoints: tuple[str, ...], force: bool, changes: dict[str, object]
) -> None:
    """Read from the server at HOST:PORT from now on (several: the first that answers).

    Nothing is changed unless it holds everything that the cluster holds, and has purged nothing that the cluster needs.
    """
    body = changes | {"endpoints": list(endpoints), "force": force}
    show(client.send("POST", "/v1/source/switch", body, ORDER_SECONDS), form, report)


@source.command("stop")
@asks_a_node
def stop_source(client: AdminClient) -> None:
    """Read no more, until it is started again: also after restarts and under new leaders. Replicas are still served."""
    client.send("POST", "/v1/source/stop", seconds=ORDER_SECONDS)


@source.command("start")
@asks_a_node
def start_source(client: AdminClient) -> None:
    """Read again."""
    client.send("POST", "/v1/source/start", seconds=ORDER_SECONDS)


def report(answer: object) -> Report:
    """``GET /v1/source`` for people."""
    made = Report()
    settings, now = field(answer, "settings"), field(answer, "status")
    version = field(now, "version")
    allowed = ", ".join(text(one) for one in items(field(settings, "compression")))
    made.pairs(
        {
            "Endpoints": ", ".join(text(endpoint) for endpoint in items(field(settings, "endpoints"))),
            "State": text(field(now, "state")),
            "Error": text(field(now, "error")),
            "Missing": text(field(answer, "missing")),
            "Reading from": text(field(now, "endpoint")) + (f" ({version})" if version else ""),
            "Identity": text(field(answer, "identity")),
            "Received": f"{text(field(now, 'file'))}:{text(field(now, 'position'))}",
            "Lag": seconds(field(now, "lag_seconds")),
            "User": text(field(settings, "user")),
            "Server id": text(field(settings, "server_id")),
            "Semi-sync": f"{text(field(settings, 'semi_sync'))} (now {'on' if field(now, 'semi_sync') else 'off'})",
            "TLS": f"{text(field(settings, 'tls', 'mode'))} (now {text(field(answer, 'tls'))})",
            "Compression": f"{allowed} (now {field(answer, 'compression') or 'uncompressed'})",
            "Flavor": text(field(settings, "flavor")),
            "Start": text(field(settings, "start")),
            "Retry": f"{seconds(field(settings, 'retry', 'initial'))} to {seconds(field(settings, 'retry', 'max'))}",
            "May lack": text(field(settings, "accept_missing")),
        }
    )
    for warning in items(field(answer, "warnings")):
        made.pairs({"Warning": text(warning)})
    return made
