"""mysqlbinlog and mariadb-binlog: what they print and store of a node is what they print and store of the source."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers.chain import Chain
from servers.compatibility import Limit, Note
from servers.raw import environment, remote

from clients.conftest import Chains
from kingbus_node.demo.replication import executed
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until

pytestmark = pytest.mark.thorough
MYSQL = (
    "--verify-binlog-checksum",
    "--start-position",
    "--stop-position",
    "--exclude-gtids",
    "--include-gtids",
    "GTIDs",
    "--compression-algorithms=zlib",
    "--compression-algorithms=zstd",
    "TLS",
)
MARIADB = ("--verify-binlog-checksum", "--start-position", "--stop-position", "--start-position with a GTID")
CASES = [("mysql-9.7", what) for what in MYSQL] + [
    (release, what) for release in ("mariadb-10.11", "mariadb-11.8") for what in MARIADB
]


_MADE = re.compile(r"Rotate to|Gtid list|Heartbeat|^# at 0|Start: binlog|^#\d{6} .*server id \d+  end_log_pos 0 ")
"""Lines about events that a server has made for the dump."""


def tool(chain: Chain) -> str:
    """As in the table."""
    return f"{chain.source.binaries.binlog.name} {chain.source.binaries.version.partition('-')[0]}"


def name_of(chain: Chain) -> str:
    """As in the table."""
    word = "MySQL" if chain.source.flavor is Flavor.MYSQL else "MariaDB"
    return f"{word} {chain.source.binaries.version.partition('-')[0]}"


def options(what: str, chain: Chain, half: str) -> list[str]:
    """The options of a case. half: what the source had executed in the middle of what it wrote."""
    names = chain.source.binary_logs()
    first, second = names[0], names[1]
    events = chain.source.sql(f"SHOW BINLOG EVENTS IN '{first}' LIMIT 60")
    # MariaDB 11.8 says of most other events that they end at 0.
    begins, ends = ([str(event[1]) for event in events if "gtid" in str(event[2]).lower()][at] for at in (5, 6))
    match what:
        case "--verify-binlog-checksum":
            return ["--verify-binlog-checksum", "--to-last-log", first]
        case "--start-position":
            return [f"--start-position={begins}", first, second]
        case "--stop-position":
            return [f"--stop-position={ends}", first]
        case "--exclude-gtids":
            return [f"--exclude-gtids={half}", "--to-last-log", first]
        case "--include-gtids":
            return [f"--include-gtids={half}", "--to-last-log", first]
        case "GTIDs":
            return ["--to-last-log", first]
        case "TLS":
            return ["--ssl-mode=REQUIRED", "--to-last-log", first]
        case _ if what.startswith("--compression-algorithms"):
            return [what, "--to-last-log", first]
        case _:
            return [f"--start-position={half}", "--to-last-log", first]


def printed(chain: Chain, port: int, what: str, half: str) -> list[str]:
    """What the tool prints, without the events that the server on `port` has made itself; or its one complaint."""
    gtid = what == "GTIDs" or what == "--exclude-gtids"
    command = [*remote(chain.source.binaries, port, gtid=gtid), "-vv", *options(what, chain, half)]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, errors="replace", timeout=300, check=False
    )
    if done.returncode != 0:
        return [re.sub(r"\d+", "N", done.stderr.strip())]
    return [
        re.sub(r"server id \d+ ", "", line)
        for line in done.stdout.splitlines()
        if not re.search(
            r"Rotate to|Gtid list|Heartbeat|^# at 0|Start: binlog|^#\d{6} .*server id \d+  end_log_pos 0 ", line
        )
    ]


def printed_by_both(chain: Chain, what: str, half: str) -> tuple[list[str], list[str]]:
    """Of the source and of the node, while the source wrote nothing: MariaDB writes a BINLOG_CHECKPOINT by itself some
    time after it has begun a file.
    """
    while True:
        chain.wait_node()
        files = chain.source.sql("SHOW BINARY LOGS")
        theirs, ours = (printed(chain, port, what, half) for port in (chain.source.port, chain.node.port))
        if chain.source.sql("SHOW BINARY LOGS") == files:
            return theirs, ours


def events(lines: list[str]) -> list[str]:
    """The lines that describe events, but for what may be at the beginning of each file."""
    return [line for line in lines if re.match(r"#\d{6} ", line) and "Binlog checkpoint" not in line]


@pytest.mark.parametrize(("release", "what"), CASES)
def test_what_it_prints_is_the_same(release: str, what: str, chains: Chains, works: Note, limits: Limit) -> None:
    """Or the tool fails at the source in the same way."""
    chain = chains(release)
    chain.workload.everything()
    half = executed(chain.source)
    chain.workload.everything()
    theirs, ours = printed_by_both(chain, what, half)
    if len(theirs) == 1 and len(ours) > 1:
        # mariadb-binlog 11.8 takes a start by GTID at its own server, which begins within a file, for missing data.
        everything = events(printed(chain, chain.source.port, "--verify-binlog-checksum", half))
        assert 20 < len(events(ours)) < len(everything)
        assert events(ours) == everything[-len(events(ours)) :]
    else:
        assert ours == theirs
    if len(ours) == 1:
        limits(tool(chain), what, name_of(chain), f"`{ours[0]}`")
    else:
        assert len(ours) > 20
        works(tool(chain), what, name_of(chain))


@pytest.mark.parametrize(
    ("release", "mode"),
    [("mysql-9.7", "--stop-never"), ("mysql-9.7", "--stop-never, GTIDs"), ("mysql-9.7", "--stop-never, zstd")]
    + [(release, "--stop-never") for release in ("mariadb-10.11", "mariadb-11.8")],
)
def test_it_prints_what_comes_for_as_long_as_it_runs(
    release: str, mode: str, chains: Chains, tmp_path: Path, works: Note
) -> None:
    """A row that is written later is printed, and so is one in a later file."""
    chain = chains(release)
    chain.wait_node()
    command = [*remote(chain.source.binaries, chain.node.port, gtid="GTIDs" in mode), "--stop-never"]
    command += ["--compression-algorithms=zstd"] if "zstd" in mode else []
    word = "--connection-server-id" if chain.source.flavor is Flavor.MYSQL else "--stop-never-slave-server-id"
    said, complaints = tmp_path / "said", tmp_path / "complaints"
    first = chain.source.binary_logs()[-1]
    with said.open("wb") as out, complaints.open("wb") as err:
        process = subprocess.Popen([*command, f"{word}=7778", first], env=environment(), stdout=out, stderr=err)
    try:
        for name in ("seen_at_once", "seen_in_the_next_file"):
            chain.source.sql(f"CREATE TABLE IF NOT EXISTS w.{name} (id INT PRIMARY KEY)", f"DROP TABLE w.{name}")

            def printed(name: str = name) -> bool:
                assert process.poll() is None, complaints.read_text()
                return said.read_bytes().count(name.encode()) >= 2

            wait_until(printed, 120, f"{name} to be printed", found=complaints.read_text)
            chain.workload.flush_logs()
    finally:
        process.kill()
        process.wait()
    works(tool(chain), mode, name_of(chain))


@contextmanager
def backup(chain: Chain, folder: Path, first: str) -> Iterator[None]:
    """A backup of raw files that goes on until the end of the block."""
    command = [*remote(chain.source.binaries, chain.node.port), "--raw", "--stop-never"]
    word = "--connection-server-id" if chain.source.flavor is Flavor.MYSQL else "--stop-never-slave-server-id"
    process = subprocess.Popen([*command, f"{word}=7777", f"--result-file={folder}/", first], env=environment())
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("release", ["mysql-9.7", "mariadb-10.11", "mariadb-11.8"])
def test_a_raw_backup_that_never_stops_is_interrupted_and_goes_on(
    release: str, chains: Chains, tmp_path: Path, works: Note
) -> None:
    """It is started again with the last file that it had, as the manual says ("Using mysqlbinlog to Back Up Binary
    Log Files"), once after it was killed and once after the node was.
    """
    chain = chains(release)
    first = chain.source.binary_logs()[0]

    def complete() -> bool:
        """The closed files are equal, and there is the open one."""
        *closed, last = chain.source.binary_logs()
        return (tmp_path / last).is_file() and all(
            (tmp_path / name).is_file() and (tmp_path / name).read_bytes() == (chain.source.data / name).read_bytes()
            for name in closed
        )

    for interrupt in (False, True):
        with backup(chain, tmp_path, first):
            chain.workload.everything()
            chain.workload.flush_logs()
            wait_until(complete, 120, "the backup to be complete", found=lambda: str(sorted(tmp_path.iterdir())))
        first = sorted(path.name for path in tmp_path.iterdir())[-1]
        if interrupt:
            chain.node.kill()
            chain.node.start()
    with backup(chain, tmp_path, first):
        chain.workload.flush_logs()
        wait_until(complete, 120, "the backup to be complete again")
    works(tool(chain), "--raw --stop-never, gone on with", name_of(chain))
