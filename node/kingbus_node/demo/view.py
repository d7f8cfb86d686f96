"""What the demonstration shows: a live table on a terminal, a line now and then when piped."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.box import ROUNDED
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

__all__ = ["Moment", "Party", "View"]

_LINE_SECONDS = 2.0
_UUID = re.compile(r"([0-9a-f]{4})[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Party:
    """One of those who take part. ``executed``: None when it does not answer at the moment."""

    name: str
    port: int
    role: str
    executed: str | None


@dataclass(frozen=True, slots=True)
class Moment:
    """What is known at one moment."""

    elapsed: float
    seconds: float
    rows: int
    rows_per_second: float
    transactions: int
    source: Party
    nodes: Sequence[Party]
    replica: Party
    behind: float | None
    """The age of the newest pulse of the source that the replica holds, in seconds."""


class View:
    """Tells what happens. ``title`` says which programs take part."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._live: Live | None = None
        self._events: list[str] = []
        self._printed = 0.0

    @contextmanager
    def live(self) -> Iterator[None]:
        """While open, ``show`` redraws one place of the terminal; what happens is told above it."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, auto_refresh=False, transient=False) as self._live:
            yield
        self._live = None

    def event(self, text: str, style: str = "bold") -> None:
        """Something happened that happens once."""
        self._console.print(Text(text, style=style), soft_wrap=True)

    def show(self, moment: Moment) -> None:
        """How things stand."""
        if self._live is not None:
            self._live.update(self._table(moment), refresh=True)
        elif time.monotonic() - self._printed >= _LINE_SECONDS:
            self._printed = time.monotonic()
            self._console.print(Text(_line(moment)), soft_wrap=True)

    def _table(self, moment: Moment) -> RenderableType:
        table = Table(box=ROUNDED)
        table.add_column("")
        table.add_column("port")
        table.add_column("role", min_width=9)
        table.add_column("executed", min_width=40, overflow="fold")
        for party in (moment.source, *moment.nodes, moment.replica):
            gtids = party.executed
            shown = Text("does not answer", style="bold red") if gtids is None else Text(_short(gtids))
            style = "red" if gtids is None else "green" if gtids == moment.source.executed else "yellow"
            role = Text(party.role, style="bold" if party.role == "leader" else "")
            table.add_row(Text(party.name, style=style), str(party.port), role, shown)
        facts = (
            f"{moment.elapsed:5.1f} of {moment.seconds:g} s   {moment.rows} rows in {moment.transactions} transactions"
            f"   {moment.rows_per_second:.0f} rows/s   replica is {_behind(moment.behind)}"
        )
        return Group(Text(self._title, style="bold"), table, Text(facts))


def _line(moment: Moment) -> str:
    nodes = "  ".join(f"{party.name}{'*' if party.role == 'leader' else ''} {_held(party)}" for party in moment.nodes)
    return (
        f"{moment.elapsed:5.1f} s  {moment.rows} rows, {moment.rows_per_second:.0f}/s  source {_held(moment.source)}"
        f"  {nodes}  replica {_held(moment.replica)}  {_behind(moment.behind)}"
    )


def _held(party: Party) -> str:
    """What a party holds, for a narrow place: without UUIDs."""
    if party.executed is None:
        return "is silent"
    return _UUID.sub("", party.executed).lstrip(":") or "nothing"


def _behind(seconds: float | None) -> str:
    return "not there yet" if seconds is None else f"{max(0.0, seconds):.2f} s behind"


def _short(gtids: str) -> str:
    """A set for a narrow place: of each UUID the first digits."""
    return _UUID.sub(r"\1…", gtids) or "nothing"
