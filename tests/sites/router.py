"""Carries IP packets between network namespaces: ``python -m sites.router NAME=NAMESPACE=ADDRESS...``, root only.

In each namespace it makes a TUN device (the kernel's Documentation/networking/tuntap.rst) named ``line``: what is sent
there comes to this program, and arrives in the namespace that has the target's address when its time has come. Linux
has a queueing discipline for that, netem, but not every kernel is built with it.

It reads orders from its standard input, one JSON object in a line, and answers each with ``ok`` once it is in effect:
``{"from": NAME, "to": NAME, "line": {...}}`` with the fields of `Line`.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import struct
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

DEVICE = "line"
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
_MTU = 1500


@dataclass(slots=True)
class Line:
    """One direction between two sites.

    :param delay: seconds that a packet is under way
    :param jitter: up to so many seconds more, by chance; packets keep their order
    :param loss: the share of packets that is lost
    :param rate: bytes in a second, 0 for any number
    :param queue: seconds' worth of packets that wait for the line at that rate, beyond which they are lost
    :param cut: nothing arrives
    """

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    rate: float = 0.0
    queue: float = 0.25
    cut: bool = False


@dataclass(slots=True)
class _Way:
    """A line, and what is on it: when it is free again, and when the last packet arrives."""

    target: int
    line: Line = field(default_factory=Line)
    free: float = 0.0
    last: float = 0.0


class Router:
    """All of it. `run` ends with the standard input."""

    def __init__(self, sites: dict[str, tuple[str, str]]) -> None:
        """`sites`: namespace and address by name."""
        self._dice = random.Random(0)
        self._devices = {name: _device(namespace) for name, (namespace, _) in sites.items()}
        names = {bytes(map(int, address.split("."))): name for name, (_, address) in sites.items()}
        self._ways = {
            (source, target): _Way(self._devices[target]) for source in sites for target in sites if source != target
        }
        self._by_address = {
            (self._devices[source], address): self._ways[source, target]
            for source in sites
            for address, target in names.items()
            if source != target
        }
        self._flying: list[tuple[float, int, _Way, bytes]] = []
        self._number = 0

    def run(self) -> None:
        """Carry until there are no more orders."""
        poll = select.epoll()
        for device in self._devices.values():
            poll.register(device, select.EPOLLIN)
        poll.register(0, select.EPOLLIN)
        while True:
            wait = -1.0 if not self._flying else max(0.0, self._flying[0][0] - time.monotonic())
            for ready, _ in poll.poll(wait):
                if ready == 0:
                    order = sys.stdin.readline()
                    if not order:
                        return
                    self._obey(json.loads(order))
                else:
                    self._take(ready)
            self._deliver()

    def _obey(self, order: dict[str, object]) -> None:
        fields = order["line"]
        assert isinstance(fields, dict)
        self._ways[str(order["from"]), str(order["to"])].line = Line(**fields)
        print("ok", flush=True)

    def _take(self, device: int) -> None:
        for _ in range(64):  # then look at the others
            try:
                packet = os.read(device, _MTU + 100)
            except BlockingIOError:
                return
            way = self._by_address.get((device, packet[16:20])) if packet[0] >> 4 == 4 else None
            if way is None:
                continue  # of a protocol, or for an address, that is nobody's here
            line, now = way.line, time.monotonic()
            if line.cut or (line.loss and self._dice.random() < line.loss):
                continue
            begin = now
            if line.rate:
                begin = max(now, way.free)
                if begin - now > line.queue:
                    continue
                way.free = begin = begin + len(packet) / line.rate
            due = begin + line.delay + (self._dice.uniform(0, line.jitter) if line.jitter else 0.0)
            way.last = due = max(due, way.last)
            self._number += 1
            heapq.heappush(self._flying, (due, self._number, way, packet))

    def _deliver(self) -> None:
        now = time.monotonic()
        while self._flying and self._flying[0][0] <= now:
            _, _, way, packet = heapq.heappop(self._flying)
            if not way.line.cut:
                try:
                    os.write(way.target, packet)
                except OSError:
                    continue  # the device is down: its site is being taken apart


def _device(namespace: str) -> int:
    """A TUN device in a namespace. The file stays good in the namespace that this process lives in."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/self/ns/net").open() as home, Path("/run/netns", namespace).open() as there:
        _enter(libc, there.fileno())
        try:
            device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
        finally:
            _enter(libc, home.fileno())
    return device


def _enter(libc: ctypes.CDLL, namespace: int) -> None:
    if libc.setns(namespace, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def main() -> None:
    """The command line."""
    sites = {}
    for argument in sys.argv[1:]:
        name, namespace, address = argument.split("=")
        sites[name] = (namespace, address)
    router = Router(sites)
    print("ready", flush=True)
    router.run()


if __name__ == "__main__":
    main()
