"""How commands print: for people on a terminal, plain aligned text when piped, or the raw answer as JSON or YAML.

Plain text never wraps and never shortens, so that it can be cut by columns; on a terminal long values fold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

Format = Literal["table", "json", "yaml"]

output_option = click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["table", "json", "yaml"]),
    default="table",
    show_default=True,
    help="The form of the answer.",
)

_STYLES: Mapping[str, str] = {
    "connected": "green", "yes": "green", "leader": "bold green", "connecting": "yellow", "no": "yellow",
    "stopped": "yellow", "refused": "bold red",
}  # fmt: skip


_CONTROLS: Mapping[int, str] = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_CONTROLS_BUT_LINES: Mapping[int, str] = {code: shown for code, shown in _CONTROLS.items() if code != ord("\n")}


def visible(value: str, *, lines: bool = False) -> str:
    """The text with control characters shown as ``\\x1b``: what replicas and sources say of themselves moves no cursor
    and makes no row. `lines`: it may have several.
    """
    return value.translate(_CONTROLS_BUT_LINES if lines else _CONTROLS)


class Report:
    """Lines of ``name  value`` and tables, in order, shown by ``show``."""

    def __init__(self) -> None:
        self._parts: list[tuple[RenderableType, str]] = []

    def pairs(self, values: Mapping[str, str]) -> None:
        """Facts, one in a line."""
        values = {name: visible(value, lines=True) for name, value in values.items()}
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold")
        grid.add_column(overflow="fold")
        for name, value in values.items():
            grid.add_row(name, _styled(value))
        self._parts.append((grid, _aligned([[name, value] for name, value in values.items()])))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Rows under column names."""
        rows = [[visible(value) for value in row] for row in rows]
        table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column.upper(), overflow="fold")
        for row in rows:
            table.add_row(*map(_styled, row))
        self._parts.append((table, _aligned([[column.upper() for column in columns], *rows])))

    @property
    def renderable(self) -> RenderableType:
        """For rich: the report as people see it."""
        return Group(*(part for part, _ in self._parts))

    @property
    def plain(self) -> str:
        """For pipes: the report as aligned text."""
        return "\n".join(text for _, text in self._parts)


def show(answer: object, form: Format, report: Callable[[object], Report]) -> None:
    """Print ``answer`` in the form that was asked for; ``report`` makes the one for people of it."""
    if form == "json":
        click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
    elif form == "yaml":
        import yaml

        click.echo(yaml.safe_dump(answer, sort_keys=False, allow_unicode=True), nl=False)
    else:
        console = Console(highlight=False)
        if console.is_terminal:
            console.print(report(answer).renderable)
        else:
            click.echo(report(answer).plain)


def _styled(value: str) -> Text:
    return Text(value, style=_STYLES.get(value, ""))


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def field(value: object, *path: str) -> object:
    """``value[path[0]][path[1]]…`` of parsed JSON; None when something on the way is missing."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def items(value: object) -> list[object]:
    """A list of parsed JSON; empty when it is something else."""
    return value if isinstance(value, list) else []


def text(value: object) -> str:
    """A value of parsed JSON for people: ``-`` for what is not known."""
    if value is None or value == "":
        return "-"
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def size(value: object) -> str:
    """Bytes for people: ``1.5 GiB``."""
    if not isinstance(value, int):
        return "-"
    amount, unit = float(value), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(amount) < 1024 or unit == "TiB":
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def seconds(value: object) -> str:
    """A duration for people: ``0.3 s``, ``12 min``, ``3.5 h``."""
    if not isinstance(value, int | float):
        return "-"
    for limit, unit, divisor in ((120, "s", 1), (7200, "min", 60), (172800, "h", 3600)):
        if value < limit:
            return f"{value / divisor:.1f} {unit}"
    return f"{value / 86400:.1f} d"
