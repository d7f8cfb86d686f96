"""``kingbus binlogs export`` and ``events`` with the files of real sources."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from servers.chain import Chain
from servers.files import first_difference
from servers.raw import environment

from kingbus_node.demo.instance import text
from kingbus_node.demo.servers import Flavor


def kingbus(chain: Chain, *arguments: str) -> bytes:
    command = [sys.executable, "-m", "kingbus_node.cli", *arguments]
    command += ["--admin", f"http://127.0.0.1:{chain.node.admin_port}"]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def closed_files(chain: Chain) -> list[Path]:
    """The source's own files that it will not write to any more."""
    names = [text(row[0]) for row in chain.source.sql("SHOW BINARY LOGS")][:-1]
    (folder,) = {path.parent for path in chain.source.folder.rglob(names[0])}
    return [folder / name for name in names]


def events_of(chain: Chain, file: str, *more: str) -> list[dict[str, object]]:
    lines = kingbus(chain, "binlogs", "events", file, "-o", "json", *more).decode().splitlines()
    return [json.loads(line) for line in lines]


def test_exported_files_are_the_sources_own_byte_for_byte(chain: Chain, tmp_path: Path) -> None:
    workload = chain.workload
    workload.everything()
    workload.flush_logs()
    workload.blobs((17 * 2**20,))
    workload.random_transactions(1, count=200)
    workload.flush_logs()
    chain.wait_node()
    told = kingbus(chain, "binlogs", "export", "--all", "--to", str(tmp_path / "out")).decode()
    files = closed_files(chain)
    assert len(files) >= 2
    for file in files:
        # The server marks a file as in use while it writes it, and MariaDB says there how far it was then.
        assert first_difference(tmp_path / "out" / file.name, file) is None, file.name
    assert told.startswith(f"{len(files) + 1} files, ")
    assert not list((tmp_path / "out").glob("*.part"))
    tool = chain.source.binaries.binlog
    read = subprocess.run(
        [str(tool), "--no-defaults", "--verify-binlog-checksum", *(str(tmp_path / "out" / f.name) for f in files)],
        env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=120, check=False,
    )  # fmt: skip
    assert read.returncode == 0, read.stderr.decode()


def test_events_are_decoded_with_their_rows(chain: Chain) -> None:
    chain.workload.flush_logs()
    for statement in (
        "CREATE DATABASE decoded", "CREATE TABLE decoded.t (a INT PRIMARY KEY, b VARCHAR(20)) CHARACTER SET utf8mb4",
        "INSERT INTO decoded.t VALUES (1, 'one'), (2, NULL)", "UPDATE decoded.t SET b = 'zwölf' WHERE a = 2",
        "DELETE FROM decoded.t WHERE a = 1",
    ):  # fmt: skip
        chain.source.sql(statement)
    chain.wait_node()
    file = text(chain.source.sql("SHOW BINARY LOGS")[-1][0])
    found = events_of(chain, file, "--rows")
    shown = chain.source.sql(f"SHOW BINLOG EVENTS IN '{file}'")
    assert [(one["position"], one["end"]) for one in found] == [(row[1], row[4]) for row in shown]
    rows = [row for one in found for row in list(one.get("rows") or [])]  # type: ignore[call-overload]
    values = [[list(part.values()) for part in row.values()] for row in rows]
    assert values == [[[1, "one"]], [[2, None]], [[2, None], [2, "zwölf"]], [[1, "one"]]]
    later = events_of(chain, file, "--from", str(found[-2]["position"]))
    assert [one["position"] for one in later] == [one["position"] for one in found[-2:]]
    assert len(events_of(chain, file, "--limit", "2")) == 2
    table = kingbus(chain, "binlogs", "events", file).decode().splitlines()
    assert table[0].split() == ["POSITION", "TIME", "(UTC)", "TYPE", "SERVER", "END", "INFO"]
    assert len(table) == len(found) + 1
    assert any("(decoded.t) [2 rows]" in line for line in table)
    if chain.source.flavor is Flavor.MYSQL:
        assert any("GTID_NEXT" in line for line in table)


def test_what_cannot_be_had_is_refused_with_a_sentence(shared: Chain, tmp_path: Path) -> None:
    for arguments, told in (
        (("binlogs", "events", "nothing.000001"), "there is no binlog file 'nothing.000001'"),
        (("binlogs", "export", "nothing.000001", "--to", str(tmp_path)), "there is no binlog file nothing.000001"),
        (("replicas", "kill", "nobody"), "no replica 'nobody' is connected"),
    ):
        command = [sys.executable, "-m", "kingbus_node.cli", *arguments]
        command += ["--admin", f"http://127.0.0.1:{shared.node.admin_port}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert told in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_log_is_verified_while_it_is_written(shared: Chain) -> None:
    shared.wait_node()
    with shared.workload.in_background():
        report = json.loads(kingbus(shared, "verify", "-o", "json"))
    assert (report["damages"], report["gaps"]) == ([], "")
    assert report["transactions"] > 0
