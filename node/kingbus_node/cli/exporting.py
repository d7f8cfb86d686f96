"""Copying binlog files out of a node: to a folder with a progress bar, or to standard output.

A file appears under its name only when it is whole and on disk; until then it is ``<name>.part``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, Final

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from kingbus_node.cli.client import AdminClient
from kingbus_node.cli.output import size

_PIECE: Final = 1 << 20

PathOf = Callable[[str], str]


def to_folder(client: AdminClient, sizes: Mapping[str, int], folder: str, path_of: PathOf, *, overwrite: bool) -> None:
    """Each file of `sizes` (name to length) into `folder`. Nothing is begun if one of them is there already."""
    target = Path(folder)
    for name in sizes:
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise click.ClickException(f"{name!r} is no file name: the node at {client.url} is not to be trusted")
        if (target / name).exists() and not overwrite:
            raise click.ClickException(f"{target / name} is there already: give --overwrite to replace it")
    try:
        target.mkdir(parents=True, exist_ok=True)
        with _progress() as progress:
            whole = progress.add_task("export", total=sum(sizes.values()))
            copied = 0
            for name in sizes:
                progress.update(whole, description=name)
                copied += _copy(client, path_of(name), target / name, lambda n: progress.advance(whole, n))
    except OSError as error:
        raise click.ClickException(f"cannot write to {target}: {error}") from error
    click.echo(f"{len(sizes)} files, {size(copied)}, in {target}")


def to_stream(client: AdminClient, sizes: Mapping[str, int], out: BinaryIO, path_of: PathOf) -> None:
    """The files one after the other; each begins with its magic number, so a reader takes one at a time."""
    for name in sizes:
        with client.stream(path_of(name)) as read:
            while piece := read(_PIECE):
                out.write(piece)
    out.flush()


def _copy(client: AdminClient, path: str, target: Path, advance: Callable[[int], None]) -> int:
    part = target.with_name(target.name + ".part")
    copied = 0
    try:
        with client.stream(path) as read, part.open("wb") as out:
            while piece := read(_PIECE):
                out.write(piece)
                copied += len(piece)
                advance(len(piece))
            out.flush()
            os.fsync(out.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return copied


def _progress() -> Progress:
    """On standard error, and only where somebody looks."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
