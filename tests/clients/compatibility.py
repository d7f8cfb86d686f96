"""Which client works with which source, as found by a run of the tests: what docs/compatibility.md is made of.

A test that shows that a client works in a mode says so with the fixture `works`; its row is in the table if the test
has passed. What a client cannot do by itself (its error is the same when it reads from the source) is told with
`limits`. ``pytest --compatibility FILE`` writes the page; `make compatibility` runs all that is needed for it.
"""

from __future__ import annotations

import platform
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

Note = Callable[[str, str, str], None]
"""Called with client, mode and source."""
Limit = Callable[[str, str, str, str], None]
"""Called with client, mode, source, and the client's own error."""

_WORKS = "compatibility: works"
_LIMIT = "compatibility: limit"

_PAGE = """\
# Compatibility

Made on {date} by one run of `make compatibility` ({passed} tests passed, none failed, in {minutes} minutes; Python
{python}, {machine}); do not edit. In each test the client read from a node whose source was the server named, and ended
up with the source's rows and GTIDs, or printed what it prints of the source; a row is here only if its test passed. The
tests and the programs are in `tests/clients/`.

| client | mode | source | passed |
|---|---|---|---|
{rows}

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
    """Leave out what `make test` has no time for."""
    if config.getoption("--all-clients"):
        return
    left_out = [item for item in items if item.get_closest_marker("thorough")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("thorough")]


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
        self._limits: set[tuple[str, ...]] = set()
        self._passed = 0
        self._begun = time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """After each phase of a test."""
        if report.when != "call" or not report.passed:
            return
        self._passed += 1
        for name, value in report.user_properties:
            if name in (_WORKS, _LIMIT) and isinstance(value, tuple):
                self._note(name, tuple(str(part) for part in value))

    def _note(self, name: str, what: tuple[str, ...]) -> None:
        if name == _LIMIT:
            self._limits.add(what)
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
        limits = [f"| {' | '.join(limit)} |" for limit in sorted(self._limits)]
        page = _PAGE.format(
            rows="\n".join(rows),
            limits="\n".join(limits),
            date=time.strftime("%Y-%m-%d"),
            passed=self._passed,
            minutes=round((time.monotonic() - self._begun) / 60),
            python=platform.python_version(),
            machine=f"{platform.system()} {platform.machine()}",
        )
        path.write_text(page)
