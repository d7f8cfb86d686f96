"""SHOW REPLICA STATUS: the cluster as a replica of its source, in the columns of both flavours.

The columns and their order are those of MySQL 9.7.4 (and, with the old words, of MySQL 5.7 to 8.3) and of MariaDB 10.11
(captured); monitoring finds values by column name. A node has no relay log and no applier: what is committed counts as
both received and executed, so the relay log columns repeat the source's coordinates.
"""

from __future__ import annotations

from typing import Final

from kingbus_node.wire.resultset import (
    BINARY_CHARSET,
    Column,
    ColumnFlag,
    ColumnType,
    ResultSet,
    Value,
    integer_column,
    text_column,
)

# (name, the key of the value in what the core reports, whether it is a number). "" means that a node has nothing to
# say: 0 or ''.
_COLUMNS: Final = (
    ("Replica_IO_State", "io_state", False),
    ("Source_Host", "host", False),
    ("Source_User", "user", False),
    ("Source_Port", "port", True),
    ("Connect_Retry", "connect_retry", True),
    ("Source_Log_File", "file", False),
    ("Read_Source_Log_Pos", "position", True),
    ("Relay_Log_File", "file", False),
    ("Relay_Log_Pos", "position", True),
    ("Relay_Source_Log_File", "file", False),
    ("Replica_IO_Running", "io_running", False),
    ("Replica_SQL_Running", "sql_running", False),
    ("Replicate_Do_DB", "", False),
    ("Replicate_Ignore_DB", "", False),
    ("Replicate_Do_Table", "", False),
    ("Replicate_Ignore_Table", "", False),
    ("Replicate_Wild_Do_Table", "", False),
    ("Replicate_Wild_Ignore_Table", "", False),
    ("Last_Errno", "error_code", True),
    ("Last_Error", "error", False),
    ("Skip_Counter", "", True),
    ("Exec_Source_Log_Pos", "position", True),
    ("Relay_Log_Space", "log_bytes", True),
    ("Until_Condition", "until", False),
    ("Until_Log_File", "", False),
    ("Until_Log_Pos", "", True),
    ("Source_SSL_Allowed", "tls", False),
    ("Source_SSL_CA_File", "", False),
    ("Source_SSL_CA_Path", "", False),
    ("Source_SSL_Cert", "", False),
    ("Source_SSL_Cipher", "", False),
    ("Source_SSL_Key", "", False),
    ("Seconds_Behind_Source", "lag_seconds", True),
    ("Source_SSL_Verify_Server_Cert", "tls_verify", False),
    ("Last_IO_Errno", "error_code", True),
    ("Last_IO_Error", "error", False),
    ("Last_SQL_Errno", "", True),
    ("Last_SQL_Error", "", False),
    ("Replicate_Ignore_Server_Ids", "", False),
    ("Source_Server_Id", "server_id", True),
)
_MYSQL_TAIL: Final = (
    ("Source_UUID", "uuid", False),
    ("Source_Info_File", "", False),
    ("SQL_Delay", "", True),
    ("SQL_Remaining_Delay", "unknown", True),
    ("Replica_SQL_Running_State", "sql_state", False),
    ("Source_Retry_Count", "", True),
    ("Source_Bind", "", False),
    ("Last_IO_Error_Timestamp", "", False),
    ("Last_SQL_Error_Timestamp", "", False),
    ("Source_SSL_Crl", "", False),
    ("Source_SSL_Crlpath", "", False),
    ("Retrieved_Gtid_Set", "executed", False),
    ("Executed_Gtid_Set", "executed", False),
    ("Auto_Position", "auto_position", True),
    ("Replicate_Rewrite_DB", "", False),
    ("Channel_Name", "", False),
    ("Source_TLS_Version", "", False),
    ("Source_public_key_path", "", False),
    ("Get_Source_public_key", "", True),
    ("Network_Namespace", "", False),
)
_MARIADB_TAIL: Final = (
    ("Source_SSL_Crl", "", False),
    ("Source_SSL_Crlpath", "", False),
    ("Using_Gtid", "using_gtid", False),
    ("Gtid_IO_Pos", "executed", False),
    ("Replicate_Do_Domain_Ids", "", False),
    ("Replicate_Ignore_Domain_Ids", "", False),
    ("Parallel_Mode", "", False),
    ("SQL_Delay", "", True),
    ("SQL_Remaining_Delay", "unknown", True),
    ("Replica_SQL_Running_State", "sql_state", False),
    ("Replica_DDL_Groups", "", True),
    ("Replica_Non_Transactional_Groups", "", True),
    ("Replica_Transactional_Groups", "", True),
    ("Replicate_Rewrite_DB", "", False),
)
_NARROW: Final = frozenset(
    ("Source_Port", "Connect_Retry", "Last_Errno", "Skip_Counter", "Last_IO_Errno", "Last_SQL_Errno",
     "Source_Server_Id", "SQL_Delay", "SQL_Remaining_Delay", "Auto_Position", "Get_Source_public_key",
     "Retried_transactions", "Executed_log_entries", "Replica_received_heartbeats")
)  # fmt: skip
"""Numbers of 32 bits (LONG); the others have 64 (captured)."""
_MAY_BE_NULL: Final = frozenset(("lag_seconds", "unknown"))


def _old_words(name: str) -> str:
    return name.replace("Source", "Master").replace("Replica_", "Slave_").replace("source_public", "master_public")


# What MariaDB's SHOW ALL SLAVES STATUS says besides, before and after.
_ALL_HEAD: Final = (("Connection_name", "", False), ("Replica_SQL_State", "sql_state", False))
_ALL_TAIL: Final = (
    ("Retried_transactions", "", True),
    ("Max_relay_log_size", "", True),
    ("Executed_log_entries", "", True),
    ("Replica_received_heartbeats", "", True),
    ("Replica_heartbeat_period", "heartbeat", False),
    ("Gtid_Replica_Pos", "executed", False),
)


def replica_status(
    report: dict[str, str | int | None], *, mariadb: bool, source_words: bool, all_channels: bool = False
) -> ResultSet:
    """The answer to SHOW REPLICA STATUS; no row when `report` is empty (the source is not configured).

    Keys of `report`: io_state, host, user, port, connect_retry, file, position, io_running and sql_running (Yes, No,
    Connecting), error_code, error, log_bytes, until, tls (Yes, No), tls_verify, lag_seconds (None: not known),
    server_id, uuid, sql_state, executed, auto_position, using_gtid. What is missing shows as 0 or ''.
    """
    columns: list[Column] = []
    row: list[Value] = []
    listed = _COLUMNS + (_MARIADB_TAIL if mariadb else _MYSQL_TAIL)
    for name, key, number in (*_ALL_HEAD, *listed, *_ALL_TAIL) if all_channels else listed:
        label = name if source_words and not mariadb else _old_words(name)
        if number:
            wide = name not in _NARROW
            columns.append(integer_column(label, 21 if wide else 11, wide=wide))
        elif key == "heartbeat":
            flags = ColumnFlag.BINARY | ColumnFlag.NOT_NULL
            columns.append(Column(label.encode(), ColumnType.DOUBLE, 9, flags, 3, BINARY_CHARSET))
        else:
            columns.append(text_column(label, 4096))
        value = report.get(key)
        if value is None and key in _MAY_BE_NULL:  # although the columns say NOT NULL, as the servers' do (captured)
            row.append(None)
        elif key == "heartbeat":
            row.append(b"0.000")
        elif number:
            row.append(b"%d" % int(value or 0))
        else:
            row.append(str("" if value is None else value).encode())
    return ResultSet(columns, [row] if report else [])
