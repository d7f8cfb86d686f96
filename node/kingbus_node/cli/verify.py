"""``kingbus verify``: whether a node's disk still holds what was written."""

from __future__ import annotations

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from kingbus_node.cli.client import AdminClient, asks_a_node
from kingbus_node.cli.output import Format, Report, field, items, output_option, show, size, text

_LINE_SECONDS = 600.0  # a line comes with every 32 MiB


@click.command()
@click.option("--repair", is_flag=True, help="Fetch damaged segments from another node, and read the log once more.")
@output_option
@asks_a_node
@click.pass_context
def verify(context: click.Context, client: AdminClient, form: Format, repair: bool) -> None:
    """Read the whole log of the node that is asked again.

    Checks every stored checksum, that entries follow one another, and that no GTID is there twice; tells what is
    missing between GTIDs (the source may lack it as well). The node goes on serving. Exits with 1 for any damage that
    is left.
    """
    report = _read(client)
    damaged = sorted({text(field(damage, "file")) for damage in items(field(report, "damages"))})
    if repair and damaged:
        for segment in damaged:
            answer = client.send("POST", "/v1/verify/mend", {"segment": segment}, _LINE_SECONDS)
            click.echo(f"{segment}: fetched from {text(field(answer, 'source'))}", err=True)
        report = _read(client)
    show(report, form, _report)
    if items(field(report, "damages")):
        context.exit(1)


def _read(client: AdminClient) -> object:
    """The report of a node that has read its log."""
    report: object = None
    console = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("verify", total=None)
        for line in client.lines("POST", "/v1/verify", _LINE_SECONDS):
            checked, total = field(line, "checked"), field(line, "total")
            if isinstance(checked, int) and isinstance(total, int):
                progress.update(task, completed=checked, total=total)
            else:
                report = line
    error = field(report, "error")
    if report is None or error is not None:
        raise click.ClickException(f"{client.url}: {text(error) if error else 'the answer broke off'}")
    return report


def _report(answer: object) -> Report:
    made = Report()
    damages = items(field(answer, "damages"))
    made.pairs(
        {
            "Read": f"{size(field(answer, 'bytes'))} in {text(field(answer, 'segments'))} segments",
            "Entries": text(field(answer, "entries")),
            "Transactions": text(field(answer, "transactions")),
            "Gaps": text(field(answer, "gaps")),
            "Damages": text(len(damages)),
        }
    )
    if damages:
        names = ("file", "offset", "entry", "problem")
        made.table(names, [[text(field(damage, name)) for name in names] for damage in damages])
    return made
