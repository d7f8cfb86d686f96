"""Answering statements.

`SqlSession` holds what a connection's statements leave behind (user variables, session variables, the database) and
turns a statement into an answer: OK or a result set, or raises the error that a real server would send. Columns have
the names and types of the real servers' (captured from MySQL 9.7.4 and MariaDB 10.11.19), because clients convert by
type and find values by name.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from typing import Final

from kingbus_node.binlog.errors import BinlogError
from kingbus_node.binlog.gtid import GtidSet
from kingbus_node.serve.facts import MAX_TEXT, SessionFacts, UserValue
from kingbus_node.serve.lexer import Dialect
from kingbus_node.serve.moments import moment, time_zone
from kingbus_node.serve.privileges import Privilege, check, grants
from kingbus_node.serve.statements import (
    Assignment,
    Call,
    Combined,
    Comparison,
    Condition,
    Default,
    Expression,
    Item,
    Kill,
    Literal,
    Negated,
    Nothing,
    PurgeLogs,
    Select,
    SetNames,
    SetVariables,
    Show,
    ShowBinlogEvents,
    ShowGrants,
    ShowVariables,
    ShowWarnings,
    SystemVariable,
    Use,
    UserVariable,
    parse,
    to_bytes,
)
from kingbus_node.serve.status import replica_status
from kingbus_node.serve.variables import SystemVariables, VariableValue, shown
from kingbus_node.serve.view import KillOutcome, Neighbours, ServerView
from kingbus_node.wire.errors import ErrorCode, MySQLError, error
from kingbus_node.wire.resultset import (
    BINARY_CHARSET,
    Column,
    ColumnFlag,
    ColumnType,
    Ok,
    ResultSet,
    Value,
    integer_column,
    text_column,
)

MAX_STATEMENT: Final = 1 << 20
"""Bytes that a statement may have. GTID sets of thousands of servers fit."""
_MAX_USER_VARIABLES: Final = 256
_MAX_USER_VARIABLE_BYTES: Final = 4 << 20
_MAX_WILDCARD_STEPS: Final = 100_000
_CHARSETS: Final = frozenset(
    ("armscii8", "ascii", "big5", "binary", "cp1250", "cp1251", "cp1256", "cp1257", "cp850", "cp852", "cp866", "cp932",
     "dec8", "eucjpms", "euckr", "gb18030", "gb2312", "gbk", "geostd8", "greek", "hebrew", "hp8", "keybcs2", "koi8r",
     "koi8u", "latin1", "latin2", "latin5", "latin7", "macce", "macroman", "sjis", "swe7", "tis620", "ucs2", "ujis",
     "utf16", "utf16le", "utf32", "utf8", "utf8mb3", "utf8mb4")
)  # fmt: skip

Answer = Ok | ResultSet


class SqlSession:
    """The SQL side of one connection. Used by its thread only."""

    def __init__(self, facts: SessionFacts, view: ServerView, neighbours: Neighbours) -> None:
        self.facts = facts
        self.variables = SystemVariables(view)
        self._database: str | None = None
        self._view = view
        self._neighbours = neighbours
        self._left: _Left | None = None

    @property
    def database(self) -> str | None:
        """What the client calls its database: what can be shown of that, and no more than `facts.MAX_TEXT` of it."""
        return self._database

    @database.setter
    def database(self, name: str | None) -> None:
        self._database = None if name is None else _printable(name[:MAX_TEXT])

    @property
    def autocommit(self) -> bool:
        """The session's @@autocommit: it shows in the status flags."""
        return bool(self.variables.read("autocommit"))

    def time_zone(self) -> tzinfo | None:
        """The session's; None when it was SET to one that is not known here."""
        return time_zone(shown(self.variables.read("time_zone")))

    def reset(self) -> None:
        """COM_RESET_CONNECTION: forget all that statements have set."""
        self.variables.reset()
        self.facts.user_variables.clear()
        self._left = None

    def execute(self, statement: bytes) -> Answer:
        """Answer one statement. Raises `MySQLError`; the connection goes on after it."""
        if len(statement) > MAX_STATEMENT:
            raise error(ErrorCode.NET_PACKET_TOO_LARGE, "Got a packet bigger than 'max_allowed_packet' bytes")
        view = self._view
        try:
            parsed = parse(statement, Dialect.of(view.version, mariadb=view.mariadb))
            if isinstance(parsed, ShowWarnings):
                return self._show_warnings(parsed)
            if not (isinstance(parsed, Select) and (view.mariadb or all(map(_counts_problems, parsed.items)))):
                self._left = None  # MariaDB keeps it while no table is read
            return self._answer(parsed)
        except MySQLError as problem:
            self._left = _Left("Error", problem.code, problem.message)
            raise

    def _answer(self, parsed: object) -> Answer:
        match parsed:
            case Select():
                return self._select(parsed)
            case SetVariables():
                return self._set(parsed)
            case SetNames():
                return self._set_names(parsed)
            case ShowVariables():
                return self._show_variables(parsed)
            case Show():
                return self._show(parsed)
            case ShowBinlogEvents():
                return self._show_events(parsed)
            case ShowGrants():
                return self._show_grants(parsed)
            case Kill():
                self.kill(parsed.connection_id)
                return Ok()
            case Use():
                self.database = parsed.database
                return Ok()
            case PurgeLogs():
                return self._purge(parsed)
            case Nothing():
                return Ok()
            case _:
                raise AssertionError(f"a statement without an answer: {parsed!r}")

    def kill(self, connection_id: int) -> None:
        """KILL, and COM_PROCESS_KILL: one's own connections, or those of others if one may."""
        owner = None if Privilege.CONNECTION_ADMIN in self.facts.privileges else self.facts.user
        match self._neighbours.kill(connection_id, owner):
            case KillOutcome.DENIED:
                raise error(ErrorCode.KILL_DENIED, f"You are not owner of thread {connection_id}")
            case KillOutcome.UNKNOWN:
                raise error(ErrorCode.NO_SUCH_THREAD, f"Unknown thread id: {connection_id}")
            case KillOutcome.ENDED:
                return

    def _check_privilege(self, what: str) -> None:
        check(self.facts.privileges, what, mariadb=self._view.mariadb)

    def _purge(self, order: PurgeLogs) -> Ok:
        self._check_privilege("PURGE")
        before: float | None = None
        if order.before is not None:
            zone = self.time_zone()
            if zone is None:  # guessing one could purge hours too much
                name = shown(self.variables.read("time_zone"))
                raise error(ErrorCode.UNKNOWN_TIME_ZONE, f"Unknown or incorrect time zone: '{name}'")
            before = moment(self._evaluate(order.before), order.interval, zone)
            if before is None:
                raise error(ErrorCode.WRONG_ARGUMENTS, "Incorrect arguments to PURGE LOGS BEFORE")
        done = self._neighbours.purge(order.to_file, before)
        if done is None or not done.held or self._view.mariadb:  # MariaDB keeps what is read without a word (captured)
            return Ok()
        message = (
            f"file ./{done.oldest} was not purged because it was being read by {max(1, done.readers)} thread(s), "
            f"purged only {done.purged} out of {done.purged + done.held} files."
        )
        self._left = _Left("Warning", ErrorCode.WARN_PURGE_LOG_IN_USE, message)
        return Ok(warnings=1)

    # -- SELECT

    def _select(self, select: Select) -> ResultSet:
        columns: list[Column] = []
        row: list[Value] = []
        for item in select.items:
            column, value = self._column(item.expression, item.name.encode("utf-8", "surrogateescape"))
            columns.append(column)
            row.append(value)
        return ResultSet(columns, [] if select.limit == 0 else [row])

    def _column(self, expression: Expression, label: bytes) -> tuple[Column, Value]:
        match expression:
            case UserVariable():
                known = self.facts.user_variables
                empty = ColumnType.VAR_STRING if expression.name not in known else ColumnType.MEDIUM_BLOB
                if self._view.mariadb:
                    empty = ColumnType.LONG_BLOB
                return _user_column(label, known.get(expression.name), empty)
            case SystemVariable() if expression.name.lower() in _COUNTS:
                count = b"%d" % self._left_behind(errors_only=expression.name.lower() == "error_count")
                return replace(integer_column("", nullable=True), name=label), count
            case SystemVariable():
                return _variable_column(label, self.variables.read(expression.name, expression.scope))
            case Call() if expression.name.upper() == "BINLOG_GTID_POS":
                value = self._evaluate(expression)
                kind = ColumnType.LONG_BLOB
                return Column(label, kind, 67108864, 0, 39), value if isinstance(value, bytes) else None
            case Call():
                value = self._evaluate(expression)
                if expression.name.upper() in _DATETIME_FUNCTIONS and isinstance(value, bytes):
                    flags = ColumnFlag.BINARY | ColumnFlag.NOT_NULL
                    return Column(label, ColumnType.DATETIME, 19, flags, 0, BINARY_CHARSET), value
                name = expression.name.upper()
                column, text = self._literal(label, value, nullable=name != "VERSION", narrow=name == "CONNECTION_ID")
                if name == "UNIX_TIMESTAMP" and self._view.mariadb:
                    column = replace(column, flags=column.flags & ~ColumnFlag.NOT_NULL)
                return column, text
            case _:
                value = self._evaluate(expression)
                return self._literal(label, value, narrow=isinstance(value, int) and abs(value) < 10**9)

    def _literal(
        self, label: bytes, value: UserValue, *, nullable: bool = False, narrow: bool = False
    ) -> tuple[Column, Value]:
        """A constant's column; MariaDB gives small integers 32 bits."""
        column, text = _literal_column(label, value, nullable=nullable)
        if narrow and self._view.mariadb:
            column = replace(column, type=ColumnType.LONG, length=11)
        return column, text

    def _evaluate(self, expression: Expression) -> UserValue:
        match expression:
            case Literal():
                return expression.value
            case UserVariable():
                return self.facts.user_variables.get(expression.name)
            case SystemVariable():
                value = self.variables.read(expression.name, expression.scope)
                return value.encode() if isinstance(value, str) else value
            case Call():
                return self._call(expression)
            case Default():
                raise AssertionError("DEFAULT outside of SET")

    def _call(self, call: Call) -> UserValue:
        name = call.name.upper()
        if name == "BINLOG_GTID_POS" and self._view.mariadb:
            return self._binlog_gtid_pos(call)
        if name in ("GTID_SUBSET", "GTID_SUBTRACT") and not self._view.mariadb:
            return self._of_two_sets(call, name)
        function = _FUNCTIONS.get(name)
        if function is None:
            if self._view.mariadb:
                raise error(ErrorCode.SP_DOES_NOT_EXIST, f"FUNCTION {call.name} does not exist")
            if self.database is None:
                raise error(ErrorCode.NO_DB, "No database selected")
            raise error(ErrorCode.SP_DOES_NOT_EXIST, f"FUNCTION {self.database}.{call.name} does not exist")
        if call.arguments:
            raise _wrong_count(call.name)
        return function(self)

    def _binlog_gtid_pos(self, call: Call) -> UserValue:
        """BINLOG_GTID_POS(file, position): the position may come as a string (mariadb-dump does that)."""
        if len(call.arguments) != 2:
            raise _wrong_count(call.name)
        file, position = (self._evaluate(argument) for argument in call.arguments)
        if file is None or position is None:
            return None
        name = file.decode("utf-8", "replace") if isinstance(file, bytes) else str(file)
        where = _as_integer(position)
        if where is None or where < 0:
            return None
        answer = self._view.gtid_position_at(name, where)
        return None if answer is None else answer.encode()

    def _of_two_sets(self, call: Call, name: str) -> UserValue:
        """GTID_SUBSET(a, b), GTID_SUBTRACT(a, b): Debezium asks them before it goes on where it was."""
        if len(call.arguments) != 2:
            raise _wrong_count(call.name)
        sets: list[GtidSet] = []
        for argument in call.arguments:
            value = self._evaluate(argument)
            if value is None:
                return None
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
            try:
                sets.append(GtidSet.parse(text))
            except BinlogError:
                raise error(
                    ErrorCode.MALFORMED_GTID_SET_SPECIFICATION, f"Malformed GTID set specification '{text}'."
                ) from None
        left, right = sets
        return int(right >= left) if name == "GTID_SUBSET" else str(left - right).encode()

    # -- SET

    def _set(self, statement: SetVariables) -> Ok:
        """All values are computed and checked before the first one is stored: it is all or nothing."""
        steps: list[Callable[[], None]] = []
        users: dict[str, UserValue] = {}
        for assignment in statement.assignments:
            target = assignment.target
            if isinstance(target, UserVariable):
                if isinstance(assignment.value, Default):
                    raise error(ErrorCode.WRONG_VALUE_FOR_VAR, f"User variable '@{target.name}' has no DEFAULT")
                users[target.name] = self._evaluate(assignment.value)
            else:
                steps.append(self._prepare(assignment, target))
        self._check_user_variables(users)
        for step in steps:
            step()
        self.facts.user_variables.update(users)
        return Ok()

    def _prepare(self, assignment: Assignment, target: SystemVariable) -> Callable[[], None]:
        variable = self.variables.check_settable(target.name, target.scope)
        if isinstance(assignment.value, Default):
            return lambda: self.variables.write(variable, None)
        value = self._evaluate(assignment.value)
        plain: VariableValue
        if isinstance(value, bytes):
            plain = value.decode("utf-8", "replace")
        elif isinstance(value, Decimal):
            plain = int(value) if value == int(value) else str(value)
        else:
            plain = "" if value is None else value
        converted = self.variables.converted(variable, plain)
        return lambda: self.variables.write(variable, converted)

    def _check_user_variables(self, new: dict[str, UserValue]) -> None:
        merged = self.facts.user_variables | new
        size = sum(len(name) + (len(value) if isinstance(value, bytes) else 16) for name, value in merged.items())
        if len(merged) > _MAX_USER_VARIABLES or size > _MAX_USER_VARIABLE_BYTES:
            raise error(
                ErrorCode.OUT_OF_RESOURCES,
                f"Out of memory: a session may hold {_MAX_USER_VARIABLES} user variables "
                f"of {_MAX_USER_VARIABLE_BYTES} bytes together",
            )

    def _set_names(self, statement: SetNames) -> Ok:
        if statement.charset is None:
            return Ok()
        charset = statement.charset.lower()
        if charset not in _CHARSETS:
            raise error(ErrorCode.UNKNOWN_CHARACTER_SET, f"Unknown character set: '{statement.charset}'")
        for name in ("character_set_client", "character_set_connection", "character_set_results"):
            self.variables.write(self.variables.find(name), charset)
        if statement.collation is not None:
            self.variables.write(self.variables.find("collation_connection"), _printable(statement.collation.lower()))
        return Ok()

    # -- SHOW

    def _show_variables(self, show: ShowVariables) -> ResultSet:
        pairs = self._status() if show.status else self.variables.listed(global_only=show.is_global)
        columns = (text_column("Variable_name", 256), text_column("Value", 4096, nullable=not self._view.mariadb))
        rows = [
            (name.encode(), value.encode())
            for name, value in pairs
            if show.condition is None or _holds(show.condition, {"variable_name": name, "value": value})
        ]
        return ResultSet(columns, rows)

    def _status(self) -> Iterator[tuple[str, str]]:
        """The status variables that drivers and dump tools look at."""
        if self._view.mariadb:
            current = self._view.current_file()
            yield "Binlog_snapshot_file", current.name if current else ""
            yield "Binlog_snapshot_position", str(current.size if current else 0)
        facts = self.facts
        yield "Compression", "ON" if facts.compression else "OFF"
        if not self._view.mariadb:
            yield "Compression_algorithm", facts.compression
            yield "Compression_level", str(facts.compression_level)
        yield "Ssl_cipher", self.facts.tls_cipher
        yield "Ssl_version", self.facts.tls
        yield "Threads_connected", str(len(self._neighbours.processes()))
        yield "Uptime", str(self._view.uptime())
        yield "Uptime_since_flush_status", str(self._view.uptime())

    def _show(self, show: Show) -> ResultSet:
        self._check_privilege(show.what)
        match show.what:
            case "BINARY LOGS":
                return self._binary_logs()
            case "BINARY LOG STATUS":
                return self._binary_log_status()
            case "REPLICAS":
                return self._replicas(show.source_words)
            case "REPLICA STATUS":
                return self._replica_status(show)
            case "PROCESSLIST":
                return self._process_list(show.full)
            case "DATABASES":
                return ResultSet((text_column("Database", 256),), [(b"information_schema",)])
            case _:
                raise AssertionError(f"SHOW {show.what} without an answer")

    def _replica_status(self, show: Show) -> ResultSet:
        """A cluster reads from its source in one channel, which has no name."""
        if show.channel and self._view.mariadb:
            raise error(ErrorCode.NO_MASTER_CONNECTION, f"There is no master connection '{show.channel}'")
        if show.channel:
            raise error(ErrorCode.NO_CHANNEL, f"Replica channel '{show.channel}' does not exist.")
        return replica_status(
            self._neighbours.source_status(),
            mariadb=self._view.mariadb,
            source_words=show.source_words,
            all_channels=show.all_channels and self._view.mariadb,
        )

    def _binary_logs(self) -> ResultSet:
        columns = [text_column("Log_name"), integer_column("File_size")]
        files = self._view.log_files()
        if self._view.mariadb:
            return ResultSet(columns, ((file.name.encode(), b"%d" % file.size) for file in files))
        columns.append(text_column("Encrypted", 12))
        return ResultSet(columns, ((file.name.encode(), b"%d" % file.size, b"No") for file in files))

    def _binary_log_status(self) -> ResultSet:
        columns = [
            text_column("File", 2048),
            integer_column("Position"),
            text_column("Binlog_Do_DB"),
            text_column("Binlog_Ignore_DB"),
        ]
        current = self._view.current_file()
        if not self._view.mariadb:
            columns.append(text_column("Executed_Gtid_Set", 4096))
        if current is None:
            return ResultSet(columns, [])
        row: list[Value] = [current.name.encode(), b"%d" % current.size, b"", b""]
        if not self._view.mariadb:
            row.append(self._view.executed().encode())
        return ResultSet(columns, [row])

    def _replicas(self, source_words: bool) -> ResultSet:
        new_words = source_words and not self._view.mariadb
        columns = [
            integer_column("Server_Id" if new_words else "Server_id", 11, wide=False),
            text_column("Host"),
            integer_column("Port", 8, wide=False),
            integer_column("Source_Id" if new_words else "Master_id", 11, wide=False),
        ]
        if not self._view.mariadb:
            columns.append(text_column("Replica_UUID" if new_words else "Slave_UUID", 144))
        own = b"%d" % self._view.server_id
        rows: list[list[Value]] = []
        for replica in self._neighbours.replicas():
            row: list[Value] = [b"%d" % replica.server_id, replica.host.encode(), b"%d" % replica.port, own]
            rows.append(row if self._view.mariadb else [*row, replica.uuid.encode()])
        return ResultSet(columns, rows)

    def _process_list(self, full: bool) -> ResultSet:
        columns = [
            integer_column("Id", 22, unsigned=False),
            text_column("User", 128),
            text_column("Host"),
            text_column("db", 256, nullable=True),
            text_column("Command", 64),
            integer_column("Time", 8, unsigned=False, wide=False),
            text_column("State", 120, nullable=True),
            Column(b"Info", ColumnType.LONG_BLOB, 0xFFFFFFFF, 0, 31)
            if full
            else text_column("Info", 400, nullable=True),
        ]
        if self._view.mariadb:
            flags = ColumnFlag.BINARY | ColumnFlag.NOT_NULL
            columns.append(Column(b"Progress", ColumnType.DOUBLE, 7, flags, 3, BINARY_CHARSET))
        rows: list[list[Value]] = []
        others = Privilege.PROCESS in self.facts.privileges
        for process in self._neighbours.processes():
            if not others and process.user != self.facts.user:
                continue
            info = None if process.info is None else process.info.encode()
            row: list[Value] = [
                b"%d" % process.connection_id,
                process.user.encode(),
                process.host.encode(),
                None if process.database is None else process.database.encode(),
                process.command.encode(),
                b"%d" % process.seconds,
                process.state.encode(),
                info if full or info is None else info[:100],
            ]
            rows.append([*row, b"0.000"] if self._view.mariadb else row)
        return ResultSet(columns, rows)

    def _show_events(self, show: ShowBinlogEvents) -> ResultSet:
        self._check_privilege("BINLOG EVENTS")
        columns = (
            text_column("Log_name", 80),
            integer_column("Pos", 12),
            text_column("Event_type", 80),
            integer_column("Server_id", 11, wide=False),
            integer_column("End_log_pos", 12),
            text_column("Info", 80),
        )
        events = self._view.events(show.file, show.position, show.offset, show.count)
        rows: Iterable[tuple[Value, ...]] = (
            (
                event.file.encode(),
                b"%d" % event.position,
                event.type_name.encode(),
                b"%d" % event.server_id,
                b"%d" % event.end_position,
                event.info.encode("utf-8", "replace"),
            )
            for event in events
        )
        return ResultSet(columns, rows)

    def _show_grants(self, show: ShowGrants) -> ResultSet:
        """One's own privileges. Whose the others are is in tables of a server that nobody here may read."""
        own, mariadb = self.facts.user, self._view.mariadb
        host = "%" if show.host is None or (mariadb and not show.host) else show.host
        if show.user is not None and mariadb and (show.user, host) != (own, "%"):
            raise error(ErrorCode.DBACCESS_DENIED, f"Access denied for user '{own}'@'%' to database 'mysql'")
        if show.user is not None and show.user != own:
            message = f"SELECT command denied to user '{own}'@'{self.facts.host}' for table 'user'"
            raise error(ErrorCode.TABLEACCESS_DENIED, message)
        if host != "%":
            message = f"There is no such grant defined for user '{own}' on host '{host}'"
            raise error(ErrorCode.NONEXISTING_GRANT, message)
        lines = grants(own, self.facts.privileges, require_tls=self.facts.require_tls, mariadb=mariadb)
        column = text_column(f"Grants for {own}@%", 4096)
        return ResultSet([column], [(line.encode("utf-8", "surrogateescape"),) for line in lines])

    def _show_warnings(self, show: ShowWarnings) -> ResultSet:
        count = self._left_behind(errors_only=show.errors_only)
        if show.count_only:
            name = "@@session.error_count" if show.errors_only else "@@session.warning_count"
            return ResultSet((integer_column(name, nullable=True),), [(b"%d" % count,)])
        columns = (text_column("Level", 28), integer_column("Code", 5, wide=False), text_column("Message", 2048))
        left = self._left
        if left is None or not count:
            return ResultSet(columns, [])
        return ResultSet(columns, [(left.level.encode(), b"%d" % left.code, left.message.encode("utf-8", "replace"))])

    def _left_behind(self, *, errors_only: bool) -> int:
        """How many errors, or errors and warnings, there are of the statement before."""
        return int(self._left is not None and not (errors_only and self._left.level != "Error"))


@dataclass(frozen=True, slots=True)
class _Left:
    """What SHOW WARNINGS tells of the statement before. level: Error or Warning."""

    level: str
    code: int
    message: str


_COUNTS: Final = frozenset(("error_count", "warning_count"))


def _counts_problems(item: Item) -> bool:
    """``@@error_count``: asks what the statement before has left behind, and leaves it there."""
    return isinstance(item.expression, SystemVariable) and item.expression.name.lower() in _COUNTS


def _printable(text: str) -> str:
    """`text` of a statement without what is no UTF-8."""
    return to_bytes(text).decode("utf-8", "replace")


# -- functions ---------------------------------------------------------------------------------------------------------

_LOCAL_TIME: Final = ("NOW", "CURRENT_TIMESTAMP", "LOCALTIME", "LOCALTIMESTAMP", "SYSDATE")
_DATETIME_FUNCTIONS: Final = frozenset((*_LOCAL_TIME, "UTC_TIMESTAMP"))


def _now(session: SqlSession) -> UserValue:
    return _time_in(session.time_zone() or UTC)


def _time_in(zone: tzinfo) -> bytes:
    return datetime.now(zone).strftime("%Y-%m-%d %H:%M:%S").encode()


def _user(session: SqlSession) -> UserValue:
    return f"{session.facts.user}@{session.facts.host}".encode()


def _current_user(session: SqlSession) -> UserValue:
    return f"{session.facts.user}@%".encode()


def _database(session: SqlSession) -> UserValue:
    return None if session.database is None else session.database.encode()


def _version(session: SqlSession) -> UserValue:
    return shown(session.variables.read("version")).encode()


_FUNCTIONS: Final[dict[str, Callable[[SqlSession], UserValue]]] = {
    **dict.fromkeys(_LOCAL_TIME, _now),
    "UTC_TIMESTAMP": lambda _: _time_in(UTC),
    **dict.fromkeys(("USER", "SESSION_USER", "SYSTEM_USER"), _user),
    "CURRENT_USER": _current_user,
    "DATABASE": _database,
    "SCHEMA": _database,
    "VERSION": _version,
    "CONNECTION_ID": lambda session: session.facts.connection_id,
    "UNIX_TIMESTAMP": lambda _: int(time.time()),
    "LAST_INSERT_ID": lambda _: 0,
    "ROW_COUNT": lambda _: 0,
    "UUID": lambda _: str(uuid.uuid1()).encode(),
}


def _wrong_count(name: str) -> MySQLError:
    return error(ErrorCode.WRONG_PARAMCOUNT, f"Incorrect parameter count in the call to native function '{name}'")


def _as_integer(value: bytes | int | Decimal) -> int | None:
    if isinstance(value, bytes):
        return int(value) if value.isdigit() and len(value) <= 20 else None
    return int(value)


# -- columns -----------------------------------------------------------------------------------------------------------


def _text_of(value: UserValue) -> Value:
    return value if value is None or isinstance(value, bytes) else str(value).encode()


def _user_column(label: bytes, value: UserValue, empty: ColumnType) -> tuple[Column, Value]:
    """User variables have types of their own: text is a LONG_BLOB with the connection's charset (captured)."""
    text = _text_of(value)
    match value:
        case bytes():
            return Column(label, ColumnType.LONG_BLOB, 268435440, 0, 31), text
        case int():
            return Column(label, ColumnType.LONGLONG, 21, ColumnFlag.BINARY, 0, BINARY_CHARSET), text
        case Decimal():
            return Column(label, ColumnType.NEWDECIMAL, 67, ColumnFlag.BINARY, 30, BINARY_CHARSET), text
        case None:
            length = 65532 if empty is ColumnType.VAR_STRING else 16777216
            return Column(label, empty, length, ColumnFlag.BINARY, 31, BINARY_CHARSET), None


def _variable_column(label: bytes, value: VariableValue) -> tuple[Column, Value]:
    if isinstance(value, bool):
        return Column(label, ColumnType.LONGLONG, 1, ColumnFlag.BINARY, 0, BINARY_CHARSET), b"%d" % value
    if isinstance(value, int):
        flags = ColumnFlag.BINARY | ColumnFlag.UNSIGNED
        return Column(label, ColumnType.LONGLONG, 21, flags, 0, BINARY_CHARSET), b"%d" % value
    return Column(label, ColumnType.VAR_STRING, 87380, 0, 31), None if value is None else value.encode()


def _literal_column(label: bytes, value: UserValue, *, nullable: bool = False) -> tuple[Column, Value]:
    text = _text_of(value)
    not_null = 0 if nullable else ColumnFlag.NOT_NULL
    match value:
        case bytes():
            return Column(label, ColumnType.VAR_STRING, max(4 * len(value), 256), not_null, 31), text
        case int():
            flags = ColumnFlag.BINARY | ColumnFlag.NOT_NULL
            return Column(label, ColumnType.LONGLONG, 21, flags, 0, BINARY_CHARSET), text
        case Decimal():
            exponent = value.as_tuple().exponent
            places = -exponent if isinstance(exponent, int) and exponent < 0 else 0
            flags = ColumnFlag.BINARY | ColumnFlag.NOT_NULL
            return Column(label, ColumnType.NEWDECIMAL, 67, flags, places, BINARY_CHARSET), text
        case None:
            if nullable:
                return Column(label, ColumnType.VAR_STRING, 256, 0, 31), None
            return Column(label, ColumnType.NULL, 0, ColumnFlag.BINARY, 0, BINARY_CHARSET), None


# -- conditions --------------------------------------------------------------------------------------------------------


def _holds(condition: Condition, row: dict[str, str]) -> bool:
    match condition:
        case Combined(operator="AND"):
            return all(_holds(part, row) for part in condition.parts)
        case Negated():
            return not _holds(condition.part, row)
        case Combined():
            return any(_holds(part, row) for part in condition.parts)
        case Comparison():
            text = row[condition.column]
            if condition.operator == "LIKE":
                found = like(text, condition.values[0])
            else:
                found = text.lower() in (value.lower() for value in condition.values)
            return found != condition.negated


def like(text: str, pattern: str) -> bool:
    """SQL's LIKE without regard to case: ``%`` any characters, ``_`` one, a backslash takes the next one as it is.

    Keeps one place to come back to (the last ``%``), so the work is at most len(text) * len(pattern), and bounded.
    """
    text, pattern = text.lower(), pattern.lower()
    at, place = 0, 0
    resume, marked = -1, 0
    for _ in range(_MAX_WILDCARD_STEPS):
        if place < len(pattern) and pattern[place] == "%":
            resume, marked = place + 1, at
            place += 1
            continue
        if at == len(text):
            return not pattern[place:].strip("%")
        if place < len(pattern):
            if pattern[place] == "_":
                at, place = at + 1, place + 1
                continue
            escaped = pattern[place] == "\\" and place + 1 < len(pattern)
            if pattern[place + escaped] == text[at]:
                at, place = at + 1, place + 1 + escaped
                continue
        if resume < 0:
            return False
        marked += 1
        at, place = marked, resume
    return False
