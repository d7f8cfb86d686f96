"""``kingbus gtid``: the cluster's GTID sets, and a calculator for such sets."""

from __future__ import annotations

import click

from kingbus_node.cli.client import AdminClient, asks_a_node
from kingbus_node.cli.extras import needs_node_extra
from kingbus_node.cli.output import Format, Report, field, output_option, show, text


@click.group()
def gtid() -> None:
    """GTID sets: of the cluster, and sums with any.

    A and B are sets as a server prints them: uuid:1-5,... of MySQL (tags too), or positions 0-1-5,... of MariaDB.
    """


def _asked(client: AdminClient, form: Format, name: str) -> None:
    answer = {name: field(client.get("/v1/status?local=true"), "gtid", name)}
    if form == "table":
        click.echo(str(answer[name] or "").replace("\n", ""))  # one line, so that it can be used in a command
    else:
        show(answer, form, lambda _: Report())


@gtid.command("executed")
@output_option
@asks_a_node
def executed(client: AdminClient, form: Format) -> None:
    """Print what the node that is asked holds, or held before it was purged."""
    _asked(client, form, "executed")


@gtid.command("purged")
@output_option
@asks_a_node
def purged(client: AdminClient, form: Format) -> None:
    """Print what was executed, but is not in the binlog files any more."""
    _asked(client, form, "purged")


@gtid.command("subtract")
@click.argument("a")
@click.argument("b")
def subtract(a: str, b: str) -> None:
    """Print what is in A and not in B. MariaDB: the GTIDs of A that are ahead of B."""
    with needs_node_extra():
        from kingbus_node.cli import gtid_sets
    try:
        click.echo(gtid_sets.subtract(a, b))
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@gtid.command("contains")
@click.argument("a")
@click.argument("b")
@click.pass_context
def contains(context: click.Context, a: str, b: str) -> None:
    """Print whether all of B is in A, and exit with 0 if it is, else 1."""
    with needs_node_extra():
        from kingbus_node.cli import gtid_sets
    try:
        found = gtid_sets.contains(a, b)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    click.echo(text(found))
    context.exit(0 if found else 1)
