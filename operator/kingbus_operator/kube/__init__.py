"""Clients of the Kubernetes API and of the nodes' admin API: small, asynchronous, without decisions."""

from __future__ import annotations
