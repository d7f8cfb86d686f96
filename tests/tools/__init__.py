"""Programs that tests of deploy/ run: Prometheus from a Debian package, helm built from the Go module proxy.

Like the servers of the demo they are kept in a cache folder outside the tree and never installed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


class ToolMissing(Exception):
    """A program is not here and cannot be got; the text says what to do."""


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where such programs are kept: `$KINGBUS_CACHE/tools`, by default `~/.cache/kingbus/tools`."""
    return Path(environ.get("KINGBUS_CACHE") or Path.home() / ".cache" / "kingbus").expanduser().resolve() / "tools"
