"""`make e2e`: finds or makes a Kubernetes, and runs the tests on it.

    python -m e2e.run test [pytest's arguments]      a cluster for these tests, or the one that `up` keeps
    python -m e2e.run up | down                      a cluster that stays
    python -m e2e.run kubectl [arguments]            kubectl, as administrator of that cluster

Which Kubernetes:

1. with E2E_USE_KUBECONFIG=1 the one of KUBECONFIG. E2E_IMAGE and E2E_IMAGE_NEXT name the image, under two names, such
   that its nodes can pull it. This machine must be on its nodes' network: Services' addresses lead into the cluster,
   and pods reach this machine at E2E_ADDRESS. Tests that stop processes need to be on the machine that runs the nodes;
2. where Docker answers and there is a `kind`, one made by that;
3. otherwise one made of `e2e.local`, as root. What that is made of is built on first use and kept.

The tests run in the network of the first node. There they reach Services by name, and pods reach their MySQL servers.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml
from kube.binaries import BinariesError, ensure_all
from tools import ToolMissing, helm
from tools.image import NAME, ROOT, Buildah, docker_answers

from e2e.local.cluster import Cluster, folder
from e2e.local.node import CONTROL_PLANE, NodeFailed
from kingbus_node.demo.servers import ensure as ensure_server

NEXT = f"{NAME}-next"
"""Another name of the same image: what a rolling change of images changes to."""

KIND = "kingbus-e2e"
_NETWORK = """
resolver=$(readlink -f /etc/resolv.conf)
mount --bind "$E2E_RESOLVER" "$resolver"
exec "$@"
"""


class Unusable(Exception):
    """There is no Kubernetes to be had; the text says what to do."""


def _local() -> Cluster:
    if os.geteuid() != 0:
        raise Unusable("expected root, or Docker and kind, or E2E_USE_KUBECONFIG=1 and KUBECONFIG")
    return Cluster(folder(), ensure_all())


def _kind() -> bool:
    return shutil.which("kind") is not None and docker_answers()


def up() -> None:
    """Makes a cluster."""
    if _kind():
        _kind_up()
        return
    cluster = _local()
    image = Buildah()
    image.build()
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch) / "kingbus.tar"
        image.archive(archive)
        cluster.up(archive, (NAME, NEXT))


def down() -> None:
    """Removes it."""
    if _kind():
        subprocess.run(["kind", "delete", "cluster", "--name", KIND], check=True)
    else:
        _local().down()


def _kind_up() -> None:
    name, later = NAME.removeprefix("localhost/"), NEXT.removeprefix("localhost/")
    subprocess.run(["docker", "build", "--tag", name, "--tag", later, str(ROOT)], check=True)
    nodes = {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4"}
    roles = [{"role": role} for role in ("control-plane", "worker", "worker")]
    subprocess.run(
        ["kind", "create", "cluster", "--name", KIND, "--config", "-", "--wait", "180s"],
        input=yaml.safe_dump({**nodes, "nodes": roles}), text=True, check=True,
    )  # fmt: skip
    subprocess.run(["kind", "load", "docker-image", "--name", KIND, name, later], check=True)


def test(arguments: Sequence[str]) -> int:
    """Runs the tests. A cluster that is there is used and stays; one that has to be made ends with them."""
    helm.ensure()
    ensure_server("mysql-9.7")
    if os.environ.get("E2E_USE_KUBECONFIG") == "1":
        missing = [name for name in ("KUBECONFIG", "E2E_IMAGE", "E2E_IMAGE_NEXT") if not os.environ.get(name)]
        if missing:
            raise Unusable(f"E2E_USE_KUBECONFIG=1 needs {', '.join(missing)} too")
        return _pytest([], {"KINGBUS_E2E": "given"}, arguments)
    kept = _there()
    if not kept:
        up()
    try:
        return _kind_test(arguments) if _kind() else _local_test(arguments)
    finally:
        if not kept:
            down()


def _there() -> bool:
    if _kind():
        done = subprocess.run(["kind", "get", "clusters"], capture_output=True, text=True, check=True)
        return KIND in done.stdout.split()
    return _local().running


def _local_test(arguments: Sequence[str]) -> int:
    cluster = _local()
    environment = {
        "KINGBUS_E2E": "local",
        "KUBECONFIG": str(cluster.kubeconfig),
        "E2E_IMAGE": NAME,
        "E2E_IMAGE_NEXT": NEXT,
        "E2E_ADDRESS": CONTROL_PLANE,
        "PATH": cluster.nodes[0].environment()["PATH"],
    }
    return _pytest([f"--net=/proc/{cluster.nodes[0].first}/ns/net"], environment, arguments)


def _kind_test(arguments: Sequence[str]) -> int:
    def docker(form: str, name: str) -> str:
        command = ["docker", "inspect", "--format", form, name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    server = f"{KIND}-control-plane"
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch) / "kubeconfig"
        command = ["kind", "get", "kubeconfig", "--name", KIND, "--internal"]
        config.write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        address = docker("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", server)
        config.write_text(config.read_text().replace(f"https://{server}:", f"https://{address}:"))
        environment = {
            "KINGBUS_E2E": "kind",
            "KUBECONFIG": str(config),
            "E2E_IMAGE": NAME.removeprefix("localhost/"),
            "E2E_IMAGE_NEXT": NEXT.removeprefix("localhost/"),
            "E2E_ADDRESS": address,
        }
        return _pytest([f"--net=/proc/{docker('{{.State.Pid}}', server)}/ns/net"], environment, arguments)


def _pytest(network: Sequence[str], more: dict[str, str], arguments: Sequence[str]) -> int:
    """Runs pytest in a network, where the cluster's own DNS answers."""
    environment = {**os.environ, **more}
    tests = str(ROOT / "tests" / "e2e")
    paths = [] if any(argument.startswith("tests/e2e/") for argument in arguments) else [tests]
    command = [sys.executable, "-m", "pytest", "--timeout=900", *paths, *arguments]
    with tempfile.TemporaryDirectory() as scratch:
        if network:
            found = subprocess.run(
                ["nsenter", *network, "kubectl", "-n", "kube-system", "get", "service", "kube-dns", "-o", "json"],
                capture_output=True, text=True, check=True, env=environment,
            )  # fmt: skip
            server = json.loads(found.stdout)["spec"]["clusterIP"]
            resolver = Path(scratch) / "resolv.conf"
            search = "search svc.cluster.local cluster.local\noptions ndots:5 timeout:2\n"
            resolver.write_text(f"nameserver {server}\n{search}")
            environment["E2E_RESOLVER"] = str(resolver)
            command = ["nsenter", *network, "unshare", "--mount", "sh", "-ec", _NETWORK, "sh", *command]
        return subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode


def kubectl(arguments: Sequence[str]) -> int:
    """For people."""
    first = _local().nodes[0]
    config = _local().kubeconfig
    command = ["nsenter", f"--net=/proc/{first.first}/ns/net", "kubectl", f"--kubeconfig={config}", *arguments]
    return subprocess.run(command, env=first.environment(), check=False).returncode


def main() -> int:
    """The command line."""
    verb, *arguments = sys.argv[1:] or ["test"]
    try:
        if verb == "up":
            up()
        elif verb == "down":
            down()
        elif verb == "test":
            return test(arguments)
        elif verb == "kubectl":
            return kubectl(arguments)
        else:
            print(__doc__, file=sys.stderr)
            return 2
    except (Unusable, BinariesError, NodeFailed, ToolMissing) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
