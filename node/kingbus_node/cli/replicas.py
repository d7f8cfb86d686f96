"""``kingbus replicas``: what is connected."""

from __future__ import annotations

from urllib.parse import quote

import click

from kingbus_node.cli.client import AdminClient, asks_a_node
from kingbus_node.cli.output import Format, Report, field, items, output_option, seconds, show, size, text

REPLICA_COLUMNS = ("replica", "server id", "host", "user", "version", "file", "position", "behind", "lag", "node")


def replica_row(replica: object) -> list[str]:
    """One replica of ``GET /v1/status`` under ``REPLICA_COLUMNS``."""
    names = ("id", "server_id", "host", "user", "version", "file", "position")
    row = [text(field(replica, name)) for name in names]
    return [
        *row,
        size(field(replica, "lag_bytes")),
        seconds(field(replica, "lag_seconds")),
        text(field(replica, "node")),
    ]


@click.group()
def replicas() -> None:
    """The replicas that receive the binlog from the cluster."""


@replicas.command("list")
@output_option
@asks_a_node
def list_replicas(client: AdminClient, form: Format) -> None:
    """Show the replicas that are connected to any node, and how far each is."""
    answer = client.get("/v1/status")  # which, other than /v1/replicas, says whose replicas are not in it
    show(items(field(answer, "replicas")), form, _replicas)
    silent = [text(name) for name in items(field(answer, "silent"))]
    if silent:
        click.echo(f"{', '.join(silent)} did not answer: replicas connected there are not shown", err=True)


def _replicas(answer: object) -> Report:
    made = Report()
    made.table(REPLICA_COLUMNS, [replica_row(replica) for replica in items(answer)])
    return made


@replicas.command("kill")
@click.argument("replica")
@asks_a_node
def kill_replica(client: AdminClient, replica: str) -> None:
    """End the connections of REPLICA (its id as listed), on whichever node. One that still runs connects again."""
    client.send("DELETE", f"/v1/replicas/{quote(replica, safe='')}")
