"""Reads a binary log with python-mysql-replication and prints what it has read (see ../reading.py)."""

from __future__ import annotations

import hashlib
import json
import sys
import warnings

from pymysqlreplication import BinLogStreamReader
from pymysqlreplication.event import GtidEvent, MariadbGtidEvent
from pymysqlreplication.row_event import DeleteRowsEvent, UpdateRowsEvent, WriteRowsEvent

warnings.filterwarnings("ignore", "'db' is deprecated", DeprecationWarning)  # the library's own use of PyMySQL


def _shown(table: str, values: dict[str, object]) -> list[str | None]:
    row = list(values.values())  # by position: without binlog_row_metadata=FULL columns have no names
    if table == "rows_":
        return [None if value is None else str(value) for value in row[:3]]
    blob = row[1]
    data = blob.encode() if isinstance(blob, str) else blob
    return [str(row[0]), None if data is None else hashlib.sha256(data).hexdigest()]  # type: ignore[arg-type]


def main() -> None:
    order = json.load(sys.stdin)
    mysql = order["flavor"] == "mysql"
    where: dict[str, object]
    if not order["by_gtid"]:
        where = {"log_file": order["file"], "log_pos": order["position"]}
    else:
        where = {"auto_position": order["gtids"]}
    settings = {name: order[name] for name in ("host", "port", "user", "password")}
    if order["tls"]:
        settings["ssl"] = {"check_hostname": False}
        settings["ssl_verify_cert"] = False
    stream = BinLogStreamReader(
        connection_settings=settings,
        server_id=order["server_id"],
        blocking=True,
        is_mariadb=not mysql,
        slave_heartbeat=1,
        verify_checksum=True,
        only_events=[GtidEvent, MariadbGtidEvent, WriteRowsEvent, UpdateRowsEvent, DeleteRowsEvent],
        **where,
    )

    def say(item: dict[str, object]) -> None:
        sys.stdout.write(json.dumps(item) + "\n")

    for event in stream:
        if isinstance(event, GtidEvent | MariadbGtidEvent):
            say({"gtid": event.gtid})
            continue
        if event.schema != "w" or event.table not in ("rows_", "blobs"):
            continue
        for row in event.rows:
            for key, op in (("before_values", "delete"), ("after_values", "insert"), ("values", "")):
                if key in row:
                    op = op or ("delete" if isinstance(event, DeleteRowsEvent) else "insert")
                    shown = _shown(event.table, row[key])
                    say({"table": event.table, "op": op, "row": shown})
                    if event.table == "rows_" and op == "insert" and shown[2] == order["until"]:
                        say({"end": True})
                        return


main()
