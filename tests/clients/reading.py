"""Has a program read what a source wrote, and compares.

Each program gets an order (`program`'s own keys besides: host, port, user, password, flavor, server_id; by_gtid with
gtids, or file and position; tls; until) and prints one JSON object a line: ``{"gtid": text}`` for each transaction,
``{"table": name, "op": "insert" | "delete", "row": [text, …]}`` for each row of ``w.rows_`` (id, n, t) and ``w.blobs``
(id, SHA-256 of b), an update being both, and ``{"end": true}`` once it has read the row whose t is `until`.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from servers.workload import Workload

from clients.programs import Order, Program
from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.binlog.mariadb import MariadbState
from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER, Server, text
from kingbus_node.demo.replication import executed
from kingbus_node.demo.servers import Flavor

SECONDS = 240
"""How long a program may take: a Java program on a busy machine takes its time to begin."""

Row = tuple[str | None, ...]


@dataclass(slots=True)
class Read:
    """What a program has read: by table and key the rows as they ended up, and the GTIDs in order."""

    tables: dict[str, dict[str | None, Row]] = field(default_factory=lambda: {"rows_": {}, "blobs": {}})
    gtids: list[str] = field(default_factory=list)

    def take(self, line: str) -> bool:
        """One line of output; True for the last one."""
        item = json.loads(line)
        if "end" in item:
            return True
        if "gtid" in item:
            self.gtids.append(item["gtid"])
        elif item["op"] == "insert":
            row = tuple(item["row"])
            self.tables[item["table"]][row[0]] = row
        else:
            del self.tables[item["table"]][item["row"][0]]
        return False


_ERROR = re.compile(r"^(?:Caused by: |Exception in thread \S+ )?((?:\w+\.)*\w*(?:Error|Exception)\b.*)$", re.MULTILINE)


class ReaderFailed(Exception):
    """A program ended without having read the marker; the text is the end of what it said on standard error."""

    @property
    def reason(self) -> str:
        """The program's own words for it, in one line."""
        said = str(self).strip()
        found = _ERROR.findall(said)
        return str(found[-1]) if found else said.splitlines()[-1] if said else "it ended without a word"


@dataclass(frozen=True, slots=True)
class Running:
    """A program at work."""

    process: subprocess.Popen[bytes]
    output: Path
    errors: Path
    read: Read

    def finish(self, seconds: float = SECONDS) -> Read:
        """Wait until it has read the marker."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ReaderFailed(f"the marker was not read in {seconds} s; {self.said()}") from None
        ended = [self.read.take(line) for line in self.output.read_text().splitlines()]
        if self.process.returncode != 0 or not ended or not ended[-1]:
            raise ReaderFailed(self.said())
        return self.read

    def said(self) -> str:
        """The end of its standard error."""
        return self.errors.read_text(errors="replace")[-6000:]


@contextmanager
def reading(program: Program, order: Order, folder: Path, read: Read | None = None) -> Iterator[Running]:
    """Start a program; it is ended with the block. `read`: what it had read before, when it goes on."""
    name = uuid4().hex[:8]
    output, errors = folder / f"{name}.out", folder / f"{name}.err"
    with output.open("wb") as out, errors.open("wb") as err:
        process = subprocess.Popen(program.command, stdin=subprocess.PIPE, stdout=out, stderr=err, cwd=folder)
    try:
        assert process.stdin is not None
        process.stdin.write(program.encode(order).encode())
        process.stdin.close()
        yield Running(process, output, errors, Read() if read is None else read)
    finally:
        process.kill()
        process.wait()


def order(port: int, source: Server, until: str, **more: str | int | bool) -> Order:
    """What is to be read from the server on `port`, up to the marker `until`; by default all, by file."""
    defaults: Order = {
        "host": "127.0.0.1",
        "port": port,
        "user": REPLICATION_USER,
        "password": REPLICATION_PASSWORD,
        "flavor": "mysql" if source.flavor is Flavor.MYSQL else "mariadb",
        "server_id": 4_242,
        "file": source.binary_logs()[0],
        "position": 4,
        "by_gtid": False,
        "gtids": "",
        "tls": False,
        "schema_port": source.port,
        "until": until,
    }
    return {**defaults, **more}


def mark(workload: Workload, marker: str) -> str:
    """Write the row that ends a reading program; returns what the source has executed after it."""
    workload.source.sql(f"INSERT INTO w.rows_ VALUES ({uuid4().int >> 65}, NULL, '{marker}', NULL)")
    return executed(workload.source)


def assert_equal(source: Server, read: Read, *, gtids: bool = True) -> None:
    """The tables are the source's; with `gtids` also: every GTID was read, once."""
    for table, columns in (("rows_", "id, n, t"), ("blobs", "id, SHA2(b, 256)")):
        rows: list[Row] = [
            tuple(None if value is None else text(value) if isinstance(value, bytes) else str(value) for value in row)
            for row in source.sql(f"SELECT {columns} FROM w.{table}")
        ]
        expected = {row[0]: row for row in rows}
        found = read.tables[table]
        wrong = [key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)]
        assert not wrong, [(expected.get(key), found.get(key)) for key in wrong[:3]]
    if not gtids:
        return
    twice = [gtid for gtid, count in Counter(read.gtids).items() if count > 1]
    assert not twice, f"read twice: {twice[:5]}"
    if source.flavor is Flavor.MYSQL:
        everything = GtidSet()
        for gtid in read.gtids:
            everything |= GtidSet.parse(gtid)
        assert str(everything) == str(GtidSet.parse(executed(source)))
    else:
        state = MariadbState()
        for gtid in read.gtids:
            domain, server, number = (int(part) for part in gtid.split("-"))
            state.update(domain, server, number)
        assert state.position() == MariadbState.parse(executed(source), position=True).position()
