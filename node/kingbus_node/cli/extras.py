"""Commands that need more than the command line alone installs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click


@contextlib.contextmanager
def needs_node_extra() -> Iterator[None]:
    """Say which extra is missing, where an import fails for that reason."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("kingbus_node"):
            raise  # our own fault, and not an extra that was left out
        raise click.ClickException(
            f"{error.name} is missing: this command needs the extra [node], which pip install 'kingbus[node]' gets"
        ) from error
