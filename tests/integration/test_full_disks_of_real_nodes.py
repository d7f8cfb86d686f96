"""A node of three has no room left on its disk, a file system of its own: it hands over and says why, the others go on,
nothing is lost, and it goes on by itself when there is room. Mounting file systems takes root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers.ensemble import Ensemble
from servers.fixtures import Pool

from kingbus_node.demo.node_process import NodeProcess, Settings
from kingbus_node.demo.replication import executed
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until

pytestmark = [pytest.mark.namespaces, pytest.mark.timeout(600)]

SMALL, ROOMY = 24 << 20, 400 << 20
PATIENCE = 120.0
SETTINGS: Settings = {
    "storage": {"segment_bytes": "1MiB", "min_free_bytes": 0},
    "raft": {"election_timeout": "5s"},  # no other leader than the one that is asked for, on a busy machine
}


@contextmanager
def on_a_small_disk(node: NodeProcess) -> Iterator[None]:
    """The node, started again on a file system of its own with little room."""
    assert os.geteuid() == 0, "file systems can be mounted by root only: run as root, or leave out -m 'not namespaces'"
    node.kill()
    aside = node.folder / "aside"
    node.data.rename(aside)
    node.data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(node.data)], check=True)
    try:
        shutil.copytree(aside, node.data, dirs_exist_ok=True)
        node.start(timeout=PATIENCE)
        yield
    finally:
        node.kill()
        # Its serve processes, which have files open there, end a moment after it.
        wait_until(lambda: _unmount(node.data), PATIENCE, f"{node.data} to be unmounted")


def _unmount(path: Path) -> bool:
    return subprocess.run(["umount", str(path)], check=False).returncode == 0


def suspended(node: NodeProcess) -> str:
    """Why it would not lead."""
    return str(node.status(local=True)["suspended"] or "")


def test_a_leader_without_room_hands_over_and_comes_back_by_itself(pool: Pool) -> None:
    ensemble = Ensemble.start(pool, Flavor.MYSQL, settings=SETTINGS)
    node = ensemble.follower
    replicas = [ensemble.replica(one) for one in ensemble.cluster.nodes]
    with on_a_small_disk(node):
        ensemble.leader.order("POST", "/v1/leader/transfer", {"to": node.name})
        ensemble.cluster.wait_leader(PATIENCE, among=[node])
        others = [one for one in ensemble.cluster.nodes if one is not node]
        ensemble.workload.blobs((4 << 20,) * 8)
        wait_until(lambda: "full" in suspended(node), PATIENCE, "it to say that it has no room", found=node.log_tail)
        leader = ensemble.cluster.wait_leader(PATIENCE, among=others)
        ensemble.workload.small()
        ensemble.wait_held(executed(ensemble.source), *others)
        assert node.executed() != leader.executed(), "there is no room for it"
        node.check()
        subprocess.run(["mount", "-o", f"remount,size={ROOMY}", str(node.data)], check=True)
        wait_until(lambda: not suspended(node), PATIENCE, "it to find room", found=node.log_tail)
        ensemble.workload.small()
        ensemble.converge(*replicas)
        ensemble.assert_files_equal()
