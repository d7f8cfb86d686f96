"""Kingbus: a replica to one MySQL or MariaDB source, a source to many replicas."""

from __future__ import annotations

__version__ = "0.1.0"
