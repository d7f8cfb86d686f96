"""The reading programs: what they are made of, and how to make them.

Go programs come from the Go module proxy (pinned by go.sum), Java ones from Maven Central (pinned by pom.xml); both are
built once into ``$KINGBUS_CACHE/clients``, beside the servers, and again when their sources change.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from kingbus_node.demo.servers import cache_folder, locked

_HERE = Path(__file__).parent
_BUILD_SECONDS = 1800

Order = Mapping[str, str | int | bool]
"""What a program is to read, see `reading`."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program that reads a binary log: what people call it, its version, how it is started."""

    name: str
    version: str
    command: tuple[str, ...]
    encode: Callable[[Order], str]

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def python_mysql_replication() -> Program:
    """julien-duponchelle/python-mysql-replication, the version that is installed."""
    command = (sys.executable, str(_HERE / "python" / "reader.py"))
    return Program("python-mysql-replication", version("mysql-replication"), command, _json)


def go_mysql(program: str) -> Program:
    """go-mysql's `syncer` (replication.BinlogSyncer) or `canal`."""
    folder = _built("go", _build_go)
    module = re.search(r"go-mysql (v\S+)", (_HERE / "go" / "go.mod").read_text())
    assert module is not None
    return Program(
        f"go-mysql {program}", module[1], (str(folder / "reader"),), lambda order: _json({**order, "program": program})
    )


def mysql_binlog_connector_java() -> Program:
    """osheroff/mysql-binlog-connector-java, as Maxwell uses it."""
    folder = _built("java/binlog", _build_java)
    found = _version_in_pom("binlog", r"<artifactId>mysql-binlog-connector-java</artifactId>\s*<version>([^<]+)<")
    return Program("mysql-binlog-connector-java", found, _java(folder, "BinlogReader"), _properties)


def debezium() -> Program:
    """Debezium's embedded engine with its MySQL connector."""
    folder = _built("java/debezium", _build_java)
    found = _version_in_pom("debezium", r"<debezium.version>([^<]+)<")
    return Program("Debezium MySQL connector", found, _java(folder, "DebeziumReader"), _properties)


def _java(folder: Path, main: str) -> tuple[str, ...]:
    path = f"{folder}/target/classes:{folder}/target/dependency/*"
    options = (
        "-Xmx512m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    )
    return ("java", *options, "-cp", path, f"kingbus.clients.{main}")


def _version_in_pom(project: str, pattern: str) -> str:
    found = re.search(pattern, (_HERE / "java" / project / "pom.xml").read_text())
    assert found is not None
    return found[1]


def _json(order: Order) -> str:
    return json.dumps(order)


def _properties(order: Order) -> str:
    def shown(value: str | int | bool) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value).replace("\\", "\\\\")

    return "".join(f"{key}={shown(value)}\n" for key, value in order.items())


def _built(project: str, build: Callable[[Path], None]) -> Path:
    """The folder in which `project` was built from the sources as they are."""
    source = _HERE / project
    files = sorted(path for path in source.rglob("*") if path.is_file())
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
    name = project.replace("/", "-")
    folder = cache_folder().parent / "clients" / f"{name}-{digest}"
    with locked(folder.parent / f"{name}.lock"):
        if not folder.is_dir():
            partial = folder.with_name(folder.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(source, partial)
            build(partial)
            partial.rename(folder)
    return folder


def _build_go(folder: Path) -> None:
    _run(("go", "build", "-trimpath", "-o", "reader", "."), folder)


def _build_java(folder: Path) -> None:
    _run(("mvn", "-q", "-B", "package"), folder)


def _run(command: tuple[str, ...], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=_BUILD_SECONDS, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)} failed with {done.returncode}:\n{done.stdout}{done.stderr}"
