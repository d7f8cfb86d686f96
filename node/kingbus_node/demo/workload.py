"""Writes to a source at a steady rate, with something of everything that a binlog holds.

Small transactions most of the time; now and then a large one, a rolled back one, DDL, a table without transactions, a
blob, a new binlog file. Each step also moves a clock in the table ``shop.pulse``, so that the age of what a replica
holds can be read on the replica itself.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

from pymysql.cursors import Cursor

from kingbus_node.demo.instance import Server

__all__ = ["Workload"]

_SCHEMA = (
    "CREATE DATABASE shop CHARACTER SET utf8mb4",
    "CREATE TABLE shop.pulse (id INT PRIMARY KEY, at DOUBLE NOT NULL)",
    """
    CREATE TABLE shop.customers (id BIGINT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(80) NOT NULL,
      balance DECIMAL(12, 2) NOT NULL DEFAULT 0, photo LONGBLOB)
    """,
    """
    CREATE TABLE shop.orders (id BIGINT AUTO_INCREMENT PRIMARY KEY, customer BIGINT NOT NULL, details JSON,
      total DECIMAL(12, 2) NOT NULL, made TIMESTAMP(6) DEFAULT CURRENT_TIMESTAMP(6), KEY (customer))
    """,
    "CREATE TABLE shop.visits (id BIGINT AUTO_INCREMENT PRIMARY KEY, page VARCHAR(40)) ENGINE=MyISAM",
    "INSERT INTO shop.pulse VALUES (1, 0)",
)
_CUSTOMERS = 200


class Workload:
    """A thread that writes to ``source`` from ``start()`` to ``stop()``; the counters may be read at any time."""

    def __init__(self, source: Server, *, transactions_per_second: float = 120.0, seed: int = 1) -> None:
        self.rows = 0
        self.transactions = 0
        self.statements_of_ddl = 0
        self._source = source
        self._pause = 1 / transactions_per_second
        self._random = random.Random(seed)
        self._started = 0.0
        self._end = threading.Event()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="workload")
        self._running: Future[None] | None = None

    def prepare(self) -> None:
        """Make the tables. To be called once, before ``start()``."""
        self._source.sql(*_SCHEMA)
        with closing(self._source.connect()) as connection, connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO shop.customers (name, balance) VALUES (%s, %s)",
                [(f"customer {number} ✓", number) for number in range(_CUSTOMERS)],
            )

    def start(self) -> None:
        """Begin to write."""
        self._started = time.monotonic()
        self._running = self._executor.submit(self._run)

    @property
    def elapsed(self) -> float:
        """Seconds since the start, 0 before it."""
        return time.monotonic() - self._started if self._started else 0.0

    def stop(self) -> None:
        """End after the step that is being done. Raises what went wrong while writing, if anything did."""
        self._end.set()
        self._executor.shutdown()
        self.check()

    def check(self) -> None:
        """Raise what went wrong while writing, if anything has by now."""
        if self._running is not None and self._running.done():
            self._running.result()

    def _run(self) -> None:
        with closing(self._source.connect()) as connection, connection.cursor() as cursor:
            self._write(cursor)

    def _write(self, cursor: Cursor) -> None:
        rare: tuple[tuple[int, Callable[[Cursor], None]], ...] = (
            (29, self._rolled_back),
            (37, self._without_transactions),
            (83, self._blob),
            (97, self._definition),
            (211, self._large),
            (307, self._new_file),
        )
        step, due = 0, time.monotonic()
        while not self._end.is_set():
            step += 1
            self._order(cursor)
            for every, action in rare:
                if step % every == 0:
                    action(cursor)
            due += self._pause
            self._end.wait(max(0.0, due - time.monotonic()))

    def _order(self, cursor: Cursor) -> None:
        """The usual transaction: one order with its payment."""
        customer, total = self._random.randint(1, _CUSTOMERS), self._random.randint(1, 100_000) / 100
        cursor.execute("BEGIN")
        cursor.execute(
            "INSERT INTO shop.orders (customer, details, total) VALUES (%s, %s, %s)",
            (customer, f'{{"items": [{self._random.randint(1, 99)}], "note": "größer ✓"}}', total),
        )
        cursor.execute("UPDATE shop.customers SET balance = balance - %s WHERE id = %s", (total, customer))
        cursor.execute("UPDATE shop.pulse SET at = %s", (time.time(),))
        cursor.execute("COMMIT")
        self._count(rows=3)

    def _rolled_back(self, cursor: Cursor) -> None:
        """One transaction that never was, and one of which half never was."""
        cursor.execute("BEGIN")
        cursor.execute("DELETE FROM shop.orders LIMIT 10")
        cursor.execute("ROLLBACK")
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO shop.orders (customer, total) VALUES (1, 1)")
        cursor.execute("SAVEPOINT half")
        cursor.execute("INSERT INTO shop.orders (customer, total) VALUES (1, 2)")
        cursor.execute("ROLLBACK TO SAVEPOINT half")
        cursor.execute("COMMIT")
        self._count(rows=1)

    def _without_transactions(self, cursor: Cursor) -> None:
        cursor.execute("INSERT INTO shop.visits (page) VALUES ('/'), ('/orders'), ('/login')")
        self._count(rows=3)

    def _blob(self, cursor: Cursor) -> None:
        customer = self._random.randint(1, _CUSTOMERS)
        photo = self._random.randbytes(self._random.randint(1, 400_000))
        cursor.execute("UPDATE shop.customers SET photo = %s WHERE id = %s", (photo, customer))
        self._count(rows=1)

    def _definition(self, cursor: Cursor) -> None:
        """DDL: a table made, filled, altered; the one of last time is dropped."""
        number = self.statements_of_ddl
        cursor.execute(f"CREATE TABLE shop.report_{number} (id INT PRIMARY KEY, text VARCHAR(100))")
        cursor.execute(f"INSERT INTO shop.report_{number} VALUES (1, 'one'), (2, 'two')")
        cursor.execute(f"ALTER TABLE shop.report_{number} ADD COLUMN added INT NOT NULL DEFAULT {number}")
        if number:
            cursor.execute(f"DROP TABLE shop.report_{number - 3}")
        self.statements_of_ddl += 3
        self._count(rows=2)

    def _large(self, cursor: Cursor) -> None:
        """Thousands of rows in one transaction."""
        rows = self._random.randint(2_000, 5_000)
        cursor.execute("BEGIN")
        cursor.executemany(
            "INSERT INTO shop.orders (customer, details, total) VALUES (%s, %s, %s)",
            [(self._random.randint(1, _CUSTOMERS), f'{{"batch": {number}}}', 1) for number in range(rows)],
        )
        cursor.execute("COMMIT")
        self._count(rows=rows)

    def _new_file(self, cursor: Cursor) -> None:
        cursor.execute("FLUSH BINARY LOGS")

    def _count(self, rows: int) -> None:
        self.rows += rows
        self.transactions += 1
