"""Prometheus and promtool: from the cache, unpacked from Debian's packages, or from PATH; and a running Prometheus."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from kingbus_node.demo.packages import PackageError, unpack
from kingbus_node.demo.ports import ReservedPort
from kingbus_node.demo.servers import locked
from kingbus_node.demo.waiting import wait_until
from tools import ToolMissing, cache_folder

SUITE = "trixie"
"""The Debian release whose packages are used: Prometheus 2.53, a long-term release."""


@dataclass(frozen=True, slots=True)
class Programs:
    """Paths of the programs."""

    prometheus: Path
    promtool: Path


def ensure() -> Programs:
    """The programs, fetched first if need be. ToolMissing when that is impossible here."""
    folder = cache_folder() / f"prometheus-{SUITE}"
    programs = Programs(folder / "prometheus", folder / "promtool")
    with locked(folder.with_name(folder.name + ".lock")):
        if programs.promtool.is_file():
            return programs
        root = folder.with_name(folder.name + ".new")
        try:
            unpack(SUITE, (), ("prometheus", "promtool"), root, _quiet)
        except PackageError as error:
            found = shutil.which("prometheus"), shutil.which("promtool")
            if found[0] and found[1]:
                return Programs(Path(found[0]), Path(found[1]))
            raise ToolMissing(f"expected prometheus and promtool on PATH, or Debian's packages: {error}") from error
        folder.mkdir(exist_ok=True)
        for program in (programs.prometheus, programs.promtool):  # promtool last: it says that all is there
            (root / "usr/bin" / program.name).replace(program)
        shutil.rmtree(root)
    return programs


def promtool(*arguments: str, cwd: Path) -> str:
    """What promtool says. AssertionError with all of it when it finds fault."""
    done = subprocess.run(
        [ensure().promtool, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True, slots=True)
class Sample:
    """One series of an instant query."""

    labels: Mapping[str, str]
    value: float


class Prometheus:
    """The HTTP API of a running Prometheus."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def query(self, expression: str) -> list[Sample]:
        """The instant vector (or scalar) that an expression has now. AssertionError when it is not valid."""
        found = self._get("query", query=expression)
        assert isinstance(found, dict)
        if found["resultType"] == "scalar":
            return [Sample({}, float(found["result"][1]))]
        return [Sample(item["metric"], float(item["value"][1])) for item in found["result"]]

    def label_values(self, label: str, selector: str) -> list[str]:
        """The values of a label among the series that a selector matches."""
        found = self._get(f"label/{label}/values", **{"match[]": selector})
        assert isinstance(found, list)
        return [str(value) for value in found]

    def _get(self, path: str, **parameters: str) -> object:
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error
        found: object = answer["data"]
        return found


@contextmanager
def running(folder: Path, jobs: Mapping[str, Sequence[str]], rules: Path) -> Iterator[Prometheus]:
    """A Prometheus that scrapes the targets (`host:port`) of each job twice a second, and evaluates a rule file."""
    folder.mkdir()
    configuration = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": list(targets)}]} for job, targets in jobs.items()
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    port = ReservedPort()
    command: list[str | Path] = [
        ensure().prometheus,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port.number}",
        "--log.level=warn",
    ]
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        prometheus = Prometheus(port.number)
        wait_until(prometheus.ready, 60, "Prometheus to be ready", found=log.read_text)
        yield prometheus
    finally:
        process.terminate()
        process.wait()


def _quiet(text: str) -> None:
    del text
