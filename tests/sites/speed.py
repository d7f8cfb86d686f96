"""Three sites, 60 and 150 ms apart, on lines that lose a packet in a thousand: ``make bench-sites``, root only.

How long the cluster takes to bring transactions of a stopped source to the second site (which makes the majority) and
to the third, beside one plain TCP connection that carries as many bytes over the same line in the same run. Also run as
``python -m sites.speed --receive`` and ``--send HOST:PORT BYTES`` in namespaces: the plain connection.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from servers.ensemble import Ensemble
from servers.fixtures import Pool
from servers.semi_sync import OPTIONS, variable, wait_without_replicas

from kingbus_node.demo.instance import text
from kingbus_node.demo.node_process import NodeProcess, Place
from kingbus_node.demo.replication import executed
from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until
from sites.router import Line
from sites.sites import Sites

NAMES = ("near", "next", "far")
PRIORITIES = {"near": 10, "next": 5, "far": -1}
"""The far one is a witness."""
ROUND_TRIPS = {("near", "next"): 0.060, ("near", "far"): 0.150, ("next", "far"): 0.150}
LINE = Line(jitter=0.002, loss=0.001, rate=12.5e6)
"""100 Mbit/s; the delay is half a round trip."""
_BLOB = 1_000_000
_PORT = 5000
_PATIENCE = 300.0
_NEED_NOT_WAIT = "SET GLOBAL rpl_semi_sync_source_wait_no_replica = OFF"


@contextmanager
def far_apart() -> Iterator[Sites]:
    """Three sites with such lines."""
    with Sites(NAMES) as sites:
        for (one, other), seconds in ROUND_TRIPS.items():
            sites.line(one, other, replace(LINE, delay=seconds / 2))
        yield sites


def ensemble(pool: Pool, sites: Sites) -> Ensemble:
    """A source that waits for its cluster, and a node in each site. The election timeout would be too short for the
    distances, if nodes did not lengthen it by themselves.
    """
    places: list[Place] = [replace(sites.places[name], priority=PRIORITIES[name]) for name in NAMES]
    options = {**OPTIONS[Flavor.MYSQL], "bind-address": f"127.0.0.1,{sites.source_address}"}
    settings: Mapping[str, Mapping[str, object]] = {
        "raft": {"election_timeout": "300ms"},
        "source": {"semi_sync": True},
    }
    made = Ensemble.start(pool, Flavor.MYSQL, options=options, settings=settings, places=places)
    near = made.cluster.nodes[0]
    wait_until(lambda: made.cluster.leader() is near, _PATIENCE, "the preferred site to lead", found=near.log_tail)
    return made


def commit_seconds(ensemble: Ensemble, count: int = 20) -> list[float]:
    """How long commits take that wait for the cluster, one after another; also while another node comes to lead."""
    took = []
    source = ensemble.source
    wait_without_replicas(source)
    wait_until(lambda: variable(source, "status") == "ON", _PATIENCE, "the source to wait for its cluster")
    source.sql("CREATE TABLE IF NOT EXISTS w.commits (id BIGINT PRIMARY KEY AUTO_INCREMENT)")
    with source.connect(database="w") as connection, connection.cursor() as cursor:
        for _ in range(count):
            begun = time.monotonic()
            cursor.execute("INSERT INTO commits VALUES ()")
            took.append(time.monotonic() - begun)
    source.sql(_NEED_NOT_WAIT)
    return took


@dataclass(frozen=True, slots=True)
class Speed:
    """Bytes in a second to a site: of the cluster, and of a plain TCP connection; most on its way there."""

    site: str
    cluster: float
    plain: float
    in_flight: int

    @property
    def ratio(self) -> float:
        return self.cluster / self.plain


def catch_up(ensemble: Ensemble, sites: Sites, megabytes: int) -> list[Speed]:
    """Of the two sites that follow the preferred one, which leads."""
    near = ensemble.cluster.nodes[0]
    source = ensemble.source
    source.sql(_NEED_NOT_WAIT)
    near.order("POST", "/v1/source/stop")
    before = size(ensemble)
    ensemble.workload.blobs((_BLOB,) * megabytes)
    count, goal = size(ensemble) - before, executed(source)
    near.order("POST", "/v1/source/start")
    begun = time.monotonic()
    took: dict[str, float] = {}
    in_flight = dict.fromkeys(NAMES, 0)

    def arrived() -> bool:
        for name, member in members(near).items():
            in_flight[name] = max(in_flight[name], int(str(member["in_flight_bytes"] or 0)))
        for name, node in zip(NAMES[1:], ensemble.cluster.nodes[1:], strict=True):
            if name not in took and ensemble.at(node).holds(goal):
                took[name] = time.monotonic() - begun
        return len(took) == len(NAMES) - 1

    wait_until(arrived, _PATIENCE, "the other sites to have it all", interval=0.05, found=lambda: str(took))
    return [
        Speed(name, count / seconds, plain(sites, NAMES[0], name, count), in_flight[name])
        for name, seconds in took.items()
    ]


def members(node: NodeProcess) -> dict[str, dict[str, object]]:
    """The members whose names a node knows by now, as it sees them, by the names of their sites."""
    found = node.status(local=True)["members"]
    assert isinstance(found, list)
    sites = {f"node-{number}": name for number, name in enumerate(NAMES, 1)}
    return {sites[member["name"]]: member for member in found if member["name"] in sites}


def size(ensemble: Ensemble) -> int:
    """Bytes of the source's binary logs."""
    return sum(int(text(row[1])) for row in ensemble.source.sql("SHOW BINARY LOGS"))


def plain(sites: Sites, source: str, target: str, count: int) -> float:
    """Bytes in a second of a TCP connection that carries `count`, from its beginning to its end."""

    def command(site: str, *arguments: str) -> list[str]:
        return [*sites.places[site].command, sys.executable, "-m", "sites.speed", *arguments]

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command(target, "--receive"), stdout=subprocess.PIPE, text=True, env=environment) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "listening\n"
        where = f"{sites.places[target].address}:{_PORT}"
        subprocess.run(command(source, "--send", where, str(count)), check=True, env=environment)
        return float(receiver.stdout.readline())


def _receive() -> None:
    with socket.create_server(("0.0.0.0", _PORT)) as listener:
        print("listening", flush=True)
        connection, _ = listener.accept()
        begun, count = time.monotonic(), 0
        with connection:
            while data := connection.recv(1 << 20):
                count += len(data)
        print(count / (time.monotonic() - begun), flush=True)


def _send(where: str, count: int) -> None:
    host, _, port = where.partition(":")
    with socket.create_connection((host, int(port))) as connection:
        piece = bytes(1 << 20)
        while count > 0:
            connection.sendall(piece[: min(count, len(piece))])
            count -= len(piece)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--receive", action="store_true")
    parser.add_argument("--send", nargs=2, metavar=("WHERE", "BYTES"))
    chosen = parser.parse_args()
    if chosen.receive:
        _receive()
        return
    if chosen.send:
        _send(chosen.send[0], int(chosen.send[1]))
        return
    control = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    print(f"100 Mbit/s, round trips of 60 ms (next) and 150 ms (far), 0.1 % loss, 2 ms jitter, TCP with {control}")
    with tempfile.TemporaryDirectory(prefix="kingbus-sites-") as folder, far_apart() as sites:
        pool = Pool(Path(folder))
        try:
            made = ensemble(pool, sites)
            took = sorted(commit_seconds(made, 50))
            print(f"a commit that waits for the cluster: median {statistics.median(took) * 1000:.0f} ms, "
                  f"at most {took[-1] * 1000:.0f} ms")  # fmt: skip
            for speed in catch_up(made, sites, chosen.megabytes):
                print(f"{chosen.megabytes} MB to {speed.site}: {speed.cluster / 1e6:.1f} MB/s, "
                      f"a plain connection {speed.plain / 1e6:.1f} MB/s, {speed.ratio:.2f} of it")  # fmt: skip
        finally:
            pool.close()


if __name__ == "__main__":
    main()
