"""The decisions: ``plan(desired, observed) -> Plan`` and ``status(...)``. Pure: no network, no clock, no randomness."""

from __future__ import annotations
