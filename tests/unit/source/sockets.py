"""A machine that was started without IPv6, where every name has an address of both kinds."""

from __future__ import annotations

import errno
import socket

import pytest


class _Socket(socket.socket):
    def __init__(self, family: int = -1, kind: int = -1, protocol: int = -1, fileno: int | None = None) -> None:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        super().__init__(family, kind, protocol, fileno)


def without_ipv6(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """From now on. All names mean `port` of this machine."""
    found = [
        (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("::1", port, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: found)
    monkeypatch.setattr(socket, "socket", _Socket)
