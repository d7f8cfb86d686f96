"""The operator's process ends in order when it is told to, also while the API server refuses it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from kingbus_node.demo.ports import ReservedPort
from kingbus_node.demo.waiting import wait_until

_DEADLINE = 60.0
_HASTY = """
import kopf
from kingbus_operator.main import main

type(kopf.OperatorSettings().process).__init__.__defaults__ = (0.0,)
assert kopf.OperatorSettings().process.ultimate_exiting_timeout == 0.0
main()
"""
"""The operator, with a kopf that kills a process which has not ended at once and not in ten minutes."""


class RefusingServer(ThreadingHTTPServer):
    """An API server that knows nobody. Until it is let go it does not even answer."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Refusal)
        self.let_go = threading.Event()


class _Refusal(BaseHTTPRequestHandler):
    server: RefusingServer

    def do_GET(self) -> None:
        self.server.let_go.wait()
        with suppress(ConnectionError):  # an operator that has ended does not listen any more
            self.send_error(HTTPStatus.UNAUTHORIZED)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@dataclass(frozen=True, slots=True)
class Running:
    """The operator's process."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def ready(self) -> bool:
        """Whether it watches."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5) as answer:
                return bool(answer.status == HTTPStatus.OK)
        except OSError:
            self.check()
            return False

    def told(self, words: str) -> bool:
        """Whether its log has these words."""
        self.check()
        return words in self.log.read_text()

    def check(self) -> None:
        """It still runs."""
        assert self.process.poll() is None, self.log.read_text()

    def ends(self, how: signal.Signals) -> None:
        """Sends the signal, and waits for the end."""
        self.process.send_signal(how)
        try:
            code = self.process.wait(_DEADLINE)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it goes on after {how.name}: {self.log.read_text()}")
        assert code == 0, self.log.read_text()


@pytest.fixture
def server() -> Iterator[RefusingServer]:
    with RefusingServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.let_go.set()
            server.shutdown()
            thread.join()


@contextmanager
def started(server: RefusingServer, folder: Path, *program: str) -> Iterator[Running]:
    """The operator of this server, begun with these arguments of Python's."""
    kubeconfig, log, port = folder / "kubeconfig", folder / "operator.log", ReservedPort()
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
                "users": [{"name": "u", "user": {"token": "unknown"}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KINGBUS_", "KUBE"))}
    environment["KUBECONFIG"] = str(kubeconfig)
    command = [sys.executable, *program, "run", "--image", "kingbus:1", "--port", str(port.number)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield Running(process, port.number, log)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def operator(server: RefusingServer, tmp_path: Path) -> Iterator[Running]:
    with started(server, tmp_path, "-m", "kingbus_operator.main") as running:
        yield running


def test_sigterm_ends_it_while_it_watches(operator: Running) -> None:
    wait_until(operator.ready, _DEADLINE, "the operator to watch", found=operator.log.read_text)
    operator.ends(signal.SIGTERM)


def test_sigterm_ends_it_while_kopf_takes_failed_watches_apart(server: RefusingServer, operator: Running) -> None:
    """Which takes seconds: kopf waits for what it has begun itself."""
    server.let_go.set()
    wait_until(lambda: operator.told("has failed: "), _DEADLINE, "kopf to fail", found=operator.log.read_text)
    operator.ends(signal.SIGTERM)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_before_it_watches_again(
    server: RefusingServer, operator: Running, how: signal.Signals
) -> None:
    server.let_go.set()
    what = "the watches to end"
    wait_until(lambda: operator.told("the watches ended"), _DEADLINE, what, found=operator.log.read_text)
    operator.ends(how)


def test_an_operator_whose_watches_have_failed_is_not_killed(server: RefusingServer, tmp_path: Path) -> None:
    """By kopf, which takes a failure for the process's end."""
    with started(server, tmp_path, "-c", _HASTY) as operator:
        server.let_go.set()
        what = "the watches to end"
        wait_until(lambda: operator.told("the watches ended"), _DEADLINE, what, found=operator.log.read_text)
        operator.ends(signal.SIGTERM)
