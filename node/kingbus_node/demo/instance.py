"""One private server: a data directory, a port on loopback, a process.

Its data directory is copied from a template that is initialised once per set of programs and kept beside them, so
that a start takes a second or so. Every instance has a passwordless `root` and the replication user of
REPLICATION_USER. Both can be reached through 127.0.0.1 only.

Defaults are small and quick, and durable against the process dying but not against the machine dying (nothing is
fsynced at commit); any option can be given otherwise.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

import pymysql
from pymysql.connections import Connection
from pymysql.cursors import Cursor

from kingbus_node.demo.ports import ReservedPort
from kingbus_node.demo.servers import Flavor, ServerBinaries, locked
from kingbus_node.demo.waiting import wait_until

__all__ = [
    "REPLICATION_PASSWORD",
    "REPLICATION_USER",
    "Options",
    "Row",
    "Server",
    "ServerFailed",
    "Value",
    "connect",
    "text",
]

REPLICATION_USER = "repl"
REPLICATION_PASSWORD = "replication"

Options = Mapping[str, str | int | None]
"""Server options by name without the leading dashes; None for one without a value."""

Value = str | bytes | int | float | None
Row = tuple[Value, ...]

_STOP_SECONDS = 60.0
_TAIL_BYTES = 8_000

_COMMON: Options = {
    "bind-address": "127.0.0.1",
    "log-bin": "binlog",
    "skip-name-resolve": None,
    "performance-schema": "OFF",
    "max-allowed-packet": "1G",
    "max-connections": 100,
    "table-open-cache": 200,
    "innodb-buffer-pool-size": "64M",
    "innodb-flush-log-at-trx-commit": 2,
    "innodb-use-native-aio": "OFF",
    "sync-binlog": 0,
    "report-host": "127.0.0.1",
}
_BY_FLAVOR: Mapping[Flavor, Options] = {
    Flavor.MYSQL: {
        "gtid-mode": "ON",
        "enforce-gtid-consistency": "ON",
        "mysqlx": "OFF",
        "secure-file-priv": "NULL",
        "log-error-verbosity": 3,
        "innodb-redo-log-capacity": "128M",
    },
    Flavor.MARIADB: {
        "binlog-format": "ROW",
        "log-slave-updates": None,
        "log-warnings": 3,
        "innodb-log-file-size": "32M",
    },
}

_MYSQL_USERS = f"""\
CREATE USER root@'127.0.0.1' IDENTIFIED BY '';
GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;
CREATE USER {REPLICATION_USER}@'%' IDENTIFIED BY '{REPLICATION_PASSWORD}';
GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {REPLICATION_USER}@'%';
"""
_MARIADB_USERS = f"""\
FLUSH PRIVILEGES;
DELETE FROM global_priv WHERE user <> 'mariadb.sys';
FLUSH PRIVILEGES;
CREATE USER root@'127.0.0.1' IDENTIFIED BY '';
GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;
CREATE USER {REPLICATION_USER}@'%' IDENTIFIED BY '{REPLICATION_PASSWORD}';
GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {REPLICATION_USER}@'%';
"""


class ServerFailed(Exception):
    """A server did not start or did not stop; the text ends with the end of its log."""


def text(value: Value) -> str:
    """A value as text; NULL is the empty one."""
    return value.decode() if isinstance(value, bytes) else "" if value is None else str(value)


class Server:
    """A server with a folder of its own. Also a context manager that starts it and, at the end, kills it."""

    def __init__(
        self,
        binaries: ServerBinaries,
        folder: Path,
        *,
        server_id: int,
        port: int | None = None,
        options: Options | None = None,
    ) -> None:
        """`folder` need not exist; `options` are added to, or replace, the default ones."""
        self.binaries = binaries
        self.folder = folder
        self.server_id = server_id
        self._reserved: ReservedPort | None = None
        if port is None:
            self._reserved = ReservedPort()
            port = self._reserved.number
        self.port = port
        self.options = dict(options or {})
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<{self.binaries.release.name} server_id={self.server_id} port={self.port} {self.folder}>"

    @property
    def flavor(self) -> Flavor:
        return self.binaries.flavor

    @property
    def data(self) -> Path:
        """The data directory; binary logs are here too."""
        return self.folder / "data"

    @property
    def error_log(self) -> Path:
        return self.folder / "error.log"

    @property
    def pid(self) -> int:
        """The process; ServerFailed when it is not running."""
        if self._process is None:
            raise ServerFailed(f"{self!r} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log_tail(self) -> str:
        """The end of what the server wrote to its log."""
        return _tail(self.error_log)

    def start(self, timeout: float = 90.0) -> Self:
        """Start and wait until it answers queries; ServerFailed with the end of its log when it does not."""
        if self.running:
            return self
        if not self.data.is_dir():
            _copy_tree(_template(self.binaries), self.data)
        with self.error_log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.binaries.server, *self._arguments()],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, start_new_session=True,
            )  # fmt: skip
        try:
            wait_until(self._answers, timeout, f"{self!r} to answer queries")
        except Exception:
            self.kill()
            raise
        return self

    def _arguments(self) -> list[str]:
        own: Options = {
            "datadir": str(self.data),
            "socket": "server.sock",  # relative to the data directory: paths of sockets are limited to 107 bytes
            "pid-file": str(self.folder / "pid"),
            "port": self.port,
            "report-port": self.port,
            "server-id": self.server_id,
            "tmpdir": str(self.folder),
        }
        if os.geteuid() == 0:
            own = {**own, "user": "root"}
        return ["--no-defaults", *_option_list({**_COMMON, **_BY_FLAVOR[self.flavor], **own, **self.options})]

    def _answers(self) -> bool:
        if not self.running:
            code = self._process.returncode if self._process else None
            raise ServerFailed(
                f"{self!r} ended with code {code} instead of starting. The end of its log:\n{self.log_tail()}"
            )
        try:
            return self.value("SELECT 1") == 1
        except pymysql.err.OperationalError:
            return False

    def stop(self) -> None:
        """Shut down in good order; ServerFailed when that takes longer than a minute (it is killed then)."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                tail = self.log_tail()
                self.kill()
                raise ServerFailed(
                    f"{self!r} did not stop within {_STOP_SECONDS:g} s. The end of its log:\n{tail}"
                ) from None
        self._process = None

    def kill(self) -> None:
        """kill -9, as a crash would end it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def connect(self, *, user: str = "root", password: str = "", database: str | None = None) -> Connection[Cursor]:
        """A new connection with autocommit on; the caller closes it."""
        return connect(self.port, user=user, password=password, database=database)

    def sql(self, *statements: str) -> list[Row]:
        """Run statements one after another on a connection of their own; the rows of the last one."""
        rows: Sequence[Row] = ()
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
                rows = cursor.fetchall()
        return list(rows)

    def value(self, statement: str) -> Value:
        """The first column of the first row; None when there is no row."""
        rows = self.sql(statement)
        return rows[0][0] if rows else None

    def table(self, statement: str) -> list[dict[str, Value]]:
        """The rows as dictionaries by column name."""
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def binary_logs(self) -> list[str]:
        """The names of the binary logs, oldest first."""
        return [str(row[0]) for row in self.sql("SHOW BINARY LOGS")]


def connect(
    port: int, *, user: str, password: str, database: str | None = None, host: str = "127.0.0.1"
) -> Connection[Cursor]:
    """A connection without TLS and with autocommit on; the caller closes it."""
    return pymysql.connect(
        host=host, port=port, user=user, password=password, database=database, autocommit=True,
        charset="utf8mb4", connect_timeout=10, read_timeout=300, write_timeout=300, ssl_disabled=True,
    )  # fmt: skip


def _option_list(options: Options) -> list[str]:
    return [f"--{name}" if value is None else f"--{name}={value}" for name, value in options.items()]


def _tail(path: Path) -> str:
    if not path.is_file():
        return f"(no {path})"
    with path.open("rb") as handle:
        handle.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        return handle.read().decode(errors="replace")


def _template(binaries: ServerBinaries) -> Path:
    """An initialised data directory for these programs, made on first use."""
    recipe = repr((binaries.version, _COMMON, _BY_FLAVOR, _MYSQL_USERS, _MARIADB_USERS)).encode()
    template = binaries.folder / f"template-{hashlib.sha256(recipe).hexdigest()[:12]}"
    with locked(binaries.folder / "template.lock"):
        if not template.is_dir():
            with tempfile.TemporaryDirectory(dir=binaries.folder, prefix="initialising-") as work:
                data = Path(work) / "data"
                (_initialise_mysql if binaries.flavor is Flavor.MYSQL else _initialise_mariadb)(
                    binaries, Path(work), data
                )
                for leftover in (
                    "auto.cnf",
                    "binlog.index",
                ):  # auto.cnf holds the server's uuid: each instance makes its own
                    (data / leftover).unlink(missing_ok=True)
                data.rename(template)
    return template


def _initialise_mysql(binaries: ServerBinaries, work: Path, data: Path) -> None:
    init_file = work / "users.sql"
    init_file.write_text(_MYSQL_USERS)
    options: Options = {"innodb-redo-log-capacity": "8M", "init-file": str(init_file), "skip-log-bin": None}
    _initialise(binaries, work, data, ["--initialize-insecure", *_option_list(options)], b"")


def _initialise_mariadb(binaries: ServerBinaries, work: Path, data: Path) -> None:
    folder = binaries.bootstrap_sql
    if folder is None:
        raise ServerFailed(
            f"{binaries.release.name}: mysql_system_tables.sql, which fills an empty data directory, was not found"
        )
    (data / "mysql").mkdir(parents=True)
    parts = ["CREATE DATABASE IF NOT EXISTS mysql;\nUSE mysql;\n"]
    for name in ("system_tables", "performance_tables", "system_tables_data"):
        file = next(path for prefix in ("mariadb", "mysql") if (path := folder / f"{prefix}_{name}.sql").is_file())
        parts.append(file.read_text())
    parts.append(_MARIADB_USERS)
    size = str(_BY_FLAVOR[Flavor.MARIADB]["innodb-log-file-size"])
    _initialise(binaries, work, data, ["--bootstrap", f"--innodb-log-file-size={size}"], "\n".join(parts).encode())


def _initialise(binaries: ServerBinaries, work: Path, data: Path, arguments: Sequence[str], text: bytes) -> None:
    user = ["--user=root"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [binaries.server, "--no-defaults", f"--datadir={data}", f"--tmpdir={work}", *user, *arguments], input=text,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=300,
    )  # fmt: skip
    if done.returncode != 0:
        said = done.stdout.decode(errors="replace")[-_TAIL_BYTES:]
        raise ServerFailed(
            f"{binaries.release.name}: initialising a data directory ended with code {done.returncode}:\n{said}"
        )


def _copy_tree(source: Path, target: Path) -> None:
    """Copy a data directory, leaving out the zeros that most of it consists of."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial, copy_function=_copy_sparse)
    partial.rename(target)


def _copy_sparse(source: str, target: str) -> None:
    block = 1 << 18
    zeros = bytes(block)
    with Path(source).open("rb") as reader, Path(target).open("wb") as writer:
        while chunk := reader.read(block):
            if chunk == zeros[: len(chunk)]:
                writer.seek(len(chunk), os.SEEK_CUR)
            else:
                writer.write(chunk)
        writer.truncate()
    shutil.copymode(source, target)
