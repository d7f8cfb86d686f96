"""One API server for all tests here, with our CRD in it; a namespace of its own for each test."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from kube.binaries import ensure
from kube.cluster import ControlPlane, control_plane
from kube.world import Namespace, install_crd

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A running API server."""
    folder: Path = tmp_path_factory.mktemp("kube")
    with control_plane(ensure(), folder) as running:
        asyncio.run(install_crd(running.admin))
        yield running


@pytest.fixture
def namespace(plane: ControlPlane) -> Iterator[Namespace]:
    """A new namespace. Its clusters are deleted afterwards, so that no other test's operator works on them."""
    made = Namespace(plane, f"test-{next(_numbers)}")
    asyncio.run(made.create())
    yield made
    asyncio.run(made.delete_clusters())
