"""Two operators as processes: one is killed, the API server goes and comes back; clusters are made nevertheless."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from kingbus_node.demo.ports import ReservedPort
from kingbus_node.demo.waiting import wait_until
from kingbus_operator.api.types import Json
from kingbus_operator.kube.client import ApiError
from kingbus_operator.kube.credentials import Credentials
from kingbus_operator.planning.observed import dig
from kube.binaries import ensure
from kube.cluster import ControlPlane, control_plane
from kube.world import Namespace, install_crd, plain

_DEADLINE = 120.0


@pytest.fixture
def own_plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """An API server that this test may stop."""
    binaries = ensure()
    with control_plane(binaries, tmp_path) as running:
        asyncio.run(install_crd(running.admin))
        yield running


@pytest.fixture
def operators(own_plane: ControlPlane, tmp_path: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Two of them, as a Deployment would start them."""
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(_kubeconfig(own_plane.admin)))
    running: dict[str, subprocess.Popen[bytes]] = {}
    ports: list[ReservedPort] = []
    try:
        for name in ("one", "two"):
            ports.append(ReservedPort())
            with (tmp_path / f"{name}.log").open("wb") as log:
                command = [sys.executable, "-m", "kingbus_operator.main", "run", "--image", "kingbus:1"]
                command += ["--identity", name, "--namespace", "default", "--port", str(ports[-1].number)]
                environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
                running[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        yield running
    finally:
        for process in running.values():
            process.terminate()
        codes = {name: process.wait(60) for name, process in running.items()}
        print({name: (tmp_path / f"{name}.log").read_text()[-4000:] for name in running}, codes)


def _kubeconfig(who: Credentials) -> Json:
    def encoded(text: str | None) -> str:
        return base64.b64encode((text or "").encode()).decode()

    user: Json = {
        "client-certificate-data": encoded(who.certificate_data),
        "client-key-data": encoded(who.key_data),
    }
    cluster: Json = {"server": who.server, "certificate-authority-data": encoded(who.ca_data)}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": cluster}],
        "users": [{"name": "x", "user": user}],
    }


def _quietly(question: Callable[[], Json | None]) -> Json | None:
    try:
        return question()
    except ApiError:
        return None


def test_a_killed_operator_is_followed_by_the_other_and_an_outage_is_outlived(
    own_plane: ControlPlane, operators: dict[str, subprocess.Popen[bytes]]
) -> None:
    default = Namespace(own_plane, "default")

    def holder() -> str:
        return str(dig(_quietly(lambda: default.get("Lease", "kingbus-operator")), "spec", "holderIdentity") or "")

    def is_made(name: str) -> bool:
        return _quietly(lambda: default.get("StatefulSet", name)) is not None

    wait_until(lambda: holder() in operators, _DEADLINE, "an operator to lead", interval=0.2)
    default.post(plain("first"))
    wait_until(lambda: is_made("first"), _DEADLINE, "the first cluster", interval=0.2)

    killed = holder()
    (left,) = set(operators) - {killed}
    operators[killed].send_signal(signal.SIGKILL)
    default.post(plain("second"))
    wait_until(lambda: is_made("second"), _DEADLINE, "the second cluster, by the other operator", interval=0.2)
    assert holder() == left

    own_plane.stop()
    own_plane.start()
    default.post(plain("third"))
    wait_until(lambda: is_made("third"), _DEADLINE, "the third cluster, after the outage", interval=0.2)
    assert holder() == left
    assert operators[left].poll() is None, "the same process"
