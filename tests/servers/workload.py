"""Data of every kind that goes through a binary log, written to a source.

Each function writes one kind and may be called again and again, also by several threads at once: keys come from one
counter. What a function writes is deterministic but for the order between threads.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from random import Random

import pymysql
from pymysql.connections import Connection
from pymysql.cursors import Cursor

from kingbus_node.demo.instance import Server
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until
from servers.repeating import repeating

PACKET_LIMIT = 0xFFFFFF
"""The longest payload of one packet; an event needs one byte more than its own size."""

_TABLES = """
CREATE TABLE IF NOT EXISTS w.rows_ (id BIGINT PRIMARY KEY, n INT, t VARCHAR(200) CHARACTER SET utf8mb4, d DATETIME(6));
CREATE TABLE IF NOT EXISTS w.documents (id BIGINT PRIMARY KEY, j JSON);
CREATE TABLE IF NOT EXISTS w.blobs (id BIGINT PRIMARY KEY, b LONGBLOB);
CREATE TABLE IF NOT EXISTS w.plain (id BIGINT PRIMARY KEY, t VARCHAR(100)) ENGINE = MyISAM;
CREATE TABLE IF NOT EXISTS w.kinds (
    id BIGINT PRIMARY KEY, f DOUBLE, x DECIMAL(30, 10), y YEAR, i TIME(3), s TIMESTAMP NULL, e ENUM('a', 'b'),
    m SET('x', 'y', 'z'), bits BIT(13), g GEOMETRY, c CHAR(10) CHARACTER SET latin1, v VARBINARY(9))
"""


class Workload:
    """Writes to one source. `create` comes first; `everything` does one round of all kinds."""

    def __init__(self, source: Server) -> None:
        self.source = source
        self._ids = itertools.count(1)

    def at(self, source: Server) -> Workload:
        """The same, written to another server from now on, which has what was written so far."""
        moved = Workload(source)
        moved._ids = self._ids
        return moved

    @property
    def _mysql(self) -> bool:
        return self.source.flavor is Flavor.MYSQL

    def create(self) -> Workload:
        """The schema and its tables."""
        self.source.sql("CREATE DATABASE IF NOT EXISTS w", *_TABLES.split(";"))
        return self

    def kinds(self) -> dict[str, Callable[[], None]]:
        """All kinds but huge blobs, by name, as far as the source's flavour has them."""
        common: tuple[Callable[[], None], ...] = (
            self.small,
            self.many_rows,
            self.changes,
            self.documents,
            self.column_types,
            self.blobs,
            self.plain,
            self.xa,
            self.ddl,
            self.savepoints,
            self.routines,
            self.statements,
            self.temporary_tables,
            self.flush_logs,
        )
        own = (
            (self.compressed, self.tagged)
            if self._mysql
            else (self.compressed_events, self.domains, self.mixed_engines)
        )
        return {function.__name__: function for function in (*common, *own)}

    def everything(self) -> None:
        """One round of all kinds."""
        for kind in self.kinds().values():
            kind()

    def _run(self, *statements: str) -> None:
        self.source.sql("USE w", *statements)

    def _id(self) -> int:
        return next(self._ids)

    def small(self, count: int = 50) -> None:
        """Transactions of one row, each committed by itself."""
        self._run(*(self._insert(self._id()) for _ in range(count)))

    def _insert(self, key: int) -> str:
        return f"INSERT INTO rows_ VALUES ({key}, {key % 97}, 'row {key} ä€😀', NOW(6))"

    def many_rows(self, rows: int = 5_000) -> None:
        """One transaction of thousands of rows, in several statements."""
        statements = []
        for batch in _batches(rows, 1_000):
            values = ", ".join(
                f"({key}, {n % 97}, REPEAT('x', {n % 150}), NOW(6))" for n in batch if (key := self._id())
            )
            statements.append(f"INSERT INTO rows_ VALUES {values}")
        self._run("BEGIN", *statements, "COMMIT")

    def changes(self) -> None:
        """Updates, deletes, a replace, a rolled back transaction, a transaction that changes nothing."""
        first, second, third = self._id(), self._id(), self._id()
        self._run(
            self._insert(first),
            self._insert(second),
            self._insert(third),
            f"UPDATE rows_ SET t = REVERSE(t), n = NULL WHERE id IN ({first}, {second})",
            f"DELETE FROM rows_ WHERE id = {second}",
            f"REPLACE INTO rows_ VALUES ({first}, 1, 'replaced', NULL)",
            "BEGIN",
            f"UPDATE rows_ SET n = 5 WHERE id = {third}",
            "ROLLBACK",
            "BEGIN",
            f"UPDATE rows_ SET n = n WHERE id = {third}",
            "COMMIT",
        )

    def documents(self) -> None:
        """JSON: inserts, an update, and (MySQL) updates logged as differences."""
        key = self._id()
        document = '{"a": [1, 2.5, null, true], "b": {"c": "ü"}, "d": "%s"}' % ("y" * 300)
        self._run(
            f"INSERT INTO documents VALUES ({key}, '{document}')",
            f"UPDATE documents SET j = JSON_SET(j, '$.a[0]', {key}, '$.new', 'value') WHERE id = {key}",
            f"INSERT INTO documents VALUES ({self._id()}, NULL)",
        )
        if self._mysql:
            self._run(
                "SET SESSION binlog_row_value_options = PARTIAL_JSON, SESSION binlog_row_image = MINIMAL",
                f"UPDATE documents SET j = JSON_REPLACE(j, '$.b.c', 'short') WHERE id = {key}",
            )

    def column_types(self) -> None:
        """One row with every kind of column, one with NULLs only."""
        self._run(
            f"INSERT INTO kinds VALUES ({self._id()}, 1.5e300, -12345678901234567890.0123456789, 2024, '-12:34:56.789',"
            " NOW(), 'b', 'x,z', b'1010101010101', ST_GeomFromText('POLYGON((0 0,0 5,5 5,5 0,0 0))'), _utf8mb4'äöü',"
            " X'00ff5c27')",
            f"INSERT INTO kinds (id) VALUES ({self._id()})",
        )

    def blobs(self, sizes: tuple[int, ...] = (0, 1, 65_535, 1_000_000)) -> None:
        """Blobs of exactly these many bytes, each in a transaction of its own."""
        self._run(*(self._blob(size) for size in sizes))

    def _blob(self, size: int) -> str:
        pattern = "00ff5c270a0dfe"
        return f"INSERT INTO blobs VALUES ({self._id()}, LEFT(REPEAT(X'{pattern}', {size // 7 + 1}), {size}))"

    def event_sizes(self, sizes: tuple[int, ...]) -> None:
        """Blobs whose row events, header and checksum included, have exactly these many bytes."""
        trial = 1_000
        with closing(self.source.connect(database="w")) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW BINARY LOG STATUS" if self._mysql else "SHOW MASTER STATUS")
            file, position = cursor.fetchall()[0][:2]
            cursor.execute(self._blob(trial))
            cursor.execute(f"SHOW BINLOG EVENTS IN '{file}' FROM {position}")
            events = [row for row in cursor.fetchall() if str(row[2]).lower().startswith("write_rows")]
        overhead = events[0][4] - events[0][1] - trial
        self.blobs(tuple(size - overhead for size in sizes))

    def plain(self) -> None:
        """A table without transactions."""
        key = self._id()
        self._run(
            f"INSERT INTO plain VALUES ({key}, 'a'), ({self._id()}, 'b')",
            f"UPDATE plain SET t = 'c' WHERE id = {key}",
            f"DELETE FROM plain WHERE id = {key}",
        )

    def xa(self) -> None:
        """XA transactions: two phases, one phase, rolled back, and one committed by another session after others."""
        one, two, three, four = (f"'x{self._id()}'" for _ in range(4))  # a parallel applier needs distinct names
        branch = f"{one}, 'branch', 7"
        self._run(*self._xa_work(branch), f"XA PREPARE {branch}", f"XA COMMIT {branch}")
        self._run(*self._xa_work(two), f"XA COMMIT {two} ONE PHASE")
        self._run(*self._xa_work(three), f"XA PREPARE {three}", f"XA ROLLBACK {three}")
        self._run(*self._xa_work(four), f"XA PREPARE {four}")
        self.small(2)
        # The session that prepared it is gone once the server has noticed; then any other may commit.
        wait_until(lambda: self._xa_committed(four), 30, f"XA COMMIT of {four}")

    def _xa_work(self, name: str) -> tuple[str, str, str]:
        return f"XA START {name}", self._insert(self._id()), f"XA END {name}"

    def _xa_committed(self, name: str) -> bool:
        try:
            self._run(f"XA COMMIT {name}")
        except pymysql.err.MySQLError as error:
            if error.args[0] == 1397:  # ER_XAER_NOTA: still owned by its session
                return False
            raise
        return True

    def ddl(self) -> None:
        """Statements outside transactions, some of which look like transactions."""
        name = f"ddl_{self._id()}"
        self._run(
            f"CREATE TABLE {name} (id INT PRIMARY KEY AUTO_INCREMENT, a INT)",
            f"/* BEGIN */ ALTER TABLE {name} ADD COLUMN b VARCHAR(10) DEFAULT 'COMMIT'",
            f"INSERT INTO {name} (a) VALUES (1), (2)",
            f"CREATE INDEX begin_index ON {name} (a)",
            f"CREATE TABLE {name}_copy AS SELECT * FROM {name}",
            f"RENAME TABLE {name}_copy TO {name}_renamed",
            f"TRUNCATE TABLE {name}",
            f"CREATE VIEW {name}_view AS SELECT a FROM {name}",
            f"DROP VIEW {name}_view",
            f"DROP TABLE {name}_renamed, {name}",
            f"CREATE DATABASE `{name} begin`",
            f"DROP DATABASE `{name} begin`",
            "ANALYZE TABLE rows_",
        )

    def savepoints(self) -> None:
        """A transaction with savepoints, one of which is returned to."""
        self._run(
            "BEGIN",
            self._insert(self._id()),
            "SAVEPOINT one",
            self._insert(self._id()),
            "SAVEPOINT two",
            self._insert(self._id()),
            "ROLLBACK TO one",
            self._insert(self._id()),
            "RELEASE SAVEPOINT one",
            "COMMIT",
        )

    def routines(self) -> None:
        """A procedure, a trigger, whose bodies hold BEGIN and COMMIT, and what they do."""
        name = f"routine_{self._id()}"
        key = self._id()
        self._run(
            f"CREATE PROCEDURE {name}(k BIGINT)"
            " BEGIN START TRANSACTION; INSERT INTO rows_ VALUES (k, 1, 'p', NULL); COMMIT; END",
            f"CALL {name}({key})",
            f"CREATE TRIGGER {name}_trigger BEFORE INSERT ON rows_ FOR EACH ROW BEGIN SET NEW.n = 42; END",
            self._insert(self._id()),
            f"DROP TRIGGER {name}_trigger",
            f"DROP PROCEDURE {name}",
        )

    def statements(self) -> None:
        """Statement based logging, with the events that carry its context: INSERT_ID, RAND, user variables."""
        name = f"statement_{self._id()}"
        self._run(
            f"CREATE TABLE {name} (id INT PRIMARY KEY AUTO_INCREMENT, r DOUBLE, v VARCHAR(20))",
            "SET SESSION binlog_format = STATEMENT",
            "SET @value = 'from a variable'",
            f"INSERT INTO {name} (r, v) VALUES (RAND(), @value)",
            f"INSERT INTO {name} (r, v) VALUES (LAST_INSERT_ID(), 'a'), (2, 'b')",
            f"UPDATE {name} SET v = 'COMMIT' WHERE id = 2",
        )

    def temporary_tables(self) -> None:
        """A temporary table between other work."""
        self._run(
            "CREATE TEMPORARY TABLE scratch (id BIGINT)",
            f"INSERT INTO scratch VALUES ({self._id()})",
            "INSERT INTO rows_ SELECT id, 1, 'from a temporary table', NULL FROM scratch",
            "DROP TEMPORARY TABLE scratch",
        )

    def flush_logs(self) -> None:
        """Go on in a new binary log."""
        self._run("FLUSH BINARY LOGS")

    def compressed(self) -> None:
        """MySQL: transactions as one TRANSACTION_PAYLOAD event, small and large."""
        self._run(
            "SET SESSION binlog_transaction_compression = ON",
            self._insert(self._id()),
            "BEGIN",
            *(self._insert(self._id()) for _ in range(200)),
            "COMMIT",
            self._blob(100_000),
            self._blob(3_000_000),
        )

    def tagged(self) -> None:
        """MySQL 8.3 and newer: GTIDs with tags."""
        for tag in ("blue", "a_tag_of_thirty_two_characters_xx"[:32], "blue"):
            self._run(f"SET gtid_next = 'AUTOMATIC:{tag}'", self._insert(self._id()), self._insert(self._id()))

    def foreign_gtids(self) -> None:
        """MySQL: transactions of another server, with gaps between their numbers; one of them is empty."""
        uuid = "8a94f357-aab4-11df-86ab-c80aa9429562"
        for _ in range(5):
            key = self._id()
            self._run(f"SET gtid_next = '{uuid}:{key}'", "BEGIN", self._insert(key), "COMMIT")
        self._run(f"SET gtid_next = '{uuid}:{self._id()}'", "BEGIN", "COMMIT")

    def compressed_events(self) -> None:
        """MariaDB: compressed query and row events."""
        self._run("SET GLOBAL log_bin_compress = ON")
        self._run(
            self._blob(100_000), f"CREATE TABLE compressed_{self._id()} (id INT, t VARCHAR(10) COMMENT '{'c' * 900}')"
        )
        self._run("SET GLOBAL log_bin_compress = OFF")

    def domains(self) -> None:
        """MariaDB: several domains and server ids, and a jump in the sequence numbers."""
        self._run(
            "SET SESSION gtid_domain_id = 7",
            self._insert(self._id()),
            "SET SESSION server_id = 4711",
            self._insert(self._id()),
            "SET SESSION gtid_domain_id = 8",
            f"SET SESSION gtid_seq_no = {self._id() * 10}",
            self._insert(self._id()),
        )

    def mixed_engines(self) -> None:
        """MariaDB: tables with and without transactions in one transaction, which is rolled back."""
        self._run("BEGIN", self._insert(self._id()), f"INSERT INTO plain VALUES ({self._id()}, 'stays')", "ROLLBACK")

    def random_transactions(self, seed: int, count: int) -> None:
        """Transactions of very different sizes, for tests that interrupt the stream anywhere."""
        random = Random(seed)
        for _ in range(count):
            rows = random.choice((1, 1, 2, 20, 300))
            size = random.choice((10, 50, 200))
            values = ", ".join(f"({self._id()}, {size}, LEFT(REPEAT('r', {size}), 200), NULL)" for _ in range(rows))
            statements = [f"INSERT INTO rows_ VALUES {values}"]
            if random.random() < 0.2:
                statements.append(self._blob(random.choice((100, 20_000, 300_000))))
            self._run("BEGIN", *statements, "COMMIT")

    @contextmanager
    def in_background(self) -> Iterator[None]:
        """Small and larger transactions all the while, on sessions that reconnect when the source goes away."""
        connection: Connection[Cursor] | None = None

        def write() -> None:
            nonlocal connection
            try:
                connection = connection or self.source.connect(database="w")
                with connection.cursor() as cursor:
                    cursor.execute("BEGIN")
                    for _ in range(3):
                        cursor.execute(self._insert(self._id()))
                    cursor.execute("COMMIT")
            except (pymysql.err.OperationalError, pymysql.err.InterfaceError):
                connection = None

        with repeating(write, 0.005):  # a steady load that leaves the processors to what is tested
            yield


def _batches(count: int, size: int) -> Iterator[range]:
    for start in range(0, count, size):
        yield range(start, min(start + size, count))
