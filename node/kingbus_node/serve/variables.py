"""System variables: what clients ask of a source, with the values that are true of a node.

Replicas need a handful; drivers ask for two dozen when they connect (Connector/J, MariaDB Connector/J, HikariCP) and
fail on the first one that is unknown. Names, types and scopes are MySQL 9.7's and MariaDB 10.11's (captured). Session
variables may be SET and read back, as far as a node has an opinion on them; global ones cannot be changed from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from kingbus_node.serve.privileges import missing
from kingbus_node.serve.view import ServerView
from kingbus_node.wire.errors import ErrorCode, MySQLError, error

VariableValue = str | int | bool | None
"""A bool is 1 or 0 in SELECT and ON or OFF in SHOW."""


class Scope(Enum):
    """Where a variable exists."""

    GLOBAL = auto()
    SESSION = auto()
    BOTH = auto()


class Only(Enum):
    """The flavour that has a variable."""

    EITHER = auto()
    MYSQL = auto()
    MARIADB = auto()


Source = Callable[[ServerView], VariableValue]


@dataclass(frozen=True, slots=True)
class Variable:
    """One system variable. value: fixed, or computed from the server's state. least: of a number, that may be SET."""

    name: str
    scope: Scope
    value: VariableValue | Source
    only: Only = Only.EITHER
    least: int = 0

    def read(self, view: ServerView) -> VariableValue:
        """Its value now, global or a new session's."""
        return self.value(view) if callable(self.value) else self.value


_SQL_MODE_MYSQL: Final = (
    "ONLY_FULL_GROUP_BY,STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,"
    "NO_ENGINE_SUBSTITUTION"
)
_SQL_MODE_MARIADB: Final = "STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_AUTO_CREATE_USER,NO_ENGINE_SUBSTITUTION"


def _by_flavor(mysql: VariableValue, mariadb: VariableValue) -> Source:
    return lambda view: mariadb if view.mariadb else mysql


def _g(name: str, value: VariableValue | Source, only: Only = Only.EITHER) -> Variable:
    return Variable(name, Scope.GLOBAL, value, only)


def _b(name: str, value: VariableValue | Source, only: Only = Only.EITHER) -> Variable:
    return Variable(name, Scope.BOTH, value, only)


_COLLATION: Final = _by_flavor("utf8mb4_0900_ai_ci", "utf8mb4_general_ci")

_VARIABLES: Final = (
    # Identity and replication: what a replica decides by.
    _g("server_id", lambda view: view.server_id),
    _g("server_uuid", lambda view: view.server_uuid, Only.MYSQL),
    _g("version", lambda view: view.version),
    _g("version_comment", "Kingbus binlog server"),
    _g("version_compile_machine", "x86_64"),
    _g("version_compile_os", "Linux"),
    _g("hostname", lambda view: view.hostname),
    _g("port", lambda view: view.port),
    _g("protocol_version", 10),
    _g("protocol_compression_algorithms", lambda view: ",".join(view.compression_algorithms), Only.MYSQL),
    _g("log_bin", True),
    _g("log_bin_basename", "binlog"),
    _g("log_replica_updates", True, Only.MYSQL),
    _g("log_slave_updates", True),
    _g("read_only", True),
    _g("super_read_only", True, Only.MYSQL),
    _g("binlog_checksum", lambda view: view.checksum),
    _b("binlog_format", "ROW"),
    _b("binlog_row_image", "FULL"),
    _g("binlog_row_metadata", lambda view: view.row_metadata),
    _b("binlog_rows_query_log_events", False, Only.MYSQL),
    _b("binlog_transaction_compression", False, Only.MYSQL),
    _g("sync_binlog", 1),
    _g("max_binlog_size", 1073741824),
    _g("binlog_expire_logs_seconds", 0),
    # The old name in both flavours: replicas of MySQL 5.6 and of MariaDB look for it. One of MariaDB takes any row of
    # SHOW VARIABLES LIKE 'rpl_semi_sync_master_enabled', with whatever value, as a yes (seen with 10.11).
    _g("rpl_semi_sync_source_enabled", True, Only.MYSQL),
    _g("rpl_semi_sync_master_enabled", True),
    # GTIDs.
    _g("gtid_mode", "ON", Only.MYSQL),
    _g("enforce_gtid_consistency", "ON", Only.MYSQL),
    _g("gtid_executed", lambda view: view.executed(), Only.MYSQL),
    _g("gtid_purged", lambda view: view.purged(), Only.MYSQL),
    _g("gtid_executed_compression_period", 0, Only.MYSQL),
    _b("gtid_owned", "", Only.MYSQL),
    Variable("gtid_next", Scope.SESSION, "AUTOMATIC", Only.MYSQL),
    _b("gtid_domain_id", 0, Only.MARIADB),
    _g("gtid_binlog_pos", lambda view: view.executed(), Only.MARIADB),
    _g("gtid_binlog_state", lambda view: view.binlog_state(), Only.MARIADB),
    _g("gtid_current_pos", lambda view: view.executed(), Only.MARIADB),
    _g("gtid_slave_pos", "", Only.MARIADB),
    _g("gtid_strict_mode", False, Only.MARIADB),
    _g("gtid_ignore_duplicates", False, Only.MARIADB),
    # What drivers ask for when they connect.
    _b("auto_increment_increment", 1),
    _b("auto_increment_offset", 1),
    _b("autocommit", True),
    _b("character_set_client", "utf8mb4"),
    _b("character_set_connection", "utf8mb4"),
    _b("character_set_database", "utf8mb4"),
    _g("character_set_system", "utf8mb3"),
    _b("character_set_results", "utf8mb4"),
    _b("character_set_server", "utf8mb4"),
    _b("collation_connection", _COLLATION),
    _b("collation_database", _COLLATION),
    _b("collation_server", _COLLATION),
    _b("default_storage_engine", "InnoDB"),
    _b("foreign_key_checks", True),
    _g("have_ssl", "YES", Only.MARIADB),
    _g("init_connect", ""),
    Variable("interactive_timeout", Scope.BOTH, 28800, least=1),
    _b("information_schema_stats_expiry", 86400, Only.MYSQL),
    _g("license", "Apache-2.0"),
    _b("lock_wait_timeout", 31536000),
    _g("lower_case_table_names", 0),
    _b("max_allowed_packet", _by_flavor(67108864, 16777216)),
    _g("max_connections", lambda view: view.max_connections),
    _b("max_execution_time", 0, Only.MYSQL),
    _b("max_statement_time", 0, Only.MARIADB),
    _b("net_buffer_length", 16384),
    _b("net_read_timeout", 30),
    _b("net_write_timeout", 60),
    _b("optimizer_switch", ""),
    _g("performance_schema", False),
    _b("query_cache_size", 0, Only.MARIADB),
    _b("query_cache_type", "OFF", Only.MARIADB),
    _g("require_secure_transport", lambda view: view.tls_required),
    _b("sql_auto_is_null", False),
    _b("sql_log_bin", True),
    _b("sql_mode", _by_flavor(_SQL_MODE_MYSQL, _SQL_MODE_MARIADB)),
    _b("sql_notes", True),
    _b("sql_quote_show_create", True),
    _b("sql_select_limit", 18446744073709551615),
    _b("sql_warnings", False),
    _g("system_time_zone", "UTC"),
    _b("time_zone", "SYSTEM"),
    _b("transaction_isolation", "REPEATABLE-READ"),
    _b("transaction_read_only", False),
    _b("tx_isolation", "REPEATABLE-READ", Only.MARIADB),
    _b("tx_read_only", False, Only.MARIADB),
    _b("unique_checks", True),
    Variable("wait_timeout", Scope.BOTH, 28800, least=1),
)

_BY_NAME: Final = {variable.name: variable for variable in _VARIABLES}


def _exists(variable: Variable, view: ServerView) -> bool:
    return variable.only is Only.EITHER or (variable.only is Only.MARIADB) == view.mariadb


def unknown_variable(name: str) -> MySQLError:
    """ER_UNKNOWN_SYSTEM_VARIABLE: replicas and drivers act on this number."""
    return error(ErrorCode.UNKNOWN_SYSTEM_VARIABLE, f"Unknown system variable '{name}'")


class SystemVariables:
    """The variables as one session sees them: the server's, and what the session has SET."""

    def __init__(self, view: ServerView) -> None:
        self._view = view
        self._own: dict[str, VariableValue] = {}

    def find(self, name: str) -> Variable:
        """The variable of this name, in any case; 1193 when the flavour has none."""
        variable = _BY_NAME.get(name.lower())
        if variable is None or not _exists(variable, self._view):
            raise unknown_variable(name)
        return variable

    def read(self, name: str, scope: str = "") -> VariableValue:
        """``@@name``, ``@@GLOBAL.name``, ``@@SESSION.name`` (`scope` is GLOBAL, SESSION or '')."""
        variable = self.find(name)
        if scope == "GLOBAL" and variable.scope is Scope.SESSION:
            raise error(ErrorCode.INCORRECT_GLOBAL_LOCAL_VAR, f"Variable '{variable.name}' is a SESSION variable")
        if scope == "SESSION" and variable.scope is Scope.GLOBAL and not self._view.mariadb:
            raise error(ErrorCode.INCORRECT_GLOBAL_LOCAL_VAR, f"Variable '{variable.name}' is a GLOBAL variable")
        if scope != "GLOBAL" and variable.name in self._own:
            return self._own[variable.name]
        return variable.read(self._view)

    def check_settable(self, name: str, scope: str) -> Variable:
        """The variable, if a session may SET it; else the error that says why not."""
        variable = self.find(name)
        if scope == "GLOBAL":
            raise missing("SUPER or SYSTEM_VARIABLES_ADMIN", "SUPER", mariadb=self._view.mariadb)
        if variable.scope is Scope.GLOBAL:
            raise error(
                ErrorCode.GLOBAL_VARIABLE,
                f"Variable '{variable.name}' is a GLOBAL variable and should be set with SET GLOBAL",
            )
        return variable

    def write(self, variable: Variable, value: VariableValue) -> None:
        """SET a session variable; None means DEFAULT. 1231, 1232 for a value of the wrong kind."""
        if value is None:
            self._own.pop(variable.name, None)
            return
        self._own[variable.name] = self.converted(variable, value)

    def converted(self, variable: Variable, value: VariableValue) -> VariableValue:
        """What `write` makes of a value, and its errors."""
        return _converted(variable, value, variable.read(self._view))

    def reset(self) -> None:
        """Forget what the session has SET."""
        self._own.clear()

    def listed(self, *, global_only: bool) -> Iterator[tuple[str, str]]:
        """Names and texts for SHOW VARIABLES, by name."""
        for name in sorted(_BY_NAME):
            variable = _BY_NAME[name]
            if not _exists(variable, self._view) or (global_only and variable.scope is Scope.SESSION):
                continue
            yield name, shown(self.read(name, "GLOBAL" if global_only else ""))


def shown(value: VariableValue) -> str:
    """A value as SHOW VARIABLES prints it."""
    if isinstance(value, bool):
        return "ON" if value else "OFF"
    return "" if value is None else str(value)


_MOST: Final = (1 << 64) - 1
_MAX_TEXT: Final = 4096
"""Characters: no value that a variable can have on a server is as long, and each session may keep one of each."""
_TRUTHS: Final[dict[str, bool]] = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}


def _converted(variable: Variable, value: VariableValue, now: VariableValue) -> VariableValue:
    """`value` as the kind that the variable has now; a number that is out of bounds becomes the nearest one that is
    not, as with the servers.
    """
    if isinstance(now, bool):
        truth = _TRUTHS.get(str(int(value) if isinstance(value, bool) else value).lower())
        if truth is None:
            raise error(
                ErrorCode.WRONG_VALUE_FOR_VAR, f"Variable '{variable.name}' can't be set to the value of '{value}'"
            )
        return truth
    if isinstance(now, int):
        if isinstance(value, str):
            raise error(ErrorCode.WRONG_TYPE_FOR_VAR, f"Incorrect argument type to variable '{variable.name}'")
        return min(max(int(value or 0), variable.least), _MOST)
    text = str(int(value)) if isinstance(value, bool) else str(value)
    if len(text) > _MAX_TEXT:
        raise error(
            ErrorCode.WRONG_VALUE_FOR_VAR, f"Variable '{variable.name}' can't be set to the value of '{text[:64]}'"
        )
    return text
