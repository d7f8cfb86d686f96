"""What a line of the log looks like, for people and for machines."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from kingbus_node import logs


@pytest.fixture(autouse=True)
def _root_logger_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def test_text_is_one_line_with_the_facts_behind_the_sentence() -> None:
    stream = io.StringIO()
    logs.configure("info", "text", stream)
    logger = logging.getLogger("kingbus_node.source.reader")
    logger.info("connected to %s", "the source", extra={"endpoint": "db:3306", "error": "no such host", "empty": None})
    logger.debug("not shown")
    line = stream.getvalue()
    assert line.endswith('Z INFO    source.reader  connected to the source endpoint=db:3306 error="no such host"\n')
    assert line.count("\n") == 1


def test_a_value_can_not_forge_a_line() -> None:
    stream = io.StringIO()
    logs.configure("info", "text", stream)
    logging.getLogger("x").info("user", extra={"user": "a\n2026 INFO fake"})
    assert stream.getvalue().count("\n") == 1


def test_a_message_can_not_forge_a_line() -> None:
    stream = io.StringIO()
    logs.configure("info", "text", stream)
    logging.getLogger("x").info("Access denied for user %r, %s", "ü", "a\n2026 INFO fake\x1b[2J\u2028\udcff")
    assert stream.getvalue().endswith("user 'ü', a\\n2026 INFO fake\\u001b[2J\\u2028\\udcff\n")
    assert stream.getvalue().count("\n") == 1


def test_json_holds_the_facts_as_members_and_the_exception() -> None:
    stream = io.StringIO()
    logs.configure("warning", "json", stream)
    logger = logging.getLogger("kingbus_node.store.log")
    logger.info("not shown")
    try:
        raise ValueError("torn")
    except ValueError:
        logger.exception("the tail was cut", extra={"bytes": 17, "level": "shadow"})
    (line,) = stream.getvalue().splitlines()
    record = json.loads(line)
    assert {name: record[name] for name in ("level", "logger", "message", "bytes")} == {
        "level": "error",
        "logger": "store.log",
        "message": "the tail was cut",
        "bytes": 17,
    }
    assert "ValueError: torn" in record["exception"]


def test_a_second_set_up_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.configure("info", "text", first)
    logs.configure("info", "json", second)
    logging.getLogger("x").info("hello")
    assert first.getvalue() == ""
    assert json.loads(second.getvalue())["message"] == "hello"
