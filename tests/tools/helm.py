"""helm: from HELM, PATH or the cache, or built with Go from the Go module proxy (some minutes, once).

``python -m tools.helm`` (with ``tests`` on the path) makes it beforehand.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from kingbus_node.demo.servers import locked
from tools import ToolMissing, cache_folder, golang

VERSION = "3.22.0"
"""What is built when there is none."""


def find() -> Path | None:
    """The program when it is there already."""
    found = os.environ.get("HELM") or shutil.which("helm")
    if found:
        return Path(found)
    return _built() if _built().is_file() else None


def ensure() -> Path:
    """The program, built first if need be. ToolMissing when there is none and none can be built here."""
    found = find()
    if found is not None:
        return found
    program = _built()
    with locked(program.parents[1].with_suffix(".lock")):
        if not program.is_file():
            _build(program)
    return program


def _built() -> Path:
    return cache_folder() / f"helm-{VERSION}" / "bin" / "helm"


def _build(program: Path) -> None:
    go = str(golang.ensure())
    program.parent.mkdir(parents=True, exist_ok=True)
    new = program.parents[1] / "new"  # Go may copy the program to its place, and `find` takes what is there for whole
    environment = {**os.environ, "CGO_ENABLED": "0", "GOBIN": str(new), "GOFLAGS": "-mod=mod"}
    package = f"helm.sh/helm/v3/cmd/helm@v{VERSION}"
    command = [go, "install", "-trimpath", "-ldflags", "-s -w", package]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ToolMissing(f"helm {VERSION} could not be built: {done.stderr.strip()[-2000:]}")
    (new / program.name).replace(program)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """helm's answer; whether it succeeded is the caller's to ask."""
    return subprocess.run([ensure(), *arguments], capture_output=True, text=True, timeout=120, check=False)


def template(chart: Path, *arguments: str) -> list[dict[str, object]]:
    """The objects that a chart makes, tests included. AssertionError with helm's words when it refuses."""
    done = run("template", "kingbus", chart, "--namespace", "kingbus-system", *arguments)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def main() -> int:
    """Makes it if need be."""
    try:
        print(ensure())
    except ToolMissing as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
