"""The cluster: two nodes that reach one another, a control plane on the first, DNS, volumes, images."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from e2e.local.images import write_archive
from e2e.local.node import CONTROL_PLANE, Node, NodeFailed
from e2e.local.pki import Authority
from kingbus_node.demo.waiting import wait_until

SERVER = f"https://{CONTROL_PLANE}:6443"
STORAGE_CLASS = "directories"
VOLUMES = 120
"""Directories that become volumes. One is used once; a run of all tests takes less than half of them."""

_DNS = "10.96.0.10"
_COREFILE = """\
cluster.local:53 {
    bind %(address)s
    errors
    ready %(address)s:8181
    cache 5
    loadbalance
    kubernetes cluster.local {
        kubeconfig %(kubeconfig)s
        ttl 5
    }
}
"""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster in one folder. Its name is the name of its cgroup too."""

    folder: Path
    bin: Path

    @property
    def nodes(self) -> tuple[Node, Node]:
        return Node(1, self.folder, self.bin), Node(2, self.folder, self.bin)

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "pki" / "admin.kubeconfig"

    @property
    def running(self) -> bool:
        return all(node.running for node in self.nodes)

    def up(self, archive: Path, names: Sequence[str]) -> None:
        """Starts it, after what is left of an earlier one is gone. `archive` is the image that `names` shall name."""
        self.down()
        began = time.monotonic()
        self.folder.mkdir(parents=True)
        self._certificates()
        for node in self.nodes:
            node.make_cgroups()
            node.enter()
        self._link()
        self._start_control_plane()
        _say(f"an API server answers after {time.monotonic() - began:.0f} s")
        pause = self.folder / "pause.tar"
        write_archive(pause, "localhost/pause:1", self.bin / "pause")
        for node in self.nodes:
            node.start_containerd()
            node.ctr("images", "import", pause)
            node.ctr("images", "import", archive)
            for name in names[1:]:
                node.ctr("images", "tag", names[0], name)
            node.start_kubelet()
        self._wait_ready()
        self._start_dns()
        self._make_volumes()
        _say(f"two nodes are ready after {time.monotonic() - began:.0f} s")

    def down(self) -> None:
        """Ends it, and removes what it has left: by what is written in its folder, whoever started it."""
        for node in self.nodes:
            node.kill()
        for node in self.nodes:
            node.remove_cgroups()
        shutil.rmtree(self.folder, ignore_errors=True)

    def restart_node(self, node: Node) -> None:
        """A node whose power is back: its disks are what they were."""
        node.kill()
        node.enter()
        if node.number == 1:
            raise NodeFailed("the first node has the control plane, which does not survive it here")
        self._link()
        node.start_containerd()
        node.start_kubelet()

    def _certificates(self) -> None:
        pki = self.folder / "pki"
        pki.mkdir()
        authority = Authority.create(pki)
        names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost")
        authority.issue("apiserver", "kube-apiserver", hosts=(*names, "127.0.0.1", CONTROL_PLANE, "10.96.0.1"))
        authority.issue("apiserver-kubelet", "kube-apiserver-kubelet-client", "system:masters")
        authority.kubeconfig("admin", SERVER, "admin", "system:masters")
        for name in ("kube-controller-manager", "kube-scheduler", "kube-proxy"):
            authority.kubeconfig(name, SERVER, f"system:{name}")
        for node in self.nodes:
            hosts = (node.name, node.address)
            authority.kubeconfig(node.name, SERVER, f"system:node:{node.name}", "system:nodes", hosts)

    def _link(self) -> None:
        """A cable from the second node into a switch that the first one has; each knows the way to the other's pods.

        The first one's address is the switch's, so that it stays when the second one's power is cut.
        """
        first, second = self.nodes
        if "eth0" not in first.run("ip", "-brief", "link"):
            first.run("ip", "link", "add", "eth0", "type", "bridge")
            self._address(first, second)
        # An earlier cable goes a moment after its node.
        wait_until(lambda: "cable" not in first.run("ip", "-brief", "link"), 30, "an earlier cable to be gone")
        # In the first node's network alone: the second one's process has its number on the machine, not in the first.
        inside = ["nsenter", f"--target={first.first}", "--net", "ip", "link", "add", "cable", "type", "veth"]
        _run(*inside, "peer", "name", "eth0", "netns", str(second.first))
        first.run("ip", "link", "set", "cable", "master", "eth0", "up")
        self._address(second, first)

    def _address(self, node: Node, other: Node) -> None:
        node.run("ip", "address", "add", f"{node.address}/24", "dev", "eth0")
        node.run("ip", "link", "set", "eth0", "up")
        # Whoever looks for the machine's own address looks for the default route.
        node.run("ip", "route", "add", "default", "dev", "eth0")
        node.run("ip", "route", "add", other.pods, "via", other.address)

    # The control plane

    def _start_control_plane(self) -> None:
        first = self.nodes[0]
        first.start(
            "etcd",
            self.bin / "etcd",
            f"--data-dir={first.folder / 'etcd'}",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--unsafe-no-fsync",
        )
        self.start_apiserver()
        pki = self.folder / "pki"
        for name in ("kube-controller-manager", "kube-scheduler"):
            config = pki / f"{name}.kubeconfig"
            options = [f"--{use}={config}" for use in ("kubeconfig", "authentication-kubeconfig")]
            options += [f"--authorization-kubeconfig={config}", "--leader-elect=false", "--bind-address=127.0.0.1"]
            if name == "kube-controller-manager":
                options += [
                    f"--service-account-private-key-file={pki / 'sa.key'}",
                    f"--root-ca-file={pki / 'ca.crt'}",
                    "--use-service-account-credentials",
                    "--service-cluster-ip-range=10.96.0.0/16",
                    # A node that is gone is noticed in seconds, so that tests need not wait for minutes.
                    "--node-monitor-grace-period=12s",
                ]
            first.start(name, self.bin / name, *options)

    def start_apiserver(self) -> None:
        """Starts it, and waits until it is ready."""
        pki, first = self.folder / "pki", self.nodes[0]
        first.start(
            "kube-apiserver",
            self.bin / "kube-apiserver",
            "--etcd-servers=http://127.0.0.1:2379",
            f"--advertise-address={CONTROL_PLANE}",
            "--secure-port=6443",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--client-ca-file={pki / 'ca.crt'}",
            f"--tls-cert-file={pki / 'apiserver.crt'}",
            f"--tls-private-key-file={pki / 'apiserver.key'}",
            f"--kubelet-client-certificate={pki / 'apiserver-kubelet.crt'}",
            f"--kubelet-client-key={pki / 'apiserver-kubelet.key'}",
            f"--kubelet-certificate-authority={pki / 'ca.crt'}",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pki / 'sa.pub'}",
            f"--service-account-signing-key-file={pki / 'sa.key'}",
            "--endpoint-reconciler-type=lease",
        )

        def ready() -> bool:
            first.pid("kube-apiserver")
            try:
                return self.kubectl("get", "--raw", "/readyz") == "ok"
            except NodeFailed:
                return False

        wait_until(ready, 180, "the API server", interval=0.2, found=lambda: first.log("kube-apiserver"))

    def stop_apiserver(self) -> None:
        """kill -9: clients are refused from now on."""
        self.nodes[0].end("kube-apiserver")

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        return self.nodes[0].run(self.bin / "kubectl", f"--kubeconfig={self.kubeconfig}", *arguments, text=text)

    def _wait_ready(self) -> None:
        ready = '{.items[*].status.conditions[?(@.type=="Ready")].status}'

        def all_ready() -> bool:
            for node in self.nodes:
                node.pid("kubelet")
                node.pid("kube-proxy")
            return self.kubectl("get", "nodes", "-o", f"jsonpath={ready}") == "True True"

        logs = "\n".join
        wait_until(
            all_ready, 120, "two ready nodes", interval=0.3,
            found=lambda: logs(node.log("kubelet") for node in self.nodes),
        )  # fmt: skip

    def _start_dns(self) -> None:
        """CoreDNS on the first node, as a process; the Service `kube-dns` leads to it."""
        first = self.nodes[0]
        corefile = first.folder / "Corefile"
        corefile.write_text(_COREFILE % {"address": CONTROL_PLANE, "kubeconfig": self.kubeconfig})
        first.start("coredns", self.bin / "coredns", "-conf", corefile)
        ports = [{"name": name, "port": 53, "protocol": protocol} for name, protocol in _DNS_PORTS]
        metadata = {"name": "kube-dns", "namespace": "kube-system"}
        service = {"apiVersion": "v1", "kind": "Service", "metadata": metadata}
        named = {"kubernetes.io/service-name": "kube-dns"}
        endpoints: dict[str, object] = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**metadata, "labels": named},
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": [{"addresses": [CONTROL_PLANE]}],
        }
        self._apply([{**service, "spec": {"clusterIP": _DNS, "ports": ports}}, endpoints])

    def _make_volumes(self) -> None:
        """The default storage class, and volumes of it: local ones, which every node reaches as a disk in a network."""
        default = {"storageclass.kubernetes.io/is-default-class": "true"}
        objects: list[dict[str, object]] = [
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {"name": STORAGE_CLASS, "annotations": default},
                "provisioner": "kubernetes.io/no-provisioner",
                "volumeBindingMode": "WaitForFirstConsumer",
            }
        ]
        anywhere = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "Exists"}]}
        for number in range(1, VOLUMES + 1):
            path = self.folder / "volumes" / f"{number:03}"
            path.mkdir(parents=True)
            spec = {
                "capacity": {"storage": "100Gi"},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": STORAGE_CLASS,
                "local": {"path": str(path)},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [anywhere]}},
            }
            name = f"directory-{number:03}"
            objects.append({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec})
        self._apply(objects)

    def _apply(self, objects: Sequence[dict[str, object]]) -> None:
        self.kubectl("apply", "--server-side", "-f", "-", text=yaml.safe_dump_all(objects))


_DNS_PORTS = (("dns", "UDP"), ("dns-tcp", "TCP"))


def folder() -> Path:
    """Where the cluster is: `KINGBUS_E2E_FOLDER`. Another folder is another cluster."""
    return Path(os.environ.get("KINGBUS_E2E_FOLDER") or "/var/tmp/kingbus-e2e").resolve()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NodeFailed(f"{' '.join(command)}: {done.stderr.strip()}")


def _say(text: str) -> None:
    print(text, flush=True)
