"""Small helpers that every layer may use. They know nothing of binlogs, logs or clusters."""

from __future__ import annotations
