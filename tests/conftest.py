"""What all tests share: the fixtures for real servers, and how long property tests look for a counterexample."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

pytest_plugins = ["servers.fixtures", "servers.compatibility"]

# `make test` tries the same examples on every run, so that what is red is red again; `make fuzz` looks for new ones.
settings.register_profile(
    "kingbus", deadline=None, max_examples=100, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("fuzz", settings.get_profile("kingbus"), max_examples=20_000, derandomize=False)
settings.load_profile("kingbus")
