"""Kingbus: a replica to one MySQL or MariaDB source, a source to many replicas."""

from __future__ import annotations
