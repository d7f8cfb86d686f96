"""What a worker has to know, and what the supervisor is told by the node."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from kingbus_node.wire.compression import ALLOWED


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """The source side's settings; the node fills them from its configuration.

    log_dir: the log that is served. keys_dir: where made keys are kept. host, port: where replicas connect (port 0:
    any). workers: processes. version: what to say in greetings, "auto" for the source's own. tls_*: the configured
    certificate; without it a made one is offered to MySQL replicas. compression_algorithms: what clients may use.
    max_connections: over all workers. isolation: seconds without contact to a quorum after which nothing is served,
    None when nobody notes such contacts. log_level, log_format: see kingbus_node.logs.
    """

    log_dir: Path
    keys_dir: Path
    users_file: Path
    host: str
    port: int
    workers: int
    server_id: int
    version: str = "auto"
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    tls_require: bool = False
    compression_algorithms: tuple[str, ...] = ALLOWED
    max_connections: int = 1000
    connect_timeout: float = 10.0
    idle_timeout: float = 28800.0
    write_timeout: float = 60.0
    isolation: float | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker gets on its standard input: the options, and the descriptors that it has inherited.

    started: since when the node serves, in seconds of the machine's monotonic clock, which its processes share.
    """

    options: ServeOptions
    control_fd: int
    wake_fd: int
    port: int
    started: float

    def encode(self) -> bytes:
        """As JSON. There are names of secret files in it, no secrets."""
        return json.dumps(asdict(self), default=str).encode()

    @classmethod
    def decode(cls, data: bytes) -> WorkerSettings:
        """What `encode` made."""
        value = json.loads(data)
        options = value["options"]
        for name in ("log_dir", "keys_dir", "users_file", "tls_certificate", "tls_key", "tls_ca"):
            if options[name] is not None:
                options[name] = Path(options[name])
        options["compression_algorithms"] = tuple(options["compression_algorithms"])
        return cls(ServeOptions(**options), value["control_fd"], value["wake_fd"], value["port"], value["started"])
