"""The operator's metrics, in Prometheus' text format."""

from __future__ import annotations

from collections import Counter as Count

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

PHASES = ("Pending", "Running", "Progressing", "Degraded", "Paused")


class Metrics:
    """``kingbus_operator_*``."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconcile_seconds = Histogram(
            "kingbus_operator_reconcile_seconds", "Time of one round for one cluster.", registry=self.registry
        )
        self.reconcile_errors = Counter(
            "kingbus_operator_reconcile_errors_total", "Rounds that ended with an error.", registry=self.registry
        )
        self.leading = Gauge(
            "kingbus_operator_is_leader", "Whether this operator holds the Lease, and so acts.", registry=self.registry
        )
        self._clusters = Gauge(
            "kingbus_operator_clusters",
            "Clusters by phase; of the leading operator.",
            ["phase"],
            registry=self.registry,
        )
        self._phases: dict[tuple[str, str], str] = {}
        self._count()

    def seen(self, namespace: str, name: str, phase: str) -> None:
        """A cluster is in this phase."""
        self._phases[namespace, name] = phase
        self._count()

    def forget(self, namespace: str, name: str) -> None:
        """A cluster is gone."""
        self._phases.pop((namespace, name), None)
        self._count()

    def stood_down(self) -> None:
        """Another operator counts the clusters now."""
        self._phases.clear()
        self._count()

    def _count(self) -> None:
        counted = Count(self._phases.values())
        for phase in PHASES:
            self._clusters.labels(phase).set(counted[phase])

    def exposition(self) -> bytes:
        """The text."""
        return generate_latest(self.registry)
