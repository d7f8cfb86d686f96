"""Sources with a node each, which the tests of a module share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from servers.chain import Chain
from servers.fixtures import Pool
from servers.workload import Workload

from kingbus_node.demo.instance import Options

Chains = Callable[[str], Chain]

_OPTIONS: Options = {"binlog-row-metadata": "FULL"}
"""Readers need the names of columns; python-mysql-replication insists on them."""


@pytest.fixture(scope="module")
def chains(module_pool: Pool) -> Chains:
    """The chain of a release, started when first asked for."""
    started: dict[str, Chain] = {}

    def chain(release: str) -> Chain:
        if release not in started:
            source = module_pool.server(release, _OPTIONS)
            started[release] = Chain(module_pool, Workload(source).create(), module_pool.node(source))
        return started[release]

    return chain
