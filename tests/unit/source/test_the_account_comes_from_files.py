"""Name and password of the account at the source are read at each connection, so that a changed Secret counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from kingbus_node.config import Address, SourceSettings
from kingbus_node.source.connection import read_user
from kingbus_node.source.errors import Refused


def settings(file: Path | None) -> SourceSettings:
    return SourceSettings(endpoints=(Address("db", 3306),), user="configured", user_file=file)


def test_without_a_file_it_is_what_is_configured() -> None:
    assert read_user(settings(None)) == "configured"


def test_the_file_counts_and_is_followed(tmp_path: Path) -> None:
    file = tmp_path / "username"
    file.write_text("repl\n")
    assert read_user(settings(file)) == "repl"
    file.write_text("other")
    assert read_user(settings(file)) == "other"


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff"])
def test_a_file_that_names_nobody_is_told(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "username"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Refused, match=r"source\.user_file"):
        read_user(settings(file))
