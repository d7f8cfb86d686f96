"""``kingbus status``: the cluster at a glance, once or again and again."""

from __future__ import annotations

import json
import time

import click
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from kingbus_node.cli.client import AdminClient, asks_a_node
from kingbus_node.cli.cluster import MEMBER_COLUMNS, member_row
from kingbus_node.cli.output import Format, Report, field, items, output_option, seconds, show, size, text
from kingbus_node.cli.replicas import REPLICA_COLUMNS, replica_row


@click.command()
@output_option
@click.option("--watch", is_flag=True, help="Show it again and again until Ctrl-C.")
@click.option(
    "--interval", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds, with --watch."
)
@asks_a_node
def status(client: AdminClient, form: Format, watch: bool, interval: float) -> None:
    """Members, source, GTID sets and connected replicas of the cluster."""
    if not watch:
        show(client.get("/v1/status"), form, report)
        return
    try:
        _watch(client, form, interval)
    except KeyboardInterrupt:
        return  # the way to leave --watch


def _watch(client: AdminClient, form: Format, interval: float) -> None:
    console = Console(highlight=False)
    if form == "table" and console.is_terminal:
        with Live(console=console, auto_refresh=False, screen=True) as live:
            while True:
                live.update(_view(client), refresh=True)
                time.sleep(interval)
    while True:
        answer = client.get("/v1/status")
        if form == "json":
            click.echo(json.dumps(answer, ensure_ascii=False))  # one object in a line, so that a reader can split
        else:
            show(answer, form, report)
            click.echo("---")
        time.sleep(interval)


def _view(client: AdminClient) -> RenderableType:
    """The status, or why there is none: who watches a restart wants to see the end of it."""
    try:
        return report(client.get("/v1/status")).renderable
    except click.ClickException as error:
        return Text(error.message, style="bold red")


def report(answer: object) -> Report:
    """``GET /v1/status`` for people."""
    made = Report()
    source, storage, suspended, copying = (
        field(answer, name) for name in ("source", "storage", "suspended", "copying")
    )
    made.pairs(
        {
            "Node": "{}, {} of term {}".format(*(text(field(answer, name)) for name in ("node", "role", "term"))),
            "Leader": text(field(answer, "leader")),
            "Ready": _ready(answer),
            **({"Not leading": text(suspended)} if suspended else {}),
            **({"Copying": _copying(copying)} if copying else {}),
            "Log": f"committed {text(field(answer, 'commit_index'))} of {text(field(answer, 'last_index'))} entries",
            "Source": _source(source),
            "Error": text(field(source, "error")),
            "Received": f"{text(field(source, 'file'))}:{text(field(source, 'position'))}",
            "Executed": text(field(answer, "gtid", "executed")),
            "Purged": text(field(answer, "gtid", "purged")),
            "Storage": f"{text(field(storage, 'segments'))} segments, {size(field(storage, 'bytes'))}, "
            f"oldest {_age(field(storage, 'oldest'))}, {size(field(storage, 'free_bytes'))} free",
        }
    )
    made.table(MEMBER_COLUMNS, [member_row(member) for member in items(field(answer, "members"))])
    made.table(REPLICA_COLUMNS, [replica_row(replica) for replica in items(field(answer, "replicas"))])
    silent = [text(name) for name in items(field(answer, "silent"))]
    if silent:
        made.pairs({"Not heard": f"{', '.join(silent)}: replicas connected there are not shown"})
    return made


def _ready(answer: object) -> str:
    reasons = "; ".join(text(reason) for reason in items(field(answer, "reasons")))
    return text(field(answer, "ready")) + (f" ({reasons})" if reasons else "")


def _copying(copying: object) -> str:
    done, total = field(copying, "done_bytes"), field(copying, "total_bytes")
    share = f" ({100 * done // total} %)" if isinstance(done, int) and isinstance(total, int) and total else ""
    return f"{size(done)} of {size(total)}{share} of the log from {text(field(copying, 'peer'))}"


def _source(source: object) -> str:
    version = field(source, "version")
    return ", ".join(
        (
            text(field(source, "endpoint")) + (f" ({version})" if version else ""),
            text(field(source, "state")),
            f"semi-sync {'on' if field(source, 'semi_sync') else 'off'}",
            f"lag {seconds(field(source, 'lag_seconds'))}",
        )
    )


def _age(value: object) -> str:
    return f"{seconds(max(0.0, time.time() - value))} ago" if isinstance(value, int | float) and value else "-"
