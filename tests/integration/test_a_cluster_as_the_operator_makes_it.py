"""Real nodes run with the configuration, the environment, the certificates and the Secrets that the operator makes.

No Kubernetes is needed for that: what the kubelet would mount is written into folders, with the addresses of this
machine in the place of pods' names (the certificates are for `localhost` too). Then the operator's own client asks the
nodes, Secrets and certificates change under them, and a pod's preStop hands over.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pymysql
import pytest
from manifests import Object, containers, find, mapping, mappings, pod_spec
from pymysql.connections import Connection
from pymysql.cursors import Cursor
from servers.fixtures import Pool

from kingbus_node.demo.compare import differences
from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER, Server
from kingbus_node.demo.ports import ReservedPort
from kingbus_node.demo.replication import Upstream, replicate, wait_caught_up
from kingbus_node.demo.waiting import wait_until
from kingbus_operator.api.types import Cluster
from kingbus_operator.build.certificates import LEAF_LIFE, host_names, renewed
from kingbus_operator.build.common import CONFIG_DIR, DATA_DIR, Certificates, Inputs, Names
from kingbus_operator.build.objects import objects
from kingbus_operator.kube.nodes import HttpNodes, NodeError, Target
from kingbus_operator.planning.observed import NodeView

NAMES = Names("orders", "shop")
PODS = [NAMES.pod(ordinal) for ordinal in range(3)]
TOKEN = "token-of-the-test"

_T = TypeVar("_T")


def certificates(present: Certificates | None, now: datetime) -> Certificates:
    return renewed(present, "orders", host_names(NAMES, "cluster.local"), now)


@dataclass(slots=True)
class Deployed:
    """Three pods without Kubernetes: a folder, an environment and a process each."""

    folder: Path
    certificates: Certificates
    source: Server
    mysql: Mapping[str, ReservedPort]
    raft: Mapping[str, ReservedPort]
    admin: Mapping[str, ReservedPort]
    made: list[Object]
    processes: dict[str, subprocess.Popen[bytes]]

    def mount(self, volume: str, files: Mapping[str, str]) -> None:
        """What the kubelet does with a changed Secret: new files in the place of the old ones."""
        target = self.folder / volume
        target.mkdir(exist_ok=True)
        for name, text in files.items():
            partial = target / f"..{name}"
            partial.write_text(text)
            partial.replace(target / name)
        for gone in [path for path in target.iterdir() if path.name not in files]:
            gone.unlink()

    def environment(self, pod: str) -> dict[str, str]:
        """That of the container, then what says where this machine is."""
        (container,) = containers(pod_spec(find(self.made, "StatefulSet", "orders")))
        fields = {"metadata.name": pod, "metadata.namespace": NAMES.namespace}
        result = {name: value for name, value in os.environ.items() if not name.startswith("KINGBUS_")}
        for item in mappings(container["env"]):
            if "value" in item:
                value = str(item["value"]).replace("$(POD_NAME)", pod)
            else:
                value = fields[str(mapping(mapping(mapping(item["valueFrom"])["fieldRef"]))["fieldPath"])]
            result[str(item["name"])] = value.replace(CONFIG_DIR, str(self.folder))
        return result | {
            "KINGBUS_NODE__DATA_DIR": str(self.folder / pod),
            "KINGBUS_RAFT__LISTEN": f"127.0.0.1:{self.raft[pod].number}",
            "KINGBUS_RAFT__ADVERTISE": f"localhost:{self.raft[pod].number}",
            "KINGBUS_RAFT__PEERS": ",".join(f"localhost:{port.number}" for port in self.raft.values()),
            "KINGBUS_SERVE__LISTEN": f"127.0.0.1:{self.mysql[pod].number}",
            "KINGBUS_ADMIN__LISTEN": f"127.0.0.1:{self.admin[pod].number}",
            "KINGBUS_STORAGE__MIN_FREE_BYTES": "0",
            # No other leader than the one that is handed over to, on a busy machine.
            "KINGBUS_RAFT__ELECTION_TIMEOUT": "4s",
            "KINGBUS_ADMIN": f"https://localhost:{self.admin[pod].number}",
        }

    def command(self, *command: str, pod: str) -> subprocess.CompletedProcess[str]:
        """As `kubectl exec` or a hook would run it."""
        return subprocess.run(
            [sys.executable, *command],
            env=self.environment(pod),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def ask(self, work: Callable[[HttpNodes, Target], Awaitable[_T]], pod: str, token: str = TOKEN) -> _T:
        """With the operator's client, which wants the certificate to be the pod's."""
        ca = self.certificates.tls_secret["ca.crt"]
        target = Target("127.0.0.1", NAMES.host(pod), ca, token, self.admin[pod].number)

        async def main() -> _T:
            async with HttpNodes() as nodes:
                return await work(nodes, target)

        return asyncio.run(main())

    def look(self, pod: str) -> NodeView:
        return self.ask(lambda nodes, target: nodes.look(target), pod)

    def leader(self) -> str | None:
        """The pod that says that it leads and is ready."""
        for pod in PODS:
            try:
                if self.look(pod).role == "leader":
                    return pod
            except NodeError:
                continue
        return None

    def wait_leader(self) -> str:
        return wait_until(self.leader, 90, "a leader", interval=0.1, found=self.logs)

    def log_in(self, pod: str, user: str, password: str) -> Connection[Cursor]:
        """As a replica would, over TLS, trusting the cluster's CA only."""
        return pymysql.connect(
            host="localhost", port=self.mysql[pod].number, user=user, password=password,
            ssl_ca=str(self.folder / "tls" / "ca.crt"), ssl_verify_cert=True, ssl_verify_identity=True,
            connect_timeout=20, read_timeout=20,
        )  # fmt: skip

    def certificate(self, port: ReservedPort) -> str:
        """What the admin API shows now, in PEM."""
        return ssl.get_server_certificate(("127.0.0.1", port.number))

    def logs(self) -> str:
        return "\n".join((self.folder / f"{pod}.log").read_text()[-3000:] for pod in PODS)


def _data(secret: Object) -> dict[str, str]:
    return {key: base64.b64decode(str(value)).decode() for key, value in mapping(secret["data"]).items()}


@pytest.fixture(scope="module")
def deployed(module_pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    folder = tmp_path_factory.mktemp("pods")
    source = module_pool.server("mysql-9.7")
    body: Object = {
        "metadata": {"namespace": NAMES.namespace, "name": NAMES.cluster, "uid": "u"},
        "spec": {
            "source": {
                "endpoints": [{"host": "127.0.0.1", "port": source.port}],
                "credentialsSecretRef": {"name": "orders-source"},
            },
            "access": {"usersSecretRef": {"name": "orders-replicas"}},
            "storage": {"size": "10Gi"},
        },
    }
    own = certificates(None, datetime.now(UTC))
    made = objects(Inputs(Cluster.parse(body), "kingbus", 3, 3, own, TOKEN))
    mysql, raft, admin = ({pod: ReservedPort() for pod in PODS} for _ in range(3))
    deployed = Deployed(folder, own, source, mysql, raft, admin, made, {})
    text = str(mapping(find(made, "ConfigMap", "orders-config")["data"])["kingbus.yaml"])
    assert DATA_DIR in text
    deployed.mount("config", {"kingbus.yaml": text.replace(CONFIG_DIR, str(folder))})
    deployed.mount("tls", _data(find(made, "Secret", "orders-tls")))
    deployed.mount("admin", _data(find(made, "Secret", "orders-admin")))
    deployed.mount("source", {"username": REPLICATION_USER, "password": REPLICATION_PASSWORD})
    deployed.mount("users", {"reader": "reading"})
    (container,) = containers(pod_spec(find(made, "StatefulSet", "orders")))
    volumes = {str(mount["mountPath"]) for mount in mappings(container["volumeMounts"])}
    assert volumes == {
        DATA_DIR,
        "/tmp",
        *(f"{CONFIG_DIR}/{name}" for name in ("config", "tls", "admin", "source", "users")),
    }
    arguments = [argument.replace(CONFIG_DIR, str(folder)) for argument in _strings(container["args"])]
    with ExitStack() as stack:
        for pod in PODS:
            log = stack.enter_context((folder / f"{pod}.log").open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-m", "kingbus_node.cli", *arguments],
                env=deployed.environment(pod), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
            stack.callback(process.wait)
            stack.callback(process.kill)
            deployed.processes[pod] = process
        what = "all pods to be ready"
        wait_until(lambda: all(_ready(deployed, pod) for pod in PODS), 180, what, interval=0.1, found=deployed.logs)
        yield deployed


def _strings(value: object) -> list[str]:
    assert isinstance(value, list)
    return [str(item) for item in value]


def _or_none(ask: Callable[[], _T]) -> _T | None:
    """What a node tells; None while it does not answer."""
    try:
        return ask()
    except NodeError:
        return None


def _ready(deployed: Deployed, pod: str) -> bool:
    assert deployed.processes[pod].poll() is None, deployed.logs()
    try:
        return deployed.look(pod).ready
    except NodeError:
        return False


def test_the_operators_client_sees_one_leader_that_reads_from_the_source(deployed: Deployed) -> None:
    leader = deployed.wait_leader()
    wanted = set(PODS), "connected", (f"127.0.0.1:{deployed.source.port}",)

    def seen() -> tuple[set[str], str, tuple[str, ...] | None]:
        """Names are in the log a moment after their nodes have connected, and the source is connected to again."""
        view = deployed.look(leader)
        return {member.name for member in view.members}, view.source.state, view.source.configured

    wait_until(lambda: _or_none(seen) == wanted, 60, f"{leader} to tell {wanted}", found=lambda: str(_or_none(seen)))
    with pytest.raises(NodeError):
        deployed.ask(lambda nodes, target: nodes.look(target), leader, token="another")


def test_a_shell_in_the_pod_needs_no_options(deployed: Deployed) -> None:
    done = deployed.command("-m", "kingbus_node.cli", "status", "-o", "json", pod="orders-1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["node"] == "orders-1"


def test_a_replica_reads_over_tls_with_a_user_of_the_secret(deployed: Deployed, module_pool: Pool) -> None:
    deployed.source.sql(
        "CREATE DATABASE shop", "CREATE TABLE shop.t (id INT PRIMARY KEY)", "INSERT INTO shop.t VALUES (1)"
    )
    replica = module_pool.server("mysql-9.7")
    options = f", SOURCE_SSL = 1, SOURCE_SSL_CA = '{deployed.folder / 'tls' / 'ca.crt'}'"
    replicate(replica, Upstream(deployed.mysql["orders-2"].number, "reader", "reading"), options=options)
    wait_caught_up(deployed.source, replica, 90)
    assert differences(deployed.source, replica) == []


def test_a_changed_users_secret_is_followed_and_harms_nobody_who_is_connected(deployed: Deployed) -> None:
    def logs_in(user: str, password: str) -> bool:
        try:
            deployed.log_in("orders-0", user, password).close()
        except pymysql.err.OperationalError:
            return False
        return True

    with closing(deployed.log_in("orders-0", "reader", "reading")) as old:
        deployed.mount("users", {"reader": "changed", "second": "new"})
        # Each serve process reads the users by itself, and may have done so between two of the files.
        for what, changed in {
            "the new password": lambda: logs_in("reader", "changed"),
            "the new user": lambda: logs_in("second", "new"),
            "the end of the old password": lambda: not logs_in("reader", "reading"),
        }.items():
            wait_until(changed, 60, what, interval=0.1, found=deployed.logs)
        old.ping(reconnect=False)
        deployed.mount("users", {"reader": "reading"})
        wait_until(lambda: logs_in("reader", "reading"), 60, "the old password again", interval=0.1)


def test_a_renewed_certificate_is_shown_without_a_restart(deployed: Deployed) -> None:
    """Two thirds of its life later the operator makes another one, of the same CA; trust does not change."""
    before = deployed.certificate(deployed.admin["orders-0"])
    later = certificates(deployed.certificates, datetime.now(UTC) + LEAF_LIFE * 3 / 4 - timedelta(days=1))
    assert later.tls_secret["tls.crt"] != deployed.certificates.tls_secret["tls.crt"]
    now = certificates(Certificates(deployed.certificates.ca_secret, {}), datetime.now(UTC))
    deployed.certificates = now
    deployed.mount("tls", now.tls_secret)
    for pod in PODS:
        port = deployed.admin[pod]
        what = f"{pod} to show the new certificate"
        wait_until(lambda port=port: deployed.certificate(port) != before, 60, what, interval=0.1, found=deployed.logs)  # type: ignore[misc]
        what = f"{pod} to be trusted as before, and in touch with the others"
        wait_until(lambda pod=pod: _ready(deployed, pod), 60, what, interval=0.1, found=deployed.logs)  # type: ignore[misc]


def test_prestop_hands_the_leadership_over(deployed: Deployed) -> None:
    leader = deployed.wait_leader()
    done = deployed.command("-m", "kingbus_node.kube.prestop", pod=leader)
    assert done.returncode == 0
    successor = deployed.wait_leader()
    assert successor != leader, done.stderr
    follower = next(pod for pod in PODS if pod not in (leader, successor))
    assert deployed.command("-m", "kingbus_node.kube.prestop", pod=follower).returncode == 0
    assert deployed.wait_leader() == successor


def test_the_nodes_end_when_told_to(deployed: Deployed) -> None:
    for process in deployed.processes.values():
        process.terminate()
    assert [process.wait(60) for process in deployed.processes.values()] == [0, 0, 0]
