"""Kubernetes' own programs for the tests: found, or built once and kept in a cache folder outside the tree.

`ensure` gives what most tests need, a kube-apiserver and an etcd. They are looked for in this order:

1. ``KUBEBUILDER_ASSETS``, the folder of prebuilt envtest binaries that other projects' tests use too;
2. the cache, ``$KINGBUS_CACHE/kube`` (by default ``~/.cache/kingbus/kube``), in folders named by version;
3. made: kube-apiserver with the machine's Go from the Go module proxy (about ten minutes on two cores, once), etcd
   from Debian's packages, which are unpacked and not installed.

`ensure_all` gives what a cluster with nodes consists of (tests/e2e/local): the other programs of the same module,
CoreDNS from a module of its own, containerd, CNI plugins, runc and nft from Debian's packages.

``python -m kube.binaries`` (with ``tests`` on the path) makes the first beforehand, ``--all`` all; ``make test``
and ``make e2e`` do that.

The module of Kubernetes cannot be built by ``go install module@version``: its go.mod replaces the staging modules
by folders of its own repository. So a small module requires it and replaces each staging module by its release.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tools import ToolMissing, golang

from kingbus_node.demo.packages import PackageError, unpack
from kingbus_node.demo.servers import locked

KUBERNETES = "1.36.3"
"""The release that is built. Its staging modules carry the same numbers with major version 0."""

ETCD_SUITE = "sid"
"""The Debian suite whose etcd is new enough for that release; its programs are static, so any Debian runs them."""

KUBERNETES_PROGRAMS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)

COREDNS = "1.14.7"

_SID = ("containerd", "containernetworking-plugins")
_SID_PROGRAMS = ("usr/bin/containerd", "usr/bin/containerd-shim-runc-v2", "usr/bin/ctr")
_CNI_PLUGINS = ("bridge", "host-local", "loopback")

_BOOKWORM_RUNC = "runc"
"""Newer ones need a newer C library than Debian 12 has. It needs libseccomp, which apt needs too."""

_CLUSTER = f"cluster-{KUBERNETES}-{COREDNS}-1"
"""The folder of everything together. The last number changes when the list of what is in it does."""

_PAUSE = """// The process that holds a pod's namespaces: reaps what is left to it, and ends when it is told to.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	told := make(chan os.Signal, 16)
	signal.Notify(told, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for one := range told {
		if one != syscall.SIGCHLD {
			os.Exit(0)
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}
"""

_COREDNS_PLUGINS = ("bind", "errors", "ready", "cache", "loadbalance", "kubernetes")
"""What the tests' Corefile uses, in the order in which CoreDNS asks them. All of CoreDNS takes minutes to build: it has
the clients of three clouds in it."""


class BinariesError(Exception):
    """There is no kube-apiserver or etcd and none can be made here; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """Paths of the programs."""

    apiserver: Path
    etcd: Path


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where built programs are kept."""
    return Path(environ.get("KINGBUS_CACHE") or Path.home() / ".cache" / "kingbus") / "kube"


def find(environ: Mapping[str, str] = os.environ) -> Binaries | None:
    """The programs when they are there already, else None."""
    folders = [Path(environ["KUBEBUILDER_ASSETS"])] if environ.get("KUBEBUILDER_ASSETS") else []
    for folder in folders:
        found = Binaries(folder / "kube-apiserver", folder / "etcd")
        if found.apiserver.is_file() and found.etcd.is_file():
            return found
    cache = cache_folder(environ)
    made = Binaries(_apiserver(cache), _etcd(cache))
    return made if made.apiserver.is_file() and made.etcd.is_file() else None


def ensure(environ: Mapping[str, str] = os.environ) -> Binaries:
    """The programs, made first if need be. BinariesError when that is impossible here."""
    found = find(environ)
    if found is not None:
        return found
    cache = cache_folder(environ)
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / "lock"):
        if not _etcd(cache).is_file():
            _unpack_etcd(cache)
        _build_kubernetes(cache, ("kube-apiserver",))
    return Binaries(_apiserver(cache), _etcd(cache))


def ensure_all(environ: Mapping[str, str] = os.environ) -> Path:
    """A folder with every program of a cluster in it, made first if need be. BinariesError.

    CNI plugins are in its folder `cni`, and `pause` is the process of a pod's own container.
    """
    cache = cache_folder(environ)
    folder = cache / _CLUSTER
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / "lock"):
        if folder.is_dir():
            return folder
        if not _etcd(cache).is_file():
            _unpack_etcd(cache)
        _build_kubernetes(cache, KUBERNETES_PROGRAMS)
        new = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        (new / "cni").mkdir(parents=True)
        _build_coredns(cache, new)
        _build_pause(new)
        _unpack_node(cache, new)
        for program in (_etcd(cache), *((_apiserver(cache).parent / name) for name in KUBERNETES_PROGRAMS)):
            (new / program.name).hardlink_to(program)
        new.rename(folder)
    return folder


def _apiserver(cache: Path) -> Path:
    return cache / KUBERNETES / "bin" / "kube-apiserver"


def _etcd(cache: Path) -> Path:
    return cache / f"etcd-{ETCD_SUITE}" / "bin" / "etcd"


def _unpack_etcd(cache: Path) -> None:
    root = cache / "etcd.new"
    try:
        unpack(ETCD_SUITE, (), ("etcd-server",), root, _say)
    except PackageError as error:
        raise BinariesError(f"no etcd: {error}; or set KUBEBUILDER_ASSETS to a folder of envtest binaries") from error
    target = _etcd(cache)
    target.parent.mkdir(parents=True, exist_ok=True)
    (root / "usr" / "bin" / "etcd").replace(target)
    shutil.rmtree(root)


def _unpack_node(cache: Path, folder: Path) -> None:
    """What runs containers, kubectl, and nft with libraries of its own (kube-proxy runs it)."""
    root = cache / "packages.new"
    try:
        unpack("sid", (), _SID, root, _say)
        for program in _SID_PROGRAMS:
            (root / program).replace(folder / Path(program).name)
        for plugin in _CNI_PLUGINS:
            (root / "usr/lib/cni" / plugin).replace(folder / "cni" / plugin)
        unpack("bookworm", ("nftables",), (_BOOKWORM_RUNC,), root, _say)
    except PackageError as error:
        raise BinariesError(f"no containerd, CNI plugins, runc or nft: {error}") from error
    (root / "usr/sbin/runc").replace(folder / "runc")
    root.rename(folder / "nftables")
    machine = f"{os.uname().machine}-linux-gnu"
    libraries = " ".join(f"$own/{place}/{machine}" for place in ("lib", "usr/lib")).replace(" ", ":")
    (folder / "nft").write_text(
        f'#!/bin/sh\nown=$(dirname "$(readlink -f "$0")")/nftables\n'
        f'exec "$own"/lib*/ld-linux*.so.? --library-path "{libraries}" "$own/usr/sbin/nft" "$@"\n'
    )
    (folder / "nft").chmod(0o755)


def _build_kubernetes(cache: Path, names: tuple[str, ...]) -> None:
    """Builds those programs of Kubernetes that are missing."""
    target = _apiserver(cache).parent
    missing = [name for name in names if not (target / name).is_file()]
    if not missing:
        return
    go = _go()
    module = cache / KUBERNETES / "module"
    module.mkdir(parents=True, exist_ok=True)
    proxy = _run([go, "env", "GOPROXY"], module).strip().split(",")[0].split("|")[0]
    if not proxy.startswith("http"):
        raise BinariesError(f"no kube-apiserver: expected a module proxy in `go env GOPROXY`, found {proxy!r}")
    _say(f"writing a module that requires k8s.io/kubernetes v{KUBERNETES}")
    with urllib.request.urlopen(f"{proxy}/k8s.io/kubernetes/@v/v{KUBERNETES}.mod", timeout=60) as answer:
        upstream = answer.read().decode()
    (module / "go.mod").write_text(go_mod(upstream))
    apps = [f"k8s.io/kubernetes/cmd/{name}/app" for name in KUBERNETES_PROGRAMS if name != "kubectl"]
    imports = "".join(f'import _ "{package}"\n' for package in (*apps, "k8s.io/kubectl/pkg/cmd"))
    (module / "tools.go").write_text(f"package tools\n\n{imports}")
    _run([go, "mod", "tidy", "-e"], module)
    numbers = {"gitVersion": f"v{KUBERNETES}", "gitMajor": "1", "gitMinor": KUBERNETES.split(".")[1]}
    stamp = " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in numbers.items())
    target.mkdir(exist_ok=True)
    for name in missing:
        _say(f"building {name}; this takes minutes, once")
        _build(go, module, f"k8s.io/kubernetes/cmd/{name}", target / name, stamp)


def _build_coredns(cache: Path, folder: Path) -> None:
    go = _go()
    module = cache / f"coredns-{COREDNS}"
    module.mkdir(exist_ok=True)
    (module / "go.mod").write_text(f"module dns\nrequire github.com/coredns/coredns v{COREDNS}\n")
    imports = "".join(f'\t_ "github.com/coredns/coredns/plugin/{name}"\n' for name in _COREDNS_PLUGINS)
    directives = "".join(f'"{name}", ' for name in _COREDNS_PLUGINS)
    (module / "main.go").write_text(
        "package main\n\nimport (\n"
        '\t"github.com/coredns/coredns/core/dnsserver"\n\t"github.com/coredns/coredns/coremain"\n'
        f"{imports})\n\n"
        f"func main() {{\n\tdnsserver.Directives = []string{{{directives}}}\n\tcoremain.Run()\n}}\n"
    )
    _run([go, "mod", "tidy", "-e"], module)
    _say("building coredns; this takes a minute or two, once")
    _build(go, module, ".", folder / "coredns")


def _build_pause(folder: Path) -> None:
    go = _go()
    with tempfile.TemporaryDirectory() as name:
        module = Path(name)
        (module / "go.mod").write_text("module pause\n")
        (module / "main.go").write_text(_PAUSE)
        _build(go, module, ".", folder / "pause")


def _go() -> str:
    try:
        return str(golang.ensure())
    except ToolMissing as error:
        raise BinariesError(f"{error}; or set KUBEBUILDER_ASSETS to a folder of envtest binaries") from error


def _build(go: str, module: Path, package: str, target: Path, stamp: str = "") -> None:
    made = target.with_name(target.name + ".new")
    jobs = ["-p", os.environ["KINGBUS_BUILD_JOBS"]] if "KINGBUS_BUILD_JOBS" in os.environ else []
    flags = ["-trimpath", *jobs, "-ldflags", f"-s -w {stamp}".strip()]
    _run([go, "build", *flags, "-o", str(made), package], module)
    made.replace(target)


def go_mod(upstream: str) -> str:
    """A go.mod that builds Kubernetes' programs, from Kubernetes' own go.mod: its replaced modules name the rest."""
    staging = re.findall(r"^\s*(k8s\.io/\S+) => \./staging/", upstream, re.MULTILINE)
    go = re.search(r"^go (\S+)$", upstream, re.MULTILINE)
    if not staging or go is None:
        raise BinariesError(f"the go.mod of Kubernetes {KUBERNETES} is not as expected: no replaced staging modules")
    release = "v0." + KUBERNETES.split(".", 1)[1]
    lines = ["module kube", f"go {go[1]}", f"require k8s.io/kubernetes v{KUBERNETES}"]
    lines += [f"replace {name} => {name} {release}" for name in staging]
    return "\n".join(lines) + "\n"


def _run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false -mod=mod", "GOWORK": "off"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip()[-3000:]
        raise BinariesError(f"`{' '.join(command[:6])} ...` exited with {done.returncode}: {said}")
    return done.stdout


def _say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    """Makes what is missing."""
    parser = argparse.ArgumentParser(prog="kube.binaries", description="makes what of Kubernetes the tests need")
    parser.add_argument("--all", action="store_true", help="everything of a cluster, for tests/e2e")
    try:
        if parser.parse_args().all:
            print(ensure_all())
        else:
            binaries = ensure()
            print(f"{binaries.apiserver}\n{binaries.etcd}")
    except BinariesError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
