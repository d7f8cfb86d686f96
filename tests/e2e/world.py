"""What the tests do: kubectl, a release of the chart, a cluster with a real source and replicas around it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import yaml
from kube.world import changed
from servers.fixtures import Pool
from servers.repeating import repeating
from servers.workload import Workload
from tools import helm

from e2e.local.cluster import Cluster, folder
from kingbus_node.demo.compare import differences, table_sums
from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER, Server
from kingbus_node.demo.replication import Upstream, executed, replicate, status, wait_caught_up
from kingbus_node.demo.waiting import wait_until
from kingbus_operator.api.types import Json
from kingbus_operator.planning.observed import dig, number

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "kingbus"
DOCUMENT = Path(__file__).parents[2] / "docs" / "kubernetes.md"
SYSTEM = "kingbus-system"
READER, PASSWORD = "reader", "reading"
T = TypeVar("T")

PATIENCE = 240.0
"""For what may take as long as a busy machine likes. What is promised in seconds is measured, not waited for."""

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


class Refused(Exception):
    """kubectl failed; the text is what it said."""


def kubectl(*arguments: str, text: str | None = None, timeout: float = 180.0) -> str:
    """What kubectl printed. Refused."""
    done = subprocess.run(
        ["kubectl", *arguments], input=text, capture_output=True, text=True, timeout=timeout, check=False
    )
    if done.returncode:
        raise Refused(done.stderr.strip() or done.stdout.strip())
    return done.stdout


def namespace(name: str) -> None:
    """Makes a namespace in which only pods are let in that fit the restricted Pod Security Standard."""
    metadata = {"name": name, "labels": RESTRICTED}
    kubectl("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}))


def delete_namespace(name: str) -> None:
    """And all that is in it, without waiting for its pods to end in peace."""
    kubectl("delete", "pods", "--all", "-n", name, "--grace-period=0", "--force", "--wait=false")
    kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false")


def readme_manifest() -> Json:
    """The manifest that people are told to apply."""
    for block in re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL):
        found = yaml.safe_load(block)
        if isinstance(found, dict) and found.get("kind") == "BinlogCluster":
            return found
    raise AssertionError(f"{DOCUMENT} has no manifest of a BinlogCluster any more")


@dataclass(frozen=True, slots=True)
class Release:
    """The operator, as the chart installs it."""

    name: str = "kingbus"
    deployment: str = "kingbus-operator"

    def install(self, image: str) -> None:
        repository, _, tag = image.rpartition(":")
        done = helm.run(
            "upgrade", "--install", self.name, CHART, "--namespace", SYSTEM, "--wait", "--timeout", "115s",
            "--set", f"image.repository={repository}", "--set", f"image.tag={tag}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + "\n" + self.story()

    def test(self) -> str:
        done = helm.run("test", self.name, "--namespace", SYSTEM, "--timeout", "115s")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def uninstall(self) -> None:
        done = helm.run("uninstall", self.name, "--namespace", SYSTEM, "--wait", "--timeout", "115s")
        assert done.returncode == 0, done.stderr

    def pods(self) -> list[Json]:
        return items("pods", SYSTEM, "app.kubernetes.io/component=operator")

    def leader(self) -> str:
        """The pod that holds the Lease."""
        lease = json.loads(kubectl("get", "lease", "kingbus-operator", "-n", SYSTEM, "-o", "json"))
        return str(dig(lease, "spec", "holderIdentity")).partition("_")[0]

    def node_of(self, pod: str) -> str:
        return kubectl("get", "pod", pod, "-n", SYSTEM, "-o", "jsonpath={.spec.nodeName}")

    def scale(self, replicas: int) -> None:
        """0: there is no operator until somebody scales it up again."""
        kubectl("scale", "deployment", self.deployment, "-n", SYSTEM, f"--replicas={replicas}")
        if replicas == 0:
            wait_until(lambda: not self.pods(), PATIENCE, "the operator to be gone", interval=0.3)
        else:
            kubectl("rollout", "status", f"deployment/{self.deployment}", "-n", SYSTEM, "--timeout=170s")

    def story(self) -> str:
        return told("logs", "-n", SYSTEM, "-l", "app.kubernetes.io/name=kingbus", "--tail=60") + told(
            "describe", "pods", "-n", SYSTEM
        )


def items(kind: str, where: str, selector: str = "") -> list[Json]:
    """The objects of a kind in a namespace."""
    found = json.loads(kubectl("get", kind, "-n", where, "-l", selector, "-o", "json"))["items"]
    return list(found)


def default_storage_class() -> str:
    """Its name."""
    for found in json.loads(kubectl("get", "storageclass", "-o", "json"))["items"]:
        if dig(found, "metadata", "annotations", "storageclass.kubernetes.io/is-default-class") == "true":
            return str(dig(found, "metadata", "name"))
    raise AssertionError("these tests need a default StorageClass")


def told(*arguments: str) -> str:
    """For reports: what kubectl says, or why it says nothing."""
    try:
        return f"--- kubectl {' '.join(arguments)}\n{kubectl(*arguments)}\n"
    except (Refused, subprocess.TimeoutExpired) as error:
        return f"--- kubectl {' '.join(arguments)}: {error}\n"


@dataclass(slots=True)
class Stage:
    """A namespace with one BinlogCluster, the source it reads from, and replicas that follow it by name."""

    where: str
    """The namespace."""
    pool: Pool
    name: str = "orders"
    source: Server = field(init=False)
    workload: Workload = field(init=False)
    replicas: list[Server] = field(default_factory=list)

    def open(self) -> None:
        namespace(self.where)
        self.source = self.server(port=3306)
        self._name_source()
        self.workload = Workload(self.source).create()
        self.secret("orders-source", username=REPLICATION_USER, password=REPLICATION_PASSWORD)
        self.secret("orders-replicas", **{READER: PASSWORD})

    def close(self) -> None:
        delete_namespace(self.where)

    def server(self, port: int | None = None) -> Server:
        """Another server, that pods can reach."""
        return self.pool.server("mysql-9.7", {"bind-address": "*", "replica-net-timeout": 6}, port)

    def _name_source(self) -> None:
        """Pods find the source as `mysql-0.mysql`, as they would find a pod of a StatefulSet `mysql`."""
        ports = [{"name": "mysql", "port": self.source.port}]
        metadata = {"name": "mysql", "namespace": self.where}
        labels = {"kubernetes.io/service-name": "mysql"}
        service = {"apiVersion": "v1", "kind": "Service", "metadata": metadata}
        endpoints = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**metadata, "labels": labels},
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": [{"addresses": [environment("E2E_ADDRESS")], "hostname": "mysql-0"}],
        }
        for body in ({**service, "spec": {"clusterIP": "None", "ports": ports}}, endpoints):
            kubectl("apply", "-f", "-", text=json.dumps(body))

    # Manifests

    def manifest(self, replicas: int | None = None) -> Json:
        """The documented manifest, in this namespace."""
        body = changed(readme_manifest(), "metadata.namespace", self.where)
        return body if replicas is None else changed(body, "spec.replicas", replicas)

    def apply(self, body: Json) -> None:
        """As a person does."""
        kubectl("apply", "-f", "-", text=json.dumps(body))

    def patch(self, **spec: object) -> None:
        """Changes fields of the spec."""
        kubectl("patch", "blc", self.name, "-n", self.where, "--type=merge", "-p", json.dumps({"spec": spec}))

    def secret(self, name: str, **values: str) -> None:
        """Makes or replaces a Secret."""
        metadata = {"name": name, "namespace": self.where}
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values}
        kubectl("apply", "-f", "-", text=json.dumps(body))

    # What there is

    def get(self, kind: str, name: str) -> Json:
        found: Json = json.loads(kubectl("get", kind, name, "-n", self.where, "-o", "json"))
        return found

    def cluster(self) -> Json:
        return self.get("blc", self.name)

    def status(self) -> Json:
        found = self.cluster().get("status")
        return found if isinstance(found, dict) else {}

    def condition(self, kind: str) -> Json:
        found = self.status().get("conditions")
        held = [one for one in found if dig(one, "type") == kind] if isinstance(found, list) else []
        return held[0] if held else {}

    def pods(self) -> list[Json]:
        return items("pods", self.where, f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component=node")

    def pod_names(self) -> list[str]:
        return sorted(str(dig(pod, "metadata", "name")) for pod in self.pods())

    def served(self) -> str | None:
        """The pod that the leader Service selects."""
        found = dig(self.get("service", self.name), "spec", "selector", "statefulset.kubernetes.io/pod-name")
        return None if found is None else str(found)

    def elected(self, term: int) -> datetime:
        """When the leader of a term was elected, by its own log."""
        return self._said(
            lambda entry: str(entry["message"]).endswith(f" leads in term {term}"), f"leads in term {term}"
        )

    def named(self, term: int) -> datetime:
        """When that leader knew that the leader Service names it."""
        message = "the leader Service names this pod"
        return self._said(lambda entry: entry["message"] == message and entry.get("term") == term, f"{message}, {term}")

    def _said(self, is_it: Callable[[Json], bool], what: str) -> datetime:
        """When a pod said so. It may do that a moment after others see what it speaks of."""

        def found() -> datetime | None:
            for pod in self.pod_names():
                for options in ([], ["--previous"]):
                    for line in told("logs", pod, "-n", self.where, *options).splitlines():
                        entry: Json = json.loads(line) if line.startswith("{") else {"message": line}
                        if is_it(entry):
                            return datetime.fromisoformat(str(entry["time"]).replace("Z", "+00:00"))
            return None

        return self.wait(found, f"a pod to say: {what}")

    def term(self) -> int:
        """The term of the leader that the leader Service names."""
        return int(str(dig(self.get("service", self.name), "metadata", "annotations", "kingbus.io/term")))

    def kingbus(self, pod: str, *arguments: str) -> str:
        """What the command line says in a pod."""
        return kubectl("exec", pod, "-n", self.where, "--", "kingbus", *arguments)

    def members(self, pod: str) -> list[str]:
        """The members of the cluster by name, as a pod knows them."""
        return sorted(str(member["name"]) for member in json.loads(self.kingbus(pod, "members", "list", "-o", "json")))

    def log(self, pod: str, *options: str) -> str:
        return kubectl("logs", pod, "-n", self.where, *options)

    def events(self) -> list[Json]:
        return items("events", self.where)

    def node_of(self, pod: str) -> str:
        return str(dig(self.get("pod", pod), "spec", "nodeName"))

    def restarts(self) -> dict[str, int]:
        """Of each pod, by its identity: another pod of the same name is another entry."""
        return {
            str(dig(pod, "metadata", "uid")): number(dig(pod, "status", "containerStatuses", 0, "restartCount"))
            for pod in self.pods()
        }

    def dumps(self) -> dict[int, str]:
        """Who reads the source's binary log: the numbers of the connections, and their users."""
        rows = self.source.table("SHOW PROCESSLIST")
        return {int(str(row["Id"])): str(row["User"]) for row in rows if str(row["Command"]).startswith("Binlog Dump")}

    def drop_dumps(self) -> None:
        """Cuts them off."""
        for connection in self.dumps():
            self.source.sql(f"KILL {connection}")

    def allowed_disruptions(self) -> int:
        """How many pods may be evicted now, by the disruption controller, which counts ready pods a moment later."""
        return number(dig(self.get("pdb", self.name), "status", "disruptionsAllowed"))

    def evict(self, pod: str) -> None:
        """As a drain does. Refused."""
        metadata = {"name": pod, "namespace": self.where}
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
        where = f"/api/v1/namespaces/{self.where}/pods/{pod}/eviction"
        kubectl("create", "--raw", where, "-f", "-", text=json.dumps(body))

    def story(self) -> str:
        """For when something does not come."""
        parts = [told("get", "blc,pods,pvc,svc", "-n", self.where, "-o", "wide")]
        parts.append(told("describe", "blc", "-n", self.where))
        parts.append(told("get", "events", "-n", self.where, "--sort-by=.lastTimestamp"))
        parts += [told("logs", pod, "-n", self.where, "--tail=40") for pod in self.pod_names()]
        parts.append(told("logs", "-n", SYSTEM, "-l", "app.kubernetes.io/name=kingbus", "--tail=40"))
        return "\n".join(parts)

    # Waiting

    def leader(self, replicas: int) -> str | None:
        """The leader's pod, when the operator says of the present spec that all is as it should be."""
        body = self.cluster()
        state, generation = body.get("status"), dig(body, "metadata", "generation")
        if not isinstance(state, dict) or state.get("observedGeneration") != generation:
            return None
        members = state.get("members")
        roles = sorted(str(dig(member, "role")) for member in members) if isinstance(members, list) else []
        if state.get("phase") != "Running" or roles != ["follower"] * (replicas - 1) + ["leader"]:
            return None
        leader = str(state["leader"])
        return leader if self.served() == leader else None

    def wait_settled(self, replicas: int) -> str:
        """The leader's pod, which the leader Service names."""
        return self.wait(lambda: self.leader(replicas), f"{replicas} pods to run as the spec says")

    def all_ready(self, replicas: int) -> None:
        """Waits until Kubernetes says so of every pod; without the operator too."""
        self.wait(lambda: self.ready() == replicas, f"{replicas} ready pods")

    def ready(self) -> int:
        """How many pods are ready."""
        return sum(_is_ready(pod) for pod in self.pods())

    def wait(self, condition: Callable[[], T | None], what: str) -> T:
        return wait_until(condition, PATIENCE, what, interval=0.3, found=self.story)

    # Replicas

    def replica(self, service: str | None = None) -> Server:
        """A server that follows a Service by its name, with TLS, as documented."""
        made = self.server()
        host = f"{service or self.name}.{self.where}"
        upstream = Upstream(3306, READER, PASSWORD)
        replicate(made, upstream, options=f", SOURCE_HOST = '{host}', SOURCE_SSL = 1")
        self.replicas.append(made)
        return made

    def catch_up(self) -> None:
        """Every replica gets what the source has by now; under load too."""
        self.workload.small()
        for replica in self.replicas:
            try:
                wait_caught_up(self.source, replica, PATIENCE)
            except Exception as error:
                error.add_note(self.story())
                raise

    def converges(self) -> None:
        """Every replica gets everything, once, and holds what the source holds. The source must be at rest."""
        self.catch_up()
        for replica in self.replicas:
            assert differences(self.source, replica) == []
            assert executed(replica) == executed(self.source), "each transaction once"
        assert sum(found.rows for found in table_sums(self.source).values()) > 0

    @contextmanager
    def counting(self) -> Iterator[Count]:
        """Counts pods all the while that have not been taken away; one that was made anew counts once it was ready."""
        count = Count()

        # Ready by now, not ready now: on a busy machine a probe may come too late.
        been_ready: set[str] = set()

        def look() -> None:
            pods = {str(dig(pod, "metadata", "uid")): pod for pod in self.pods()}
            been_ready.update(uid for uid, pod in pods.items() if _is_ready(pod))
            staying = {uid for uid, pod in pods.items() if dig(pod, "metadata", "deletionTimestamp") is None}
            count.fewest = min(count.fewest, len(staying & been_ready))

        look()
        with repeating(look, 0.3):
            yield count

    @contextmanager
    def load(self) -> Iterator[Watch]:
        """Transactions all the while; no replica may stop with an error meanwhile, and all converge afterwards."""
        watch = Watch(self.replicas)
        before = executed(self.source)
        with self.workload.in_background(), repeating(watch.look, 0.1):
            yield watch
        assert executed(self.source) != before, "there was no load"
        assert watch.errors == [], "a replica stopped"
        self.converges()


def connected(replica: Server) -> list[datetime]:
    """When a replica reached its source, by its own log."""
    lines = [line for line in replica.error_log.read_text().splitlines() if "connected to source" in line]
    return [datetime.fromisoformat(line.split(" ", 1)[0].replace("Z", "+00:00")) for line in lines]


@dataclass(slots=True)
class Count:
    """The smallest number of pods that was seen."""

    fewest: int = 99


@dataclass(slots=True)
class Watch:
    """Looks at replicas all the time."""

    replicas: list[Server]
    errors: list[str] = field(default_factory=list)

    def look(self) -> None:
        for replica in self.replicas:
            now = status(replica)
            if now is None or now.broken:
                self.errors.append(f"{replica!r}: {now.broken if now else 'is no replica'}")


def _is_ready(pod: Json) -> bool:
    found = dig(pod, "status", "conditions")
    held = found if isinstance(found, list) else []
    return any(dig(one, "type") == "Ready" and dig(one, "status") == "True" for one in held)


@dataclass(frozen=True, slots=True)
class Machine:
    """The processes of pods, as the machine sees them that runs the nodes."""

    def processes(self, pod: Json) -> list[int]:
        """Of a pod's containers, oldest first; the one that only holds the pod's namespaces is left out."""
        found = self._processes(pod)
        assert found, f"no process of pod {dig(pod, 'metadata', 'uid')} is on this machine"
        return found

    def _processes(self, pod: Json) -> list[int]:
        uid = str(dig(pod, "metadata", "uid"))
        written = (uid, uid.replace("-", "_"))  # systemd's cgroups have no hyphens in names
        found: list[tuple[int, int]] = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                groups, program = (entry / "cgroup").read_text(), (entry / "comm").read_text().strip()
                if any(form in groups for form in written) and program != "pause":
                    began = (entry / "stat").read_text().rpartition(")")[2].split()[19]
                    found.append((int(began), int(entry.name)))
            except (FileNotFoundError, ProcessLookupError):
                continue
        return [pid for _, pid in sorted(found)]

    @contextmanager
    def without_api_server(self) -> Iterator[None]:
        """No API server: here it is killed and refuses connections, elsewhere it hangs."""
        if environment("KINGBUS_E2E") == "local":
            cluster = local()
            cluster.stop_apiserver()
            try:
                yield
            finally:
                cluster.start_apiserver()
            return
        servers = [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdecimal() and (entry / "comm").read_text().strip() == "kube-apiserver"
        ]
        assert servers, "the API server does not run on this machine"
        for pid in servers:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in servers:
                os.kill(pid, signal.SIGCONT)

    def runs(self, pod: Json) -> bool:
        """Whether a container of the pod has a process."""
        return bool(self._processes(pod))

    def signal(self, pod: Json, number: int) -> None:
        """Sends a signal to all processes of a pod; some of them may end with the first."""
        for pid in self.processes(pod):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def local() -> Cluster:
    """The cluster, when it is one of `e2e.local`."""
    program = shutil.which("kube-apiserver")
    assert program is not None, "the programs are on the PATH that `e2e.run` sets"
    return Cluster(folder(), Path(program).parent)


def environment(name: str, variables: Mapping[str, str] = os.environ) -> str:
    """A variable that `e2e.run` sets."""
    assert name in variables, f"{name} is not set: run these tests by `make e2e`"
    return variables[name]


def seconds(what: Callable[[], object]) -> float:
    """How long something took."""
    began = time.monotonic()
    what()
    return time.monotonic() - began
