"""Texts that are kept in files and made by the code: documentation, and what commands print.

``make docs`` writes them all anew; otherwise a test that finds another text in the file fails, and shows both.
"""

from __future__ import annotations

import os
from pathlib import Path

WRITE = "KINGBUS_WRITE_GOLDEN"
"""The environment variable that, if set, has the files written instead of compared."""


def check(path: Path, text: str) -> None:
    """`path` holds exactly `text`."""
    if os.environ.get(WRITE):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return
    there = path.read_text(encoding="utf-8") if path.is_file() else ""
    assert there == text, f"{path.name} is not what the code makes of it: `make docs` writes it anew"
