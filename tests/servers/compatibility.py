"""Which client works with which source, as found by a run of the tests: what docs/compatibility.md is made of.

A test that shows that a client works in a mode says so with the fixture `works`, one that shows that a node reads
from a source of some kind with `reads`; its row is in the table if the test has passed. What a client cannot do by
itself (its error is the same when it reads from the source) is told with `limits`. ``pytest --compatibility FILE``
writes the page, and runs only what speaks of it; `make compatibility` names all that is needed.
"""

from __future__ import annotations

import platform
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from kingbus_node.demo.instance import Server
from kingbus_node.demo.servers import Flavor

Note = Callable[[str, str, str], None]
"""Called with client, mode and source."""
Reads = Callable[[Server, str], None]
"""Called with the source, and what is special about it or the way to it."""
Limit = Callable[[str, str, str, str], None]
"""Called with client, mode, source, and the client's own error."""

_WORKS = "compatibility: works"
_READS = "compatibility: reads"
_LIMIT = "compatibility: limit"

_PAGE = """\
# Compatibility

Made on {date} by one run of `make compatibility` ({passed} tests passed, none failed, in {minutes} minutes; Python
{python}, {machine}); do not edit. In each test the client read from a node whose source was the server named, and ended
up with the source's rows and GTIDs, or printed what it prints of the source; a row is here only if its test passed. The
tests and the programs are in `tests/clients/`.

## Clients

| client | mode | source | passed |
|---|---|---|---|
{rows}

## Sources

What a source may be like, and how it may be reached. In each test (they are in `tests/integration/`) the log, or the
files that a node serves, were the source's byte for byte, or a replica of the node ended up with the source's tables;
what cannot be read was refused as the row says. A binlog file beyond 4 GiB is in `make test-big`.

| kind, or way | source | passed |
|---|---|---|
{reads}

## What clients cannot do themselves

In these cases a client fails in the same way when it reads from the source directly (tested, too).

| client | what | source | the client's own error |
|---|---|---|---|
{limits}
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Two options of our own."""
    group = parser.getgroup("kingbus")
    group.addoption("--all-clients", action="store_true", help="also the tests that are marked `thorough`")
    group.addoption("--compatibility", metavar="FILE", type=Path, help="write the table of what works to FILE")


def pytest_configure(config: pytest.Config) -> None:
    """Begin to collect."""
    config.addinivalue_line("markers", "thorough: for `make test-clients`, not for `make test`")
    config.pluginmanager.register(Collector(config), "kingbus-compatibility")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what `make test` has no time for, and, when the page is written, what it does not tell of."""
    if config.getoption("--compatibility"):
        _keep(config, items, _is_told_of)
    if config.getoption("--all-clients"):
        return
    _keep(config, items, lambda item: item.get_closest_marker("thorough") is None)


def _keep(config: pytest.Config, items: list[pytest.Item], wanted: Callable[[pytest.Item], bool]) -> None:
    left_out = [item for item in items if not wanted(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if wanted(item)]


def _is_told_of(item: pytest.Item) -> bool:
    """Whether it is one of those that the page is made of."""
    return item.path.parent.name == "clients" or "reads" in getattr(item, "fixturenames", ())


def name_of(server: Server) -> str:
    """The server as it is called in the tables."""
    flavor = "MySQL" if server.flavor is Flavor.MYSQL else "MariaDB"
    return f"{flavor} {server.binaries.version.partition('-')[0]}"


@pytest.fixture
def reads(request: pytest.FixtureRequest) -> Reads:
    """Say that a node reads from a source of this kind, if the test passes."""

    def note(source: Server, mode: str) -> None:
        request.node.user_properties.append((_READS, (mode, name_of(source))))

    return note


@pytest.fixture
def works(request: pytest.FixtureRequest) -> Note:
    """Say that a client works in a mode with a source, if the test passes."""

    def note(client: str, mode: str, source: str) -> None:
        request.node.user_properties.append((_WORKS, (client, mode, source)))

    return note


@pytest.fixture
def limits(request: pytest.FixtureRequest) -> Limit:
    """Say that a client fails by itself."""

    def note(client: str, mode: str, source: str, error: str) -> None:
        request.node.user_properties.append((_LIMIT, (client, mode, source, error)))

    return note


class Collector:
    """Collects what the passed tests have said."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._rows: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        self._reads: defaultdict[str, set[str]] = defaultdict(set)
        self._limits: set[tuple[str, ...]] = set()
        self._passed = 0
        self._begun = time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """After each phase of a test."""
        if report.when != "call" or not report.passed:
            return
        self._passed += 1
        for name, value in report.user_properties:
            if name in (_WORKS, _READS, _LIMIT) and isinstance(value, tuple):
                self._note(name, tuple(str(part) for part in value))

    def _note(self, name: str, what: tuple[str, ...]) -> None:
        if name == _LIMIT:
            self._limits.add(what)
        elif name == _READS:
            mode, source = what
            self._reads[mode].add(source)
        else:
            client, mode, source = what
            self._rows[client, mode].add(source)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the page, if the run was asked for it."""
        path: Path | None = self._config.getoption("--compatibility")
        if path is None or hasattr(self._config, "workerinput"):  # with pytest-xdist, only who has all results
            return
        if session.testsfailed or not self._passed:
            print(f"\n{path} stays as it was: {session.testsfailed} tests failed")
            return
        rows = [
            f"| {client} | {mode} | {', '.join(sorted(sources))} | yes |"
            for (client, mode), sources in sorted(self._rows.items())
        ]
        reads = [f"| {mode} | {', '.join(sorted(sources))} | yes |" for mode, sources in sorted(self._reads.items())]
        limits = [f"| {' | '.join(limit)} |" for limit in sorted(self._limits)]
        page = _PAGE.format(
            rows="\n".join(rows),
            reads="\n".join(reads),
            limits="\n".join(limits),
            date=time.strftime("%Y-%m-%d"),
            passed=self._passed,
            minutes=round((time.monotonic() - self._begun) / 60),
            python=platform.python_version(),
            machine=f"{platform.system()} {platform.machine()}",
        )
        path.write_text(page)
