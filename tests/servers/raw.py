"""What a source sends, as raw bytes: whole files by mysqlbinlog or mariadb-binlog, and the packets of a dump."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER, connect
from kingbus_node.demo.servers import Flavor, ServerBinaries

COM_BINLOG_DUMP = 0x12
COM_BINLOG_DUMP_GTID = 0x1E
NON_BLOCK = 0x01
SEND_ANNOTATE_ROWS = 0x02
"""A flag of MariaDB's dump command."""

_FULL_PACKET = 0xFFFFFF


class NotServedError(AssertionError):
    """The node is late for a moment and says so: whoever reads from it is to come again."""


def fetch_files(binaries: ServerBinaries, port: int, folder: Path, names: Sequence[str], *, gtid: bool = False) -> None:
    """Write the named binary logs of the server on `port` into `folder`, as the raw option of its own tool does.

    `gtid` (MySQL) asks for them with COM_BINLOG_DUMP_GTID and an empty set, else with COM_BINLOG_DUMP.
    AssertionError when they do not come; NotServedError, which is one, when that says nothing about the node.
    """
    folder.mkdir(parents=True)
    command = [*remote(binaries, port, gtid=gtid), "--raw", f"--result-file={folder}/", *names]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, errors="replace", timeout=300, check=False
    )
    said = f"{' '.join(names)} from port {port}: {done.stderr or done.stdout}"
    if done.returncode and "Server shutdown in progress" in said:
        raise NotServedError(said)
    assert done.returncode == 0, said


def remote(binaries: ServerBinaries, port: int, *, gtid: bool = False) -> list[str]:
    """The command line of mysqlbinlog or mariadb-binlog that reads from a server, without what to read."""
    command = [
        str(binaries.binlog),
        "--no-defaults",
        "--host=127.0.0.1",
        f"--port={port}",
        f"--user={REPLICATION_USER}",
    ]
    if binaries.flavor is Flavor.MARIADB:
        return [*command, "--skip-ssl", "--read-from-remote-server"]
    kind = "BINLOG-DUMP-GTIDS" if gtid else "BINLOG-DUMP-NON-GTIDS"
    return [*command, "--ssl-mode=DISABLED", "--get-server-public-key", f"--read-from-remote-source={kind}"]


def environment() -> dict[str, str]:
    """The environment that gives such a command its password."""
    return {**os.environ, "MYSQL_PWD": REPLICATION_PASSWORD}


class Socket(Protocol):
    """As pymysql has it."""

    def sendall(self, data: bytes) -> None: ...

    def recv_into(self, buffer: memoryview, size: int) -> int: ...


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet of the protocol; a part of 0xffffff bytes and its continuations are one."""

    sequences: tuple[int, ...]
    payload: bytes


@dataclass(frozen=True, slots=True)
class Dump:
    """All that a dump command was answered with."""

    events: tuple[Packet, ...]
    """Payloads without the leading zero byte."""
    end: Packet | None
    """The EOF or ERR packet; None when the connection simply ended."""


def gtid_command(gtids: bytes, flags: int = NON_BLOCK, file: str = "", position: int = 4, server_id: int = 0) -> bytes:
    """COM_BINLOG_DUMP_GTID; `gtids` is an encoded set."""
    name = file.encode()
    header = struct.pack("<BHII", COM_BINLOG_DUMP_GTID, flags, server_id, len(name))
    return header + name + struct.pack("<QI", position, len(gtids)) + gtids


def file_command(file: str, position: int = 4, flags: int = NON_BLOCK, server_id: int = 0) -> bytes:
    """COM_BINLOG_DUMP."""
    return struct.pack("<BIHI", COM_BINLOG_DUMP, position, flags, server_id) + file.encode()


@contextmanager
def dumping(port: int, command: bytes, statements: Sequence[str] = (), *, host: str = "127.0.0.1") -> Iterator[Socket]:
    """Log in, run statements and send a dump command; `read_packet` reads what comes."""
    with closing(connect(port, user=REPLICATION_USER, password=REPLICATION_PASSWORD, host=host)) as connection:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        sock: Socket = connection._sock  # type: ignore[attr-defined]
        sock.sendall(len(command).to_bytes(3, "little") + b"\0" + command)
        yield sock


def dump(port: int, command: bytes, statements: Sequence[str] = (), *, host: str = "127.0.0.1") -> Dump:
    """Log in, run statements, send a dump command, and read until the server ends it."""
    with dumping(port, command, statements, host=host) as sock:
        events: list[Packet] = []
        while (packet := read_packet(sock)) is not None:
            if packet.payload[0] != 0:
                return Dump(tuple(events), packet)
            events.append(Packet(packet.sequences, packet.payload[1:]))
        return Dump(tuple(events), None)


def read_packet(sock: Socket) -> Packet | None:
    """The next packet, put together; None when the connection has ended."""
    sequences: list[int] = []
    parts: list[bytes] = []
    while True:
        header = _exactly(sock, 4)
        if header is None:
            return None
        size = int.from_bytes(header[:3], "little")
        part = _exactly(sock, size)
        if part is None:
            return None
        sequences.append(header[3])
        parts.append(part)
        if size < _FULL_PACKET:
            return Packet(tuple(sequences), b"".join(parts))


def _exactly(sock: Socket, size: int) -> bytes | None:
    buffer = memoryview(bytearray(size))
    done = 0
    while done < size:
        count = sock.recv_into(buffer[done:], size - done)
        if count == 0:
            return None
        done += count
    return bytes(buffer)
