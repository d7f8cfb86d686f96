"""Chains of source and node for the integration tests, each of both flavours."""

from __future__ import annotations

import pytest
from servers.chain import Chain
from servers.fixtures import Pool

from kingbus_node.demo.servers import Flavor


@pytest.fixture(params=list(Flavor), ids=str)
def flavor(request: pytest.FixtureRequest) -> Flavor:
    """Each test that asks for it runs for both."""
    return Flavor(request.param)


@pytest.fixture(scope="module", params=list(Flavor), ids=str)
def shared(request: pytest.FixtureRequest, module_pool: Pool) -> Chain:
    """A source and a node of each flavour that the tests of a module share."""
    return Chain.start(module_pool, Flavor(request.param))


@pytest.fixture
def chain(pool: Pool, flavor: Flavor) -> Chain:
    """A source and a node of each flavour for one test."""
    return Chain.start(pool, flavor)
