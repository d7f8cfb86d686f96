"""Binlogs for the tests: events made to measure (`make`), and whole files that real servers wrote (`captured`)."""

from __future__ import annotations
