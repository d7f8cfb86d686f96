"""The shell around the decisions: observe, plan, act, tell; a queue of names; leadership among operators."""

from __future__ import annotations
