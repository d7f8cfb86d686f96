"""Fixtures: `pool` gives a test, `module_pool` a module, its own servers, nodes and proxies, all ended with it.

When a test fails, the ends of the logs of everything that its pools hold are part of the report.
"""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import pytest

from kingbus_node.demo.cluster_process import ClusterProcess
from kingbus_node.demo.instance import Options, Server
from kingbus_node.demo.node_process import NodeProcess, Place, Settings
from kingbus_node.demo.servers import ensure
from servers.proxy import CuttingProxy

_OPEN_POOLS = pytest.StashKey[list["Pool"]]()


class Pool:
    """Servers, nodes and proxies in one folder, with distinct server ids and free ports."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._servers: list[Server] = []
        self._nodes: list[NodeProcess] = []
        self._proxies: list[CuttingProxy] = []
        self._clusters = 0

    def server(self, release: str, options: Options | None = None, port: int | None = None) -> Server:
        """A running server of a release of `kingbus_node.demo.servers.RELEASES`, on a free port if none is given."""
        server_id = len(self._servers) + 1
        folder = self._folder / f"{release}-{server_id}"
        return self.add(Server(ensure(release), folder, server_id=server_id, port=port, options=options))

    def add(self, server: Server) -> Server:
        """Start a server that a test has made itself, and end it with the pool."""
        self._servers.append(server)
        return server.start()

    def node(self, source: Server, settings: Settings | None = None, *, ready: bool = True) -> NodeProcess:
        """A running node that reads from `source`."""
        name = f"node-{len(self._nodes) + 1}"
        node = NodeProcess(source, self._folder / name, name=name, settings=settings)
        self._nodes.append(node)
        return node.start(ready=ready)

    def cluster(
        self, source: Server, size: int = 3, settings: Settings | None = None, places: Sequence[Place] = ()
    ) -> ClusterProcess:
        """Running nodes that read from `source` together."""
        self._clusters += 1
        folder = self._folder / f"cluster-{self._clusters}"
        cluster = ClusterProcess(source, folder, size=size, settings=settings, places=places)
        self._nodes += cluster.nodes
        return cluster.start()

    def proxy(self, target_port: int) -> CuttingProxy:
        """A proxy before a port of loopback."""
        proxy = CuttingProxy(target_port)
        self._proxies.append(proxy)
        return proxy

    def logs(self) -> Iterator[tuple[str, str]]:
        """A title and the end of the log of each server and node."""
        for server in self._servers:
            yield f"log of {server!r}", server.log_tail()
        for node in self._nodes:
            yield f"log of {node!r}", node.log_tail()

    def close(self) -> None:
        for node in self._nodes:
            node.kill()
        for proxy in self._proxies:
            proxy.close()
        for server in self._servers:
            server.kill()


def _pool(config: pytest.Config, folder: Path) -> Iterator[Pool]:
    pool = Pool(folder)
    pools = config.stash.setdefault(_OPEN_POOLS, [])
    pools.append(pool)
    try:
        yield pool
    finally:
        pools.remove(pool)
        pool.close()


@pytest.fixture
def pool(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pool]:
    """Servers and nodes for one test."""
    yield from _pool(request.config, tmp_path)


@pytest.fixture(scope="module")
def module_pool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """Servers and nodes that the tests of a module share."""
    yield from _pool(request.config, tmp_path_factory.mktemp("pool"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the logs of all servers and nodes to the report of a test that failed."""
    report = yield
    if report.failed:
        for pool in item.config.stash.get(_OPEN_POOLS, []):
            report.sections.extend(pool.logs())
    return report


def pytest_configure() -> None:
    """End a run that is told to terminate as Ctrl-C ends it: with the fixtures' ends, so that no server is left.

    The worker processes of pytest-xdist are told by a SIGINT, which a run in the background has inherited as ignored.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
