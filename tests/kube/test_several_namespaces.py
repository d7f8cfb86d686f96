"""An operator that is told which namespaces to watch looks at nothing else."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import yaml

from kingbus_node.demo.ports import ReservedPort
from kingbus_node.demo.waiting import wait_until
from kube.cluster import ControlPlane
from kube.test_outages import _kubeconfig as kubeconfig
from kube.world import Namespace, plain

_DEADLINE = 120.0


def test_clusters_are_made_in_the_watched_namespaces_alone(plane: ControlPlane, tmp_path: Path) -> None:
    watched, other = [Namespace(plane, "watched-1"), Namespace(plane, "watched-2")], Namespace(plane, "unwatched")
    for namespace in (*watched, other):
        asyncio.run(namespace.create())
        namespace.post(plain("orders"))
    file, port = tmp_path / "kubeconfig", ReservedPort()
    file.write_text(yaml.safe_dump(kubeconfig(plane.admin)))
    command = [sys.executable, "-m", "kingbus_operator.main", "run", "--image", "kingbus:1", "--port", str(port.number)]
    command += ["--identity", "one", "--namespace", "watched-1", "--namespaces", "watched-1, watched-2"]
    with (tmp_path / "log").open("wb") as log:
        environment = {**os.environ, "KUBECONFIG": str(file)}
        operator = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    try:
        for namespace in watched:
            wait_until(lambda: namespace.get("StatefulSet", "orders"), _DEADLINE, namespace.name, interval=0.2)  # noqa: B023
        watched[1].post(plain("later"))
        wait_until(lambda: watched[1].get("StatefulSet", "later"), _DEADLINE, "what was made later", interval=0.2)
        assert other.get("StatefulSet", "orders") is None
    finally:
        operator.terminate()
        assert operator.wait(60) == 0, (tmp_path / "log").read_text()
        for namespace in (*watched, other):
            asyncio.run(namespace.delete_clusters())
