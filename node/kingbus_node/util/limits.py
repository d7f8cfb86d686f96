"""What the operating system allows a process."""

from __future__ import annotations

import resource


def allow_all_descriptors() -> None:
    """As many open files as an unprivileged process may have: the usual limit is for programs that use select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
