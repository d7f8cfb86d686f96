"""Errors of the protocol: the number, SQLSTATE and text that a client of a real server would get.

Numbers and SQLSTATEs are those of MySQL's error reference ("Server Error Message Reference"); MariaDB uses the same
ones for all that is listed here. Texts are the servers' own because people search for them and clients match on them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class ErrorCode(IntEnum):
    """Server error numbers that a node sends."""

    CON_COUNT = 1040
    OUT_OF_RESOURCES = 1041
    HANDSHAKE = 1043
    DBACCESS_DENIED = 1044
    ACCESS_DENIED = 1045
    NO_DB = 1046
    UNKNOWN_COM = 1047
    BAD_DB = 1049
    SERVER_SHUTDOWN = 1053
    BAD_FIELD = 1054
    PARSE = 1064
    EMPTY_QUERY = 1065
    NO_SUCH_THREAD = 1094
    KILL_DENIED = 1095
    NO_TABLES_USED = 1096
    UNKNOWN_ERROR = 1105
    UNKNOWN_TABLE = 1109
    UNKNOWN_CHARACTER_SET = 1115
    NONEXISTING_GRANT = 1141
    TABLEACCESS_DENIED = 1142
    NO_SUCH_TABLE = 1146
    NET_PACKET_TOO_LARGE = 1153
    NET_PACKETS_OUT_OF_ORDER = 1156
    NET_READ_ERROR = 1158
    NET_READ_INTERRUPTED = 1159
    UNKNOWN_SYSTEM_VARIABLE = 1193
    LOCAL_VARIABLE = 1228
    GLOBAL_VARIABLE = 1229
    ERROR_WHEN_EXECUTING_COMMAND = 1220
    SPECIFIC_ACCESS_DENIED = 1227
    WRONG_ARGUMENTS = 1210
    WRONG_VALUE_FOR_VAR = 1231
    WRONG_TYPE_FOR_VAR = 1232
    NO_MASTER_CONNECTION = 1617  # MariaDB's
    NO_CHANNEL = 3074
    NOT_SUPPORTED_YET = 1235
    MASTER_FATAL_ERROR_READING_BINLOG = 1236
    INCORRECT_GLOBAL_LOCAL_VAR = 1238
    NOT_SUPPORTED_AUTH_MODE = 1251
    OPTION_PREVENTS_STATEMENT = 1290
    UNKNOWN_TIME_ZONE = 1298
    UNKNOWN_TARGET_BINLOG = 1373
    SP_DOES_NOT_EXIST = 1305
    WRONG_PARAMCOUNT = 1582
    WRONG_PARAMETERS_TO_NATIVE_FCT = 1583
    QUERY_INTERRUPTED = 1317
    MALFORMED_PACKET = 1835
    WARN_PURGE_LOG_IN_USE = 1867
    MALFORMED_GTID_SET_SPECIFICATION = 1772
    MALFORMED_GTID_SET_ENCODING = 1773
    INCORRECT_GTID_STATE = 1941
    DUPLICATE_GTID_DOMAIN = 1943
    SECURE_TRANSPORT_REQUIRED = 3159
    WRONG_COMPRESSION_ALGORITHM_CLIENT = 3922
    WRONG_COMPRESSION_LEVEL_CLIENT = 3923
    CLIENT_INTERACTION_TIMEOUT = 4031
    SLAVE_SAME_ID = 4052  # MariaDB's


GENERAL_SQLSTATE: Final = "HY000"

_SQLSTATES: Final[dict[int, str]] = {
    ErrorCode.CON_COUNT: "08004",
    ErrorCode.HANDSHAKE: "08S01",
    ErrorCode.DBACCESS_DENIED: "42000",
    ErrorCode.ACCESS_DENIED: "28000",
    ErrorCode.NO_DB: "3D000",
    ErrorCode.BAD_DB: "42000",
    ErrorCode.BAD_FIELD: "42S22",
    ErrorCode.UNKNOWN_TABLE: "42S02",
    ErrorCode.NONEXISTING_GRANT: "42000",
    ErrorCode.TABLEACCESS_DENIED: "42000",
    ErrorCode.NO_SUCH_TABLE: "42S02",
    ErrorCode.UNKNOWN_COM: "08S01",
    ErrorCode.SERVER_SHUTDOWN: "08S01",
    ErrorCode.PARSE: "42000",
    ErrorCode.EMPTY_QUERY: "42000",
    ErrorCode.UNKNOWN_CHARACTER_SET: "42000",
    ErrorCode.NET_PACKET_TOO_LARGE: "08S01",
    ErrorCode.NET_PACKETS_OUT_OF_ORDER: "08S01",
    ErrorCode.NET_READ_ERROR: "08S01",
    ErrorCode.NET_READ_INTERRUPTED: "08S01",
    ErrorCode.SPECIFIC_ACCESS_DENIED: "42000",
    ErrorCode.WRONG_VALUE_FOR_VAR: "42000",
    ErrorCode.WRONG_TYPE_FOR_VAR: "42000",
    ErrorCode.NOT_SUPPORTED_YET: "42000",
    ErrorCode.NOT_SUPPORTED_AUTH_MODE: "08004",
    ErrorCode.SP_DOES_NOT_EXIST: "42000",
    ErrorCode.WRONG_PARAMCOUNT: "42000",
    ErrorCode.WRONG_PARAMETERS_TO_NATIVE_FCT: "42000",
    ErrorCode.QUERY_INTERRUPTED: "70100",
}


class MySQLError(Exception):
    """An error that goes to the client as an ERR packet.

    `code`: the server error number. `sqlstate`: five characters. `message`: the text without "ERROR 1234 (xxxxx)".
    Whether the connection stays open is for whoever catches it to decide; see `ProtocolError`.
    """

    def __init__(self, code: int, sqlstate: str, message: str) -> None:
        if len(sqlstate) != 5:
            raise ValueError(f"an SQLSTATE has five characters, not {sqlstate!r}")
        super().__init__(f"{int(code)} ({sqlstate}): {message}")
        self.code = int(code)
        self.sqlstate = sqlstate
        self.message = message


class ProtocolError(MySQLError):
    """The peer broke the protocol: it is told (when it can still be told), and the connection ends."""


def sqlstate_of(code: int) -> str:
    """The SQLSTATE that the server's error reference gives for `code` (HY000 when it has no own one)."""
    return _SQLSTATES.get(code, GENERAL_SQLSTATE)


def error(code: int, message: str) -> MySQLError:
    """A `MySQLError` with the SQLSTATE that belongs to `code`."""
    return MySQLError(code, sqlstate_of(code), message)


def malformed(what: str) -> ProtocolError:
    """ER_MALFORMED_PACKET. `what` says which field of which packet (the servers only say "Malformed communication
    packet.").
    """
    return ProtocolError(
        ErrorCode.MALFORMED_PACKET, sqlstate_of(ErrorCode.MALFORMED_PACKET), f"Malformed communication packet: {what}"
    )


def out_of_order() -> ProtocolError:
    """ER_NET_PACKETS_OUT_OF_ORDER: a packet's sequence number was not the next one."""
    code = ErrorCode.NET_PACKETS_OUT_OF_ORDER
    return ProtocolError(code, sqlstate_of(code), "Got packets out of order")


def too_large() -> ProtocolError:
    """ER_NET_PACKET_TOO_LARGE: a packet is longer than this stage of the connection allows."""
    code = ErrorCode.NET_PACKET_TOO_LARGE
    return ProtocolError(code, sqlstate_of(code), "Got a packet bigger than 'max_allowed_packet' bytes")


def bad_handshake() -> ProtocolError:
    """ER_HANDSHAKE_ERROR: what came instead of a handshake response cannot be read as one."""
    return ProtocolError(ErrorCode.HANDSHAKE, sqlstate_of(ErrorCode.HANDSHAKE), "Bad handshake")


def access_denied(user: str, host: str, *, using_password: bool) -> MySQLError:
    """ER_ACCESS_DENIED_ERROR, with the text that every client knows."""
    answer = "YES" if using_password else "NO"
    return error(ErrorCode.ACCESS_DENIED, f"Access denied for user '{user}'@'{host}' (using password: {answer})")


def shutting_down() -> MySQLError:
    """ER_SERVER_SHUTDOWN: replicas treat it as a lost connection, and come back."""
    return error(ErrorCode.SERVER_SHUTDOWN, "Server shutdown in progress")


def unknown_command() -> MySQLError:
    """ER_UNKNOWN_COM_ERROR: a command byte that a node does not carry out."""
    return error(ErrorCode.UNKNOWN_COM, "Unknown command")
