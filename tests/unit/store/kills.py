"""A crash of the process at any system call that changes files."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

_CALLS = ("pwritev", "fdatasync", "fsync", "ftruncate", "open", "unlink", "rename")


class _KilledError(BaseException):
    """Stands for kill -9 at one system call: whatever was done before stays."""


def ends_before_kill(
    run: Callable[[], object], calls: int, monkeypatch: pytest.MonkeyPatch, also: tuple[str, ...] = ()
) -> bool:
    """Run it, killed at the system call behind `calls` of them. Whether it came to its end before.

    `also`: names of functions of `os` that count besides those that the log always uses.
    """
    left = calls

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise _KilledError
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in (*_CALLS, *also):
            patch.setattr(os, name, counted(getattr(os, name)))
        try:
            run()
        except _KilledError:
            return False
    return True
