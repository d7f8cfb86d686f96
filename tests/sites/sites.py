"""Network namespaces, the lines between them, and the way in for whoever runs the test.

A site has an address on the lines (``198.18.n.s``, of the block that RFC 2544 sets aside for such tests) and a veth
pair of its own to the namespace that the test lives in, without delay: by it the test and its replicas reach the site,
and the site reaches the source. So a test can cut a node off from its peers and nothing else.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from kingbus_node.demo.node_process import Place

from .router import DEVICE, Line

_TESTS = Path(__file__).parents[1]
_NETWORKS = 512
_TRIES = 100


class NamespacesNotAllowedError(Exception):
    """This user may not make network namespaces."""


class Sites:
    """A context manager: namespaces are there while it is open. All lines are open and without delay at first.

    :param names: of the sites
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(names)
        self._undo = ExitStack()
        self._lock = threading.Lock()
        self._lines: dict[tuple[str, str], Line] = {}
        self._router: subprocess.Popen[str]
        self.places: dict[str, Place] = {}
        """Where a node of each site runs."""
        self.source_address = ""
        """What the source has to listen on, to be reached from all sites."""

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise NamespacesNotAllowedError(
                "network namespaces can be made by root only: run as root, or leave these tests out with"
                " -m 'not namespaces' and know that partitions were not tested"
            )
        with self._undo:
            self._build()
            self._undo = self._undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._undo.close()

    # What a test does

    def line(self, source: str, target: str, line: Line, *, both: bool = True) -> None:
        """What the line is like from now on, one way or both."""
        for one, other in ((source, target), (target, source))[: 1 + both]:
            self._lines[one, other] = line
            self._order(one, other, line)

    def cut(self, source: str, target: str) -> None:
        """No packet of `source` arrives at `target`, and nobody is told."""
        self._order(source, target, Line(cut=True))

    def part(self, *groups: Iterable[str]) -> None:
        """No packet of one group arrives at another."""
        parted = [set(group) for group in groups]
        for group in parted:
            for other in parted:
                if group is not other:
                    for source in sorted(group):
                        for target in sorted(other):
                            self.cut(source, target)

    def heal(self) -> None:
        """All lines are as `line` has made them."""
        for pair in self._pairs():
            self._order(*pair, self._lines.get(pair, Line()))

    def _pairs(self) -> list[tuple[str, str]]:
        return [(one, other) for one in self._names for other in self._names if one != other]

    def _order(self, source: str, target: str, line: Line) -> None:
        order = {"from": source, "to": target, "line": asdict(line)}
        with self._lock:
            assert self._router.stdin is not None
            self._router.stdin.write(json.dumps(order) + "\n")
            self._router.stdin.flush()
            self._hear("ok")

    def _hear(self, expected: str) -> None:
        assert self._router.stdout is not None
        said = self._router.stdout.readline().strip()
        if said != expected:
            raise RuntimeError(f"the router says {said!r} instead of {expected!r} (code {self._router.poll()})")

    # How it is built

    def _build(self) -> None:
        number = self._claim()
        network = f"198.{18 + number // 256}.{number % 256}"
        namespaces = {name: _namespace(number, at) for at, name in enumerate(self._names)}
        self.source_address = f"{network}.129"
        for at, (name, namespace) in enumerate(namespaces.items()):
            if at:
                _ip("netns", "add", namespace)
                self._undo.callback(_ip, "netns", "delete", namespace)
            here, there = f"{network}.{129 + 4 * at}", f"{network}.{130 + 4 * at}"
            link = f"kb{number}-{at}"
            _ip("link", "add", link, "type", "veth", "peer", "name", "way-out", "netns", namespace)
            self._undo.callback(_ip, "link", "delete", link)
            _ip("address", "add", f"{here}/30", "dev", link)
            _ip("link", "set", link, "up")
            _ip("-n", namespace, "link", "set", "lo", "up")
            _ip("-n", namespace, "address", "add", f"{there}/30", "dev", "way-out")
            _ip("-n", namespace, "link", "set", "way-out", "up")
            if at:
                _ip("-n", namespace, "route", "add", f"{self.source_address}/32", "via", here)
            self.places[name] = Place(
                address=f"{network}.{1 + at}",
                host=there,
                source=self.source_address,
                command=("nsenter", f"--net=/run/netns/{namespace}"),
            )
        self._start_router(namespaces)
        for name, namespace in namespaces.items():
            _ip("-n", namespace, "address", "add", f"{self.places[name].address}/25", "dev", DEVICE)
            _ip("-n", namespace, "link", "set", DEVICE, "up")

    def _claim(self) -> int:
        """A number that nobody else uses: its first namespace could be made."""
        for _ in range(_TRIES):
            number = random.randrange(_NETWORKS)
            namespace = _namespace(number, 0)
            if Path("/run/netns", namespace).exists():
                continue
            done = subprocess.run(["ip", "netns", "add", namespace], capture_output=True, text=True, check=False)
            if done.returncode == 0:
                self._undo.callback(_ip, "netns", "delete", namespace)
                return number
            if "File exists" not in done.stderr:
                raise NamespacesNotAllowedError(f"a network namespace could not be made: {done.stderr.strip()}")
        raise RuntimeError(f"no free network in {_TRIES} tries: remove old namespaces ('ip netns list')")

    def _start_router(self, namespaces: Mapping[str, str]) -> None:
        arguments = [f"{name}={namespaces[name]}={self.places[name].address}" for name in self._names]
        self._router = subprocess.Popen(
            [sys.executable, "-m", "sites.router", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(_TESTS)},
            cwd=_TESTS,
        )  # fmt: skip
        self._undo.callback(self._stop_router)
        self._hear("ready")

    def _stop_router(self) -> None:
        with self._router:
            assert self._router.stdin is not None
            self._router.stdin.close()
            self._router.wait(30)


def _namespace(number: int, at: int) -> str:
    """By place, not by name: so whoever comes with other names finds the first one taken, and the number with it."""
    return f"kingbus-{number}-{at}"


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
