"""One Kingbus node as a process of its own, with its configuration in a folder, for the demonstration and for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import yaml

from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER
from kingbus_node.demo.ports import ReservedPort
from kingbus_node.demo.waiting import wait_until

__all__ = ["LOOPBACK", "NodeFailed", "NodeProcess", "Place", "Settings"]

Settings = Mapping[str, Mapping[str, object]]
"""Configuration by section, laid over the default one key by key."""

_TAIL_BYTES = 4_000
_TOKEN = "only for nodes that are not on loopback"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node runs: usually beside whoever starts it, for some tests in a network of its own.

    :param address: where the other nodes reach it
    :param host: where whoever started it, and replicas, reach it
    :param source: where it reaches the source
    :param command: what its command line begins with
    :param priority: how much leadership is drawn to it
    """

    address: str = "127.0.0.1"
    host: str = "127.0.0.1"
    source: str = "127.0.0.1"
    command: tuple[str, ...] = ()
    priority: int = 0


LOOPBACK = Place()


class Listening(Protocol):
    """What a node needs to know of its source: a server on loopback."""

    @property
    def port(self) -> int: ...


class NodeFailed(Exception):
    """A node did not start, answer or stop; the text ends with the end of its log."""


class NodeProcess:
    """A node that replicates from ``source``. A context manager that starts it and, at the end, kills it.

    The node's ports stay the same over restarts, as they would on a host of its own. Replicas log in as
    ``REPLICATION_USER``, as they would on the source.

    ``peers``: the raft addresses of the first members, its own among them; empty for a node that is alone.
    """

    def __init__(
        self,
        source: Listening,
        folder: Path,
        *,
        name: str = "node-1",
        settings: Settings | None = None,
        place: Place = LOOPBACK,
    ) -> None:
        """``folder`` need not exist."""
        self.name = name
        self.folder = folder
        self._reserved = ReservedPort(), ReservedPort(), ReservedPort()
        self.port, self.admin_port, self.raft_port = (port.number for port in self._reserved)
        self.place = place
        self.peers: tuple[str, ...] = ()
        self._source = source
        self._settings = settings or {}
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<{self.name} port={self.port} admin={self.admin_port} {self.folder}>"

    @property
    def raft_address(self) -> str:
        """Where the other nodes reach it."""
        return f"{self.place.address}:{self.raft_port}"

    @property
    def log(self) -> Path:
        """What the node wrote to its standard error, over all its starts."""
        return self.folder / "node.log"

    @property
    def data(self) -> Path:
        """The node's data directory."""
        return self.folder / "data"

    @property
    def pid(self) -> int:
        """The core process; ``NodeFailed`` when it is not running."""
        if self._process is None:
            raise NodeFailed(f"{self!r} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def check(self) -> None:
        """``NodeFailed`` when the process has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            code = self._process.returncode
            raise NodeFailed(f"{self!r} ended with code {code}. The end of its log:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """The end of the node's log."""
        if not self.log.is_file():
            return "(nothing)"
        return self.log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")

    def configuration(self) -> dict[str, dict[str, object]]:
        """The node's configuration as it is written to its file."""
        result: dict[str, dict[str, object]] = {
            "node": {"name": self.name, "data_dir": "data"},
            "raft": {
                "listen": self.raft_address,
                "peers": list(self.peers),
                "priority": self.place.priority,
            },
            "serve": {"listen": f"{self.place.host}:{self.port}", "users_file": "users.yaml", "server_id": 900_101},
            "source": {
                "endpoints": [f"{self.place.source}:{self._source.port}"],
                "user": REPLICATION_USER,
                "password_file": "password",
                "server_id": 900_100,
                "retry": {"initial": "50ms", "max": "500ms"},
            },
            "storage": {"min_free_bytes": 0},
            "admin": {"listen": f"{self.place.host}:{self.admin_port}"},
        }
        if self.place is not LOOPBACK:  # its admin API is for whoever started it, and for its peers
            result["admin"] = {
                "listen": f"0.0.0.0:{self.admin_port}",
                "advertise": f"http://{self.place.address}:{self.admin_port}",
                "token_file": "token",
            }
        for section, values in self._settings.items():
            result[section] = result.get(section, {}) | dict(values)
        return result

    def start(self, timeout: float = 90.0, *, ready: bool = True) -> Self:
        """Start; wait until the node serves committed data, or with ``ready=False`` until it answers at all."""
        self.launch()
        try:
            wait_until(self.is_ready if ready else self.is_alive, timeout, f"{self!r} to answer", found=self.log_tail)
        except Exception:
            self.kill()
            raise
        return self

    def launch(self) -> None:
        """Start without waiting for anything; nothing happens when it runs already."""
        if self.running:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "kingbus.yaml"
        config.write_text(yaml.safe_dump(self.configuration(), sort_keys=False))
        for name, content in (
            ("password", REPLICATION_PASSWORD),
            ("token", _TOKEN),
            ("users.yaml", yaml.safe_dump([{"user": REPLICATION_USER, "password_file": "password"}])),
        ):
            path = self.folder / name
            path.touch(mode=0o600)
            path.write_text(content)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KINGBUS_")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.place.command, sys.executable, "-m", "kingbus_node.cli", "node", "--config", str(config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True,
            )  # fmt: skip

    def is_alive(self) -> bool:
        """Whether its admin API answers. ``NodeFailed`` when the process has ended by itself."""
        return self._probe("/livez") is not None

    def is_ready(self) -> bool:
        """Whether it serves committed data. ``NodeFailed`` when the process has ended by itself."""
        return self._probe("/readyz") == 200

    def reasons(self) -> str:
        """Why it is not ready, in its own words; '' when it is. ``OSError`` when it does not answer."""
        try:
            with urllib.request.urlopen(self._request("/readyz"), timeout=30):
                return ""
        except urllib.error.HTTPError as error:
            with error:
                return "; ".join(json.load(error)["reasons"])

    def status(self, *, local: bool = False) -> dict[str, object]:
        """``GET /v1/status``; ``local``: without asking the other nodes. ``OSError`` when the node does not answer."""
        query = "?local=true" if local else ""
        with urllib.request.urlopen(self._request(f"/v1/status{query}"), timeout=10) as response:
            value: object = json.load(response)
        if not isinstance(value, dict):
            raise NodeFailed(f"{self!r}: /v1/status is not an object")
        return value

    def order(self, method: str, path: str, body: Mapping[str, object] | None = None) -> None:
        """Tell the node to do something, by its admin API. ``OSError`` when it refuses or does not answer."""
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(self._request(path, method, data), timeout=60):
            return

    def _request(self, path: str, method: str = "GET", data: bytes | None = None) -> urllib.request.Request:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {_TOKEN}"}
        url = f"http://{self.place.host}:{self.admin_port}{path}"
        return urllib.request.Request(url, data=data, headers=headers, method=method)

    def executed(self) -> str:
        """The GTID set that the node says it holds, in one line. ``OSError`` when the node does not answer."""
        gtid = self.status(local=True)["gtid"]
        return str(gtid["executed"] or "").replace("\n", "") if isinstance(gtid, dict) else ""

    def pause(self) -> None:
        """SIGSTOP for the core process and the serve processes: the machine hangs, as far as others can see."""
        os.killpg(self.pid, signal.SIGSTOP)

    def pause_core(self) -> None:
        """SIGSTOP for the core process alone."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT for all of it."""
        os.killpg(self.pid, signal.SIGCONT)

    def stop(self, timeout: float = 60.0, number: signal.Signals = signal.SIGTERM) -> None:
        """Send the signal, and ``NodeFailed`` unless the node ends with code 0 in time."""
        process = self._process
        if process is None:
            return
        process.send_signal(number)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise NodeFailed(f"{self!r} did not stop within {timeout:g} s. Its log:\n{self.log_tail()}") from None
        self._process = None
        if code != 0:
            raise NodeFailed(f"{self!r} ended with code {code}. The end of its log:\n{self.log_tail()}")

    def kill(self) -> None:
        """kill -9, as a crash would end it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def _probe(self, path: str) -> int | None:
        self.check()
        try:
            with urllib.request.urlopen(self._request(path), timeout=5) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return None
