"""One node: its namespaces, its cgroups, and the processes in them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from kingbus_node.demo.waiting import wait_until

CONTROL_PLANE = "10.99.0.1"
"""The first node's address; the API server and the cluster's DNS server are there."""

_ROOT = Path("/sys/fs/cgroup")

# What a kubelet would set on the machine. It finds these values here and leaves the machine's alone.
_SYSCTLS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}

_ENTER = """
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock
mount --bind "$FOLDER/var-log" /var/log
for file in $SYSCTLS; do mount --bind "$FOLDER/sysctl/$file" "/proc/sys/$file"; done
mount --make-rshared /
ip link set lo up
echo 1 > /proc/sys/net/ipv4/ip_forward
touch "$FOLDER/entered"
exec "$PYTHON" -I "$INIT"
"""


class NodeFailed(Exception):
    """A process of a node ended, or did not become what it should; the text has the end of its log."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node by its number, 1 or 2; the first has the control plane."""

    number: int
    cluster: Path
    """The cluster's folder."""
    bin: Path
    """The programs."""

    @property
    def name(self) -> str:
        return f"node-{self.number}"

    @property
    def folder(self) -> Path:
        return self.cluster / self.name

    @property
    def address(self) -> str:
        return f"10.99.0.{self.number}"

    @property
    def pods(self) -> str:
        """The network of its pods."""
        return f"10.244.{self.number}.0/24"

    @property
    def cgroup(self) -> str:
        return f"{self.cluster.name}/{self.name}"

    # Namespaces

    def enter(self) -> None:
        """Makes the namespaces and their first process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "var-log").mkdir(exist_ok=True)
        (self.folder / "entered").unlink(missing_ok=True)
        for name, value in _SYSCTLS.items():
            file = self.folder / "sysctl" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{value}\n")
        environment = {
            **os.environ,
            "FOLDER": str(self.folder),
            "SYSCTLS": " ".join(_SYSCTLS),
            "PYTHON": sys.executable,
            "INIT": str(Path(__file__).with_name("init.py")),
        }
        command = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--propagation", "private"]
        holder = _spawn([*command, "sh", "-ec", _ENTER], self.folder / "init.log", environment)

        def entered() -> bool:
            if _ended(holder):
                raise NodeFailed(f"{self.name}: {self.log('init')}")
            return (self.folder / "entered").exists()

        wait_until(entered, 30, f"the namespaces of {self.name}")
        first = _children(holder)[0]
        network = Path(f"/proc/{first}/ns/net").stat().st_ino
        state = {"holder": holder, "since": _since(holder), "first": first, "network": network}
        (self.folder / "state.json").write_text(json.dumps(state))

    @property
    def first(self) -> int:
        """The first process, as the machine numbers it. NodeFailed when the node is not there."""
        state = self._state()
        if state is None or _since(state["holder"]) != state["since"]:
            raise NodeFailed(f"{self.name} of {self.cluster} is not running")
        return state["first"]

    def _state(self) -> dict[str, int] | None:
        try:
            found: dict[str, int] = json.loads((self.folder / "state.json").read_text())
        except FileNotFoundError:
            return None
        return found

    @property
    def running(self) -> bool:
        try:
            return self.first > 0
        except NodeFailed:
            return False

    def kill(self) -> None:
        """Ends all of it at once, as a machine that loses power; what is on its disks stays."""
        state = self._state()
        if state is None:
            return
        if _since(state["holder"]) == state["since"]:
            os.kill(state["holder"], signal.SIGKILL)
        # Those of the node's network that are not the node's own: servers that a killed test run has left.
        for pid in _in_network(state["network"]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not list(_in_network(state["network"])), 60, f"the processes of {self.name} to end")
        (self.folder / "state.json").unlink()

    # Cgroups

    def make_cgroups(self) -> None:
        for root in _hierarchies():
            made = root
            for part in Path(self.cgroup).parts:
                _delegate(made)
                made = made / part
                made.mkdir(exist_ok=True)
                # A busy machine shall see in it the dozens of processes that it is, not one.
                for file, value in (("cpu.shares", "10240"), ("cpu.weight", "1000")):
                    if (made / file).exists():
                        (made / file).write_text(value)
                for file in ("cpuset.cpus", "cpuset.mems"):  # version 1 starts with none
                    if (made / file).exists() and not (made / file).read_text().strip():
                        (made / file).write_text((made.parent / file).read_text())

    def remove_cgroups(self) -> None:
        def gone() -> bool:
            for root in _hierarchies():
                for folder, _, _ in os.walk(root / self.cgroup, topdown=False):
                    with contextlib.suppress(OSError):  # asked again: a process that is ending is still in it
                        Path(folder).rmdir()
            return not any((root / self.cgroup).exists() for root in _hierarchies())

        wait_until(gone, 60, f"the cgroups of {self.name} to be empty", interval=0.2)
        for root in _hierarchies():
            with contextlib.suppress(OSError):  # the other node's are in it
                (root / self.cluster.name).rmdir()

    # Processes

    def command(self, *command: str | Path) -> list[str]:
        """The command line that runs a program in the node."""
        return ["nsenter", f"--target={self.first}", "--mount", "--net", "--pid", "--", *map(str, command)]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}:/usr/sbin:/sbin"}

    def run(self, *command: str | Path, text: str | None = None) -> str:
        """What a program in the node printed. NodeFailed when it failed."""
        done = subprocess.run(
            self.command(*command), input=text, capture_output=True, text=True, env=self.environment(), check=False
        )
        if done.returncode:
            raise NodeFailed(f"{self.name}: {' '.join(map(str, command))}: {done.stderr.strip()}")
        return done.stdout

    def start(self, name: str, *command: str | Path) -> None:
        """Starts a program of the node, which runs until the node ends or `end` is called."""
        pid_file = self.folder / f"{name}.pid"
        entered = _spawn(self.command(*command), self.folder / f"{name}.log", self.environment())

        def forked() -> int:
            if _ended(entered):
                raise NodeFailed(f"{self.name}: {name} ended: {self.log(name)}")
            return next(iter(_children(entered)), 0)

        pid = wait_until(forked, 30, f"{name} to start")
        pid_file.write_text(json.dumps({"pid": pid, "since": _since(pid)}))

    def pid(self, name: str) -> int:
        """The process of a program, as the machine numbers it. NodeFailed when it does not run."""
        state = json.loads((self.folder / f"{name}.pid").read_text())
        if _since(state["pid"]) != state["since"]:
            raise NodeFailed(f"{self.name}: {name} ended: {self.log(name)}")
        return int(state["pid"])

    def end(self, name: str) -> None:
        """kill -9 of one program."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: _since(pid) is None, 30, f"{name} to end")

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")[-4000:]

    # The node's own programs

    def start_containerd(self) -> None:
        _write_yaml(self.folder / "cni" / "10-bridge.conflist", self._bridge())
        (self.folder / "containerd.toml").write_text(self._containerd())
        self.start("containerd", self.bin / "containerd", "--config", self.folder / "containerd.toml")
        wait_until(self._containerd_answers, 60, f"containerd of {self.name}", found=lambda: self.log("containerd"))

    def _containerd_answers(self) -> bool:
        self.pid("containerd")
        try:
            self.ctr("version")
        except NodeFailed:
            return False
        return True

    def ctr(self, *arguments: str | Path) -> str:
        return self.run(self.bin / "ctr", "--address", "/run/containerd/containerd.sock", "-n", "k8s.io", *arguments)

    def start_kubelet(self) -> None:
        (self.folder / "resolv.conf").write_text(f"nameserver {CONTROL_PLANE}\n")
        _write_yaml(self.folder / "kubelet.yaml", self._kubelet())
        self.start(
            "kubelet",
            self.bin / "kubelet",
            f"--config={self.folder / 'kubelet.yaml'}",
            f"--kubeconfig={self.cluster / 'pki' / self.name}.kubeconfig",
            f"--root-dir={self.folder / 'kubelet'}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.address}",
            f"--node-labels=topology.kubernetes.io/zone={self.name}",
        )
        self.start(
            "kube-proxy",
            self.bin / "kube-proxy",
            f"--kubeconfig={self.cluster / 'pki' / 'kube-proxy.kubeconfig'}",
            f"--hostname-override={self.name}",
            "--cluster-cidr=10.244.0.0/16",
            "--proxy-mode=nftables",
            # These are the machine's, not the namespace's.
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        )

    def _bridge(self) -> Mapping[str, object]:
        ranges = [[{"subnet": self.pods}]]
        ipam = {"type": "host-local", "dataDir": "/run/cni", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]}
        # Nobody is beyond the nodes, so that nothing is masqueraded: servers see the pods' own addresses.
        bridge = {"type": "bridge", "bridge": "pods", "isGateway": True, "hairpinMode": True, "ipam": ipam}
        return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]}

    def _containerd(self) -> str:
        return f"""
version = 3
root = "{self.folder / "containerd"}"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "localhost/pause:1"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{self.bin / "cni"}"]
    conf_dir = "{self.folder / "cni"}"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      SystemdCgroup = false
      BinaryName = "{self.bin / "runc"}"
"""

    def _kubelet(self) -> Mapping[str, object]:
        pki = self.cluster / "pki"
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(pki / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(pki / f"{self.name}.crt"),
            "tlsPrivateKeyFile": str(pki / f"{self.name}.key"),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.cgroup,
            "failSwapOn": False,
            "failCgroupV1": False,
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "protectKernelDefaults": False,
            "makeIPTablesUtilChains": False,
            "oomScoreAdj": 0,
            "maxOpenFiles": 20000,
            "clusterDomain": "cluster.local",
            "clusterDNS": ["10.96.0.10"],
            "resolvConf": str(self.folder / "resolv.conf"),
            "volumePluginDir": str(self.folder / "volume-plugins"),
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1Gi",
                "imagefs.available": "1Gi",
            },
            # Changed Secrets and ConfigMaps are in the pods within seconds, so that tests need not wait for minutes.
            "syncFrequency": "10s",
            "configMapAndSecretChangeDetectionStrategy": "Watch",
        }

    def remove(self) -> None:
        """Its folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _write_yaml(file: Path, content: Mapping[str, object]) -> None:
    file.parent.mkdir(exist_ok=True)
    # JSON is YAML, and CNI reads only the former.
    text = json.dumps(content) if file.suffix == ".conflist" else yaml.safe_dump(content)
    file.write_text(text)


def _hierarchies() -> Sequence[Path]:
    """The roots of the machine's cgroups: one for each controller (version 1), or the only one (version 2)."""
    if (_ROOT / "cgroup.controllers").exists():
        return [_ROOT]
    return [path for path in _ROOT.iterdir() if path.is_dir() and not path.is_symlink() and path.name != "unified"]


def _delegate(cgroup: Path) -> None:
    """Version 2: what is below may use every controller that there is."""
    control = cgroup / "cgroup.subtree_control"
    if control.exists():
        control.write_text(" ".join(f"+{name}" for name in (cgroup / "cgroup.controllers").read_text().split()))


def _spawn(command: list[str], log: Path, environment: Mapping[str, str]) -> int:
    """Starts a program that outlives this one; its process."""
    program = shutil.which(command[0])
    if program is None:
        raise NodeFailed(f"expected {command[0]} on PATH (Debian: util-linux)")
    with log.open("ab") as output:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output.fileno(), 1),
            (os.POSIX_SPAWN_DUP2, output.fileno(), 2),
        ]
        return os.posix_spawn(program, command, environment, file_actions=actions, setsid=True)


def _ended(child: int) -> bool:
    return os.waitpid(child, os.WNOHANG)[0] != 0


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _since(pid: int) -> int | None:
    """When a process began; with its number this names it for good. None when it is gone, or dead and not reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _in_network(inode: int) -> Iterator[int]:
    """The processes in a network namespace."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if (entry / "ns" / "net").stat().st_ino == inode:
                    yield int(entry.name)
