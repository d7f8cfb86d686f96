"""What all tests share: the fixtures for real servers, and how long property tests look for a counterexample."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

pytest_plugins = ["servers.fixtures"]

settings.register_profile("kingbus", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fuzz", settings.get_profile("kingbus"), max_examples=20_000)
settings.load_profile("kingbus")
