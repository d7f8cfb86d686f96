"""Whether two servers hold the same tables with the same rows, whatever their versions.

CHECKSUM TABLE depends on the row format and so on the version; here each row is hashed from the text of its columns,
and a table's checksum is the number of its rows and the sum of their hashes, which does not depend on their order.
"""

from __future__ import annotations

from dataclasses import dataclass

from kingbus_node.demo.instance import Server, text

__all__ = ["TableSum", "differences", "table_sums"]

_SYSTEM = "('mysql', 'sys', 'information_schema', 'performance_schema')"
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class TableSum:
    """What is compared of one table."""

    columns: tuple[str, ...]
    """`name type` in order; types are left out where the flavours or versions write them differently."""
    rows: int
    checksum: int


def table_sums(server: Server) -> dict[str, TableSum]:
    """The sums of all tables that are not the server's own, by `schema.table`."""
    columns: dict[str, list[str]] = {}
    for schema, table, column in server.sql(
        "SELECT table_schema, table_name, column_name FROM information_schema.columns JOIN information_schema.tables"
        f" USING (table_schema, table_name) WHERE table_type = 'BASE TABLE' AND table_schema NOT IN {_SYSTEM}"
        " ORDER BY table_schema, table_name, ordinal_position"
    ):
        columns.setdefault(f"{text(schema)}.{text(table)}", []).append(text(column))
    sums = {}
    for table, names in columns.items():
        statement = (
            f"SELECT COUNT(*), COALESCE(SUM(CONV(LEFT({_row_hash(names)}, 14), 16, 10)), 0) FROM {_quoted(table)}"
        )
        ((rows, checksum),) = server.sql(statement)
        sums[table] = TableSum(tuple(names), int(rows or 0), int(checksum or 0))
    return sums


def differences(left: Server, right: Server) -> list[str]:
    """One sentence for each difference; none means that both hold the same."""
    found = []
    a, b = table_sums(left), table_sums(right)
    for table in sorted(a.keys() | b.keys()):
        if table not in a or table not in b:
            found.append(f"{table} is only on {left if table in a else right!r}")
        elif a[table].columns != b[table].columns:
            found.append(f"{table} has the columns {a[table].columns} on {left!r}, {b[table].columns} on {right!r}")
        elif a[table] != b[table]:
            found.append(_row_differences(table, a[table].columns, left, right))
    return found


def _row_differences(table: str, columns: tuple[str, ...], left: Server, right: Server) -> str:
    """Which rows differ: the first column (the key, in most tables) of the first few."""
    statement = f"SELECT `{columns[0]}`, {_row_hash(columns)} FROM {_quoted(table)}"
    a, b = left.sql(statement), right.sql(statement)
    only_a, only_b = set(a) - set(b), set(b) - set(a)
    shown = {
        repr(server): sorted(str(row[0])[:40] for row in rows)[:_SHOWN]
        for server, rows in ((left, only_a), (right, only_b))
    }
    return f"{table} has {len(a)} rows on {left!r}, {len(b)} on {right!r}; rows found on one side only: {shown}"


def _row_hash(columns: tuple[str, ...] | list[str]) -> str:
    """SQL for the SHA-256 of a row in hexadecimal (there is no SHA1 in MySQL 9.6 and newer).

    NULL differs from every value, JSON goes by its text.
    """
    parts = ", ".join(f"IFNULL(SHA2(CONCAT(`{name}`), 256), '-')" for name in columns)
    return f"SHA2(CONCAT_WS(',', {parts}), 256)"


def _quoted(table: str) -> str:
    schema, _, name = table.partition(".")
    return f"`{schema}`.`{name}`"
