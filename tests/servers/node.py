"""A Kingbus node as users run it: `kingbus node --config FILE` in a process of its own, on free ports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import yaml

from kingbus_node.demo.instance import REPLICATION_PASSWORD, REPLICATION_USER, Server, free_port
from kingbus_node.demo.replication import Upstream, executed
from kingbus_node.demo.waiting import wait_until

Settings = Mapping[str, object]
JsonObject = dict[str, object]

_STOP_SECONDS = 30.0


class NodeFailed(Exception):
    """The node's process did something that a test did not ask for; the text ends with the end of its log."""


class Node:
    """One node; its configuration is written at each start, so that a test may change `settings` in between."""

    def __init__(self, folder: Path, source_port: int, settings: Mapping[str, Settings] | None = None) -> None:
        """`settings` are added, section by section, to a configuration that suits tests."""
        self.folder = folder
        self.source_port = source_port
        self.settings = {section: dict(keys) for section, keys in (settings or {}).items()}
        self.port = free_port()
        self.admin_port = free_port()
        self.raft_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<node port={self.port} admin={self.admin_port} {self.folder}>"

    @property
    def log(self) -> Path:
        return self.folder / "node.log"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def upstream(self) -> Upstream:
        """What a replica of this node connects to."""
        return Upstream(self.port)

    @property
    def pid(self) -> int:
        if self._process is None:
            raise NodeFailed(f"{self!r} is not running")
        return self._process.pid

    def log_tail(self, size: int = 8_000) -> str:
        return self.log.read_bytes()[-size:].decode(errors="replace") if self.log.exists() else "(no log)"

    def start(self, *, ready: bool = True, timeout: float = 30.0) -> Node:
        """Start; with `ready`, wait until /readyz says that it serves committed data."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self._write_config()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [Path(sys.executable).with_name("kingbus"), "node", "--config", config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        path = "/readyz" if ready else "/livez"
        wait_until(
            lambda: self._answers(path), timeout, f"{self!r} to answer {path}", found=lambda: self.log_tail(2000)
        )
        return self

    def _write_config(self) -> Path:
        (self.folder / "users.yaml").write_text(
            yaml.safe_dump([{"user": REPLICATION_USER, "password": REPLICATION_PASSWORD}])
        )
        (self.folder / "source-password").write_text(REPLICATION_PASSWORD)
        config: dict[str, dict[str, object]] = {
            "node": {"name": "node-1", "data_dir": str(self.data)},
            "raft": {"listen": f"127.0.0.1:{self.raft_port}"},
            "serve": {"listen": f"127.0.0.1:{self.port}", "users_file": "users.yaml", "workers": 2},
            "source": {
                "endpoints": [f"127.0.0.1:{self.source_port}"],
                "user": REPLICATION_USER,
                "password_file": "source-password",
                "retry": {"initial": "20ms", "max": "500ms"},
            },
            "storage": {"min_free_bytes": "64MiB"},
            "admin": {"listen": f"127.0.0.1:{self.admin_port}"},
            "log": {"level": "debug"},
        }
        for section, keys in self.settings.items():
            config.setdefault(section, {}).update(keys)
        path = self.folder / "node.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    def _answers(self, path: str) -> bool:
        if self._process is None or self._process.poll() is not None:
            code = self._process.returncode if self._process else None
            raise NodeFailed(
                f"{self!r} ended with code {code} instead of starting. The end of its log:\n{self.log_tail()}"
            )
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=10) as response:
                return bool(response.status == 200)
        except (OSError, urllib.error.HTTPError):
            return False

    def get(self, path: str) -> JsonObject:
        """The JSON answer of the admin API."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=10) as response:
            return cast("JsonObject", json.load(response))

    def status(self) -> JsonObject:
        return self.get("/v1/status")

    @property
    def executed(self) -> str:
        """The GTIDs of the transactions that the node holds, as its status prints them."""
        gtid = cast("Mapping[str, str]", self.status()["gtid"])
        return gtid["executed"].replace("\n", "")

    @property
    def source_state(self) -> str:
        return str(cast("Mapping[str, object]", self.status()["source"])["state"])

    def wait_holds(self, source: Server, timeout: float = 120.0) -> None:
        """Wait until the node's executed set is exactly the source's."""
        target = executed(source)
        wait_until(
            lambda: self.executed == target,
            timeout,
            f"{self!r} to hold {target}",
            interval=0.05,
            found=lambda: self.executed,
        )

    def stop(self) -> None:
        """SIGTERM, as a process manager would; anything but exit code 0 within half a minute is a failure."""
        process = self._process
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise NodeFailed(
                f"{self!r} did not stop within {_STOP_SECONDS:g} s of SIGTERM:\n{self.log_tail()}"
            ) from None
        self._process = None
        if code != 0:
            raise NodeFailed(f"{self!r} ended with code {code} after SIGTERM:\n{self.log_tail()}")

    def kill(self) -> None:
        """kill -9 of the core process alone; what it started has to notice by itself."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End everything that belongs to the node, whatever its state."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
