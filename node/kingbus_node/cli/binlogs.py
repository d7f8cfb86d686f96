"""``kingbus binlogs``: the binlog files that the cluster holds: listed, read, purged, copied out."""

from __future__ import annotations

import datetime
import json
import re
import sys
import time
from urllib.parse import quote

import click

from kingbus_node.cli.client import ORDER_SECONDS, AdminClient, asks_a_node
from kingbus_node.cli.extras import needs_node_extra
from kingbus_node.cli.output import Format, Report, field, items, output_option, show, text

_AGE = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@click.group()
def binlogs() -> None:
    """The binlog files that the cluster holds."""


@binlogs.command("list")
@output_option
@asks_a_node
def list_binlogs(client: AdminClient, form: Format) -> None:
    """Show the binlog files, oldest first, with their committed sizes."""
    show(client.get("/v1/binlogs"), form, _binlogs)


def _binlogs(answer: object) -> Report:
    made = Report()
    names = ("name", "size", "closed")
    made.table(("file", "size", "closed"), [[text(field(file, name)) for name in names] for file in items(answer)])
    return made


@binlogs.command("events")
@click.argument("file")
@click.option("--from", "start", type=click.IntRange(min=4), default=4, show_default=True, help="Position to begin at.")
@click.option("--limit", type=click.IntRange(min=1), help="Print so many events.  [default: all]")
@click.option("--rows", is_flag=True, help="Print the rows of row events, too.")
@click.option(
    "-o", "--output", "form", type=click.Choice(["table", "json"]), default="table", show_default=True,
    help="The form of the answer; json: one object in a line.",
)  # fmt: skip
@asks_a_node
def events(client: AdminClient, form: str, file: str, start: int, limit: int | None, rows: bool) -> None:
    """Print the events of FILE, decoded."""
    with needs_node_extra():
        from kingbus_node.cli import decoding
    with client.stream(_path(file, start)) as read:
        if form == "table":
            click.echo(decoding.HEADING)
        for number, event in enumerate(decoding.events(read, start), 1):
            if form == "json":
                click.echo(json.dumps(event.as_json(rows=rows), ensure_ascii=False))
            else:
                click.echo(event.line())
                for row in event.rows if rows else ():
                    click.echo(f"    {json.dumps(row, ensure_ascii=False)}")
            if number == limit:
                return


@binlogs.command("purge")
@click.option("--to", metavar="FILE", help="Drop the files before FILE.")
@click.option("--before", metavar="TIME", help="Drop files with nothing newer: 2026-01-31T12:00, or an age such as 7d.")
@output_option
@asks_a_node
def purge(client: AdminClient, form: Format, to: str | None, before: str | None) -> None:
    """Drop old binlog files on all nodes, but for those that a connected replica still needs.

    A replica that comes back and needs them is refused with error 1236.
    """
    if (to is None) == (before is None):
        raise click.UsageError("give one of --to and --before")
    body = {"to": to, "before": None if before is None else _time(before)}
    show(client.send("POST", "/v1/binlogs/purge", body, ORDER_SECONDS), form, _purged)


def _purged(answer: object) -> Report:
    made = Report()
    made.pairs(
        {
            "Files gone": text(field(answer, "files")),
            "Oldest left": text(field(answer, "oldest")),
            "Kept for replicas": text(field(answer, "held")),
            "Purged": text(field(answer, "purged")),
        }
    )
    return made


def _time(given: str) -> float:
    """Unix time of a date and time (of this machine's zone if it names none) or of an age."""
    age = _AGE.fullmatch(given.strip())
    if age is not None:
        return time.time() - float(age[1]) * _SECONDS[age[2]]
    try:
        return datetime.datetime.fromisoformat(given).timestamp()
    except ValueError as error:
        raise click.BadParameter(
            f"{given!r}: expected a time such as 2026-01-31T12:00 or an age such as 7d", param_hint="--before"
        ) from error


@binlogs.command("export")
@click.argument("files", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All files.")
@click.option(
    "--to", "folder", default=".", show_default=True, metavar="FOLDER", help="Where to put them; - is standard output."
)
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
@asks_a_node
def export(client: AdminClient, files: tuple[str, ...], every: bool, folder: str, overwrite: bool) -> None:
    """Copy FILES out, byte for byte as the source has them: mysqlbinlog and mariadb-binlog read them."""
    from kingbus_node.cli import exporting

    if bool(files) == every:
        raise click.UsageError("name the files to export, or give --all")
    known = {text(field(file, "name")): file for file in items(client.get("/v1/binlogs"))}
    unknown = [name for name in files if name not in known]
    if unknown:
        raise click.ClickException(f"there is no binlog file {', '.join(unknown)}; kingbus binlogs list shows them")
    sizes = {name: field(known[name], "size") for name in (known if every else files)}
    wanted = {name: size if isinstance(size, int) else 0 for name, size in sizes.items()}
    if folder == "-":
        exporting.to_stream(client, wanted, sys.stdout.buffer, _path)
    else:
        exporting.to_folder(client, wanted, folder, _path, overwrite=overwrite)


def _path(file: str, start: int = 4) -> str:
    return f"/v1/binlogs/{quote(file, safe='')}" + ("" if start == 4 else f"?from={start}")
