"""A kubelet and a StatefulSet controller, played with real processes: each pod is a real node.

Each pod's process has a mount namespace of its own (root only), in which /etc/kingbus, the ServiceAccount's token, the
data directory and /etc/hosts are what the pod's would be, and a loopback address of its own. Nothing outside of it is
changed. There is no scheduler, no image, no network policy, no cgroup: what Kubernetes does around the process is not
tested here; what the operator and the nodes do with one another is.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from manifests import containers, mapping, mappings

from kingbus_operator.api.types import Json
from kingbus_operator.kube.client import Api, ApiError
from kingbus_operator.kube.nodes import HttpNodes, NodeError, Target
from kingbus_operator.planning.observed import dig, number
from kube.players import delete_now
from kube.world import Namespace

NAME = "orders"
MOST = 7
_STEP = 0.2

_ENTER = """
lay() { mount -t overlay overlay -o "lowerdir=$SKELETON/$1:/$1" "/$1"; }
lay etc; lay var/lib; lay run
mount --bind "$MOUNTS" /etc/kingbus
mount --bind "$DATA" /var/lib/kingbus
mount --bind "$ACCOUNT" /run/secrets/kubernetes.io/serviceaccount
exec "$@"
"""


@dataclass(slots=True)
class _Running:
    uid: str
    process: subprocess.Popen[bytes]
    ending: float | None = None
    """When it was told to end."""


@dataclass(slots=True)
class Pods:
    """The pods of one cluster. A context manager: inside of it the controllers work, in a thread."""

    namespace: Namespace
    folder: Path
    network: str
    """The first three bytes of the pods' addresses, such as `127.7.1`."""
    _running: dict[str, _Running] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    failure: BaseException | None = None
    fewest_ready: int = MOST
    """The smallest number of ready pods since somebody set it."""

    def ip(self, pod: str) -> str:
        return f"{self.network}.{int(pod.rpartition('-')[2]) + 1}"

    def pid(self, pod: str) -> int:
        """The node's process: the mount namespace is entered by exec, so that it is the one that was started."""
        return self._running[pod].process.pid

    def kill(self, pod: str) -> None:
        """kill -9, of the process group: the node and its workers."""
        os.killpg(self.pid(pod), signal.SIGKILL)

    def logs(self) -> str:
        return "\n".join(path.read_text()[-2500:] for path in sorted(self.folder.glob("*.log")))

    def __enter__(self) -> Pods:
        skeleton = self.folder / "skeleton"
        for place in ("etc/kingbus", "var/lib/kingbus", "run/secrets/kubernetes.io/serviceaccount"):
            (skeleton / place).mkdir(parents=True)
        pods = [f"{NAME}-{ordinal}" for ordinal in range(MOST)]
        names = [f"{self.ip(pod)} {pod}.{NAME}-nodes.{self.namespace.name}.svc" for pod in pods]
        hosts = ["127.0.0.1 localhost", *names]
        (skeleton / "etc/hosts").write_text("\n".join(hosts) + "\n")
        self._thread = threading.Thread(target=self._work, name="kubelet")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join()
        for running in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.process.pid, signal.SIGKILL)
            running.process.wait()

    def _work(self) -> None:
        try:
            asyncio.run(self._loop())
        except BaseException as error:  # noqa: BLE001 - told to the test, which is in another thread
            self.failure = error

    async def _loop(self) -> None:
        async with Api(self.namespace.plane.admin) as api, HttpNodes() as nodes:
            while not self._stop.is_set():
                try:
                    await self._controllers(api)
                    await self._kubelet(api, nodes)
                except ApiError as error:
                    if not (error.conflict or error.status == 404):
                        raise
                await asyncio.sleep(_STEP)

    async def _controllers(self, api: Api) -> None:
        """StatefulSets make and delete pods; the disruption controller counts."""
        where = self.namespace.name
        live = await api.get("StatefulSet", where, NAME)
        if live is None:
            return
        wanted = number(dig(live, "spec", "replicas"))
        pods = {str(dig(body, "metadata", "name")): body for body in await api.list("Pod", where)}
        for ordinal in range(wanted):
            if f"{NAME}-{ordinal}" not in pods:
                await api.create(_pod(live, where, ordinal))
        for name, body in pods.items():
            if int(name.rpartition("-")[2]) >= wanted and dig(body, "metadata", "deletionTimestamp") is None:
                await api.delete("Pod", where, name, str(dig(body, "metadata", "uid")))
        generation = dig(live, "metadata", "generation")
        if dig(live, "status", "observedGeneration") != generation:
            status: Json = {"status": {"observedGeneration": generation, "replicas": wanted}}
            await api.merge_patch("StatefulSet", where, f"{NAME}/status", status)
        ready = sum(_is_ready(body) for body in pods.values())
        self.fewest_ready = min(self.fewest_ready, ready)
        budget = await api.get("PodDisruptionBudget", where, NAME)
        if budget is not None:
            needed = wanted - number(dig(budget, "spec", "maxUnavailable"))
            counted: Json = {
                "observedGeneration": dig(budget, "metadata", "generation"),
                "currentHealthy": ready,
                "desiredHealthy": needed,
                "expectedPods": wanted,
                "disruptionsAllowed": max(0, ready - needed),
            }
            if any(dig(budget, "status", key) != value for key, value in counted.items()):
                counted["disruptedPods"] = None
                await api.merge_patch("PodDisruptionBudget", where, f"{NAME}/status", {"status": counted})

    async def _kubelet(self, api: Api, nodes: HttpNodes) -> None:
        bodies = {str(dig(body, "metadata", "name")): body for body in await api.list("Pod", self.namespace.name)}
        for name in set(self._running) - set(bodies):
            self._end(name)  # it was deleted without grace
        for name, body in bodies.items():
            uid = str(dig(body, "metadata", "uid"))
            running = self._running.get(name)
            if running is not None and running.uid != uid:
                self._end(name)
                continue
            if dig(body, "metadata", "deletionTimestamp") is not None:
                if running is None or self._ended(name):
                    self._running.pop(name, None)
                    await delete_now(api, self.namespace.name, name)
                continue
            await self._mount(api, name, body)
            if running is None or running.process.poll() is not None:
                self._running[name] = _Running(uid, self._start(name, body))
            await self._report(api, nodes, name, body)

    def _ended(self, name: str) -> bool:
        """Tell a pod to end, once: preStop, then SIGTERM. Whether it has ended by now; an impatient kill comes last."""
        running = self._running[name]
        if running.process.poll() is not None:
            return True
        if running.ending is None:
            running.ending = time.monotonic()
            threading.Thread(target=self._tell, args=(running.process.pid,)).start()
        elif time.monotonic() - running.ending > 60:
            self._end(name)
            return True
        return False

    def _tell(self, pid: int) -> None:
        try:
            entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            return  # it has ended by itself meanwhile
        environment = dict(entry.split("=", 1) for entry in entries if "=" in entry)
        hook = [sys.executable, "-m", "kingbus_node.kube.prestop"]
        with (self.folder / "prestop.log").open("ab") as log:
            command = ["nsenter", "--mount", f"--target={pid}", f"--wd={Path.cwd()}", *hook]
            subprocess.run(command, env=environment, stdout=log, stderr=log, timeout=60, check=False)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)

    def _end(self, name: str) -> None:
        process = self._running.pop(name).process
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    async def _report(self, api: Api, nodes: HttpNodes, name: str, body: Json) -> None:
        """The readiness probe, and the pod's status when it changed."""
        tls = self.folder / name / "mounts" / "tls" / "ca.crt"
        token = self.folder / name / "mounts" / "admin" / "token"
        host = f"{name}.{NAME}-nodes.{self.namespace.name}.svc"
        try:
            ready = (await nodes.look(Target(self.ip(name), host, tls.read_text(), token.read_text()))).ready
        except NodeError:
            ready = False
        if dig(body, "status", "podIP") == self.ip(name) and _is_ready(body) == ready:
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        status: Json = {
            "phase": "Running",
            "podIP": self.ip(name),
            "podIPs": [{"ip": self.ip(name)}],
            "conditions": [{"type": "Ready", "status": str(ready), "lastTransitionTime": now}],
        }
        await api.merge_patch("Pod", self.namespace.name, f"{name}/status", {"status": status})

    async def _mount(self, api: Api, name: str, body: Json) -> None:
        """Writes the pod's volumes, and again when they change."""
        mounts = self.folder / name / "mounts"
        for volume in mappings(mapping(body["spec"])["volumes"]):
            if "secret" in volume:
                source = await api.get("Secret", self.namespace.name, str(dig(volume, "secret", "secretName")))
                texts = {key: base64.b64decode(str(value)) for key, value in _entries(source, "data").items()}
            elif "configMap" in volume:
                source = await api.get("ConfigMap", self.namespace.name, str(dig(volume, "configMap", "name")))
                texts = {key: str(value).encode() for key, value in _entries(source, "data").items()}
            else:
                continue
            folder = mounts / str(volume["name"])
            folder.mkdir(parents=True, exist_ok=True)
            for key, text in texts.items():
                if not (folder / key).is_file() or (folder / key).read_bytes() != text:
                    (folder / f"..{key}").write_bytes(text)
                    (folder / f"..{key}").replace(folder / key)
        account = self.folder / name / "account"
        if not account.is_dir():
            request: Json = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
            where = f"/api/v1/namespaces/{self.namespace.name}/serviceaccounts/{NAME}/token"
            answer = await api._call("POST", where, body=request)
            account.mkdir(parents=True)
            (account / "token").write_text(str(dig(answer, "status", "token")))
            (account / "ca.crt").write_text(self.namespace.plane.admin.ca_data or "")

    def _start(self, name: str, body: Json) -> subprocess.Popen[bytes]:
        (container,) = containers(mapping(body["spec"]))
        server = urlsplit(self.namespace.plane.admin.server)
        ip, own = self.ip(name), self.folder / name
        fields = {"metadata.name": name, "metadata.namespace": self.namespace.name}
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("KINGBUS_", "KUBE"))}
        for item in mappings(container["env"]):
            source = dig(item, "valueFrom", "fieldRef", "fieldPath")
            value = fields[str(source)] if source else str(item["value"]).replace("$(POD_NAME)", name)
            environment[str(item["name"])] = value
        (own / "data").mkdir(parents=True, exist_ok=True)
        environment |= {
            "KUBERNETES_SERVICE_HOST": str(server.hostname),
            "KUBERNETES_SERVICE_PORT": str(server.port),
            "SKELETON": str(self.folder / "skeleton"),
            "MOUNTS": str(own / "mounts"),
            "DATA": str(own / "data"),
            "ACCOUNT": str(own / "account"),
            # All pods share one network here: what listens everywhere listens on the pod's address.
            "KINGBUS_RAFT__LISTEN": f"{ip}:7401",
            "KINGBUS_SERVE__LISTEN": f"{ip}:3306",
            "KINGBUS_ADMIN__LISTEN": f"{ip}:8080",
            "KINGBUS_ADMIN": f"https://{name}.{NAME}-nodes.{self.namespace.name}.svc:8080",
        }
        command = ["unshare", "--mount", "sh", "-ec", _ENTER, "sh", sys.executable, "-m", "kingbus_node.cli"]
        command += [str(argument) for argument in list(_list(container["args"]))]
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )


def _list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value


def _entries(body: Json | None, key: str) -> Json:
    found = body.get(key) if body is not None else None
    return found if isinstance(found, dict) else {}


def _is_ready(body: Json) -> bool:
    conditions = dig(body, "status", "conditions")
    held = conditions if isinstance(conditions, list) else []
    return any(dig(one, "type") == "Ready" and dig(one, "status") == "True" for one in held)


def _pod(live: Json, namespace: str, ordinal: int) -> Json:
    """What the StatefulSet controller makes; it is scheduled already."""
    template = mapping(dig(live, "spec", "template"))
    own = f"{NAME}-{ordinal}"
    metadata, spec = dict(mapping(template["metadata"])), dict(mapping(template["spec"]))
    labels = mapping(metadata["labels"]) | {"statefulset.kubernetes.io/pod-name": own}
    claim: Json = {"name": "data", "persistentVolumeClaim": {"claimName": f"data-{own}"}}
    spec["volumes"] = [*mappings(spec["volumes"]), claim]
    spec["nodeName"] = "this-machine"
    metadata |= {"name": own, "namespace": namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
