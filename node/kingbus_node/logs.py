"""How Kingbus logs: one set-up for every process of a node, lines for people or JSON for machines, on standard error.

Modules log with ``logging.getLogger(__name__)``; facts beside the sentence go into ``extra``, for example
``log.info("connected to the source", extra={"endpoint": str(endpoint)})``. As text they follow the sentence as
``key=value``, as JSON they are members of the object. Nobody passes a secret to a logger: there is no filter that would
catch it.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Literal, TextIO

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PACKAGE = "kingbus_node."


def configure(
    level: Literal["debug", "info", "warning", "error"], form: Literal["text", "json"], stream: TextIO | None = None
) -> None:
    """Send everything that this process logs to ``stream`` (default: standard error). Replaces an earlier set-up."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    for chatty in ("asyncio", "aiohttp"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


def _facts(record: logging.LogRecord) -> dict[str, object]:
    """What the caller gave as ``extra``."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD and value is not None}


def _time(record: logging.LogRecord) -> str:
    """RFC 3339, UTC, milliseconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
    parts += [formatter.formatStack(record.stack_info)] if record.stack_info else []
    return "\n".join(parts)


def _in_one_line(text: str) -> str:
    """With what could end a line, or do worse to a terminal, as JSON writes it: a message may hold a client's words."""
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


class TextFormatter(logging.Formatter):
    """``2026-11-22T19:03:22.123Z INFO    source.reader  connected to the source endpoint=127.0.0.1:3306``."""

    def format(self, record: logging.LogRecord) -> str:
        facts = "".join(f" {name}={self._shown(value)}" for name, value in _facts(record).items())
        name = record.name.removeprefix(_PACKAGE)
        line = f"{_time(record)} {record.levelname:<7} {name}  {_in_one_line(record.getMessage())}{facts}"
        trace = _trace(self, record)
        return f"{line}\n{trace}" if trace else line

    @staticmethod
    def _shown(value: object) -> str:
        text = str(value)
        return text if text and text.isprintable() and not any(c in text for c in " \"'=") else json.dumps(text)


class JsonFormatter(logging.Formatter):
    """One JSON object in a line: ``time``, ``level``, ``logger``, ``message``, the facts, and ``exception`` if any."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name.removeprefix(_PACKAGE),
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in _facts(record).items() if name not in line}
        if trace := _trace(self, record):
            line["exception"] = trace
        return json.dumps(line, default=str, ensure_ascii=False)
