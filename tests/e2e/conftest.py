"""One release of the chart for all tests; for each test a namespace with a source, a replica and a cluster in it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Iterator

import pytest
from servers.fixtures import Pool

from e2e.world import SYSTEM, Machine, Release, Stage, environment, namespace

collect_ignore_glob = [] if os.environ.get("KINGBUS_E2E") else ["test_*.py"]
"""They need a Kubernetes; `make e2e` finds or makes one."""

_numbers = itertools.count(1)
_STAGES = pytest.StashKey[list[Stage]]()


@pytest.fixture(scope="session")
def image() -> str:
    """The image, as the nodes know it."""
    return environment("E2E_IMAGE")


@pytest.fixture(scope="session")
def next_image() -> str:
    """The same under another name."""
    return environment("E2E_IMAGE_NEXT")


@pytest.fixture(scope="session")
def release(image: str) -> Iterator[Release]:
    """The installed operator. It stays when KINGBUS_E2E_KEEP=1, so that the next run begins sooner."""
    namespace(SYSTEM)
    made = Release()
    made.install(image)
    yield made
    if os.environ.get("KINGBUS_E2E_KEEP") != "1":
        made.uninstall()


@pytest.fixture
def stage(request: pytest.FixtureRequest, release: Release, pool: Pool) -> Iterator[Stage]:
    """A namespace with Secrets in it, and a source. There is no cluster yet."""
    del release
    made = Stage(f"e2e-{os.getpid()}-{next(_numbers)}", pool)
    stages = request.config.stash.setdefault(_STAGES, [])
    stages.append(made)
    try:
        made.open()
        yield made
    finally:
        stages.remove(made)
        made.close()


@pytest.fixture
def running(stage: Stage) -> Stage:
    """A cluster of three that runs, and a replica that follows it by the name of the leader Service."""
    stage.apply(stage.manifest())
    stage.wait_settled(3)
    stage.replica()
    stage.converges()
    return stage


@pytest.fixture(scope="session")
def machine() -> Machine:
    """The processes of pods."""
    return Machine()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What Kubernetes says is a part of the report of a test that failed."""
    report = yield
    if report.failed:
        for stage in item.config.stash.get(_STAGES, []):
            report.sections.append((f"namespace {stage.where}", stage.story()))
    return report
