"""The node's metrics in Prometheus' terms: prefix ``kingbus_``, base units, one series per fact.

Everything that the node can be asked for is read at the scrape (a collector over the snapshot), so no metric can go
stale; only the two histograms are fed as things happen. The registry is the node's own: nothing is global. No label
holds a user name or an address, because ``/metrics`` needs no token.

Labels are bounded: ``replica`` is one of those connected now (a replica keeps its label, and its counter goes on, when
it connects again), ``code`` one of the error numbers that nodes send, ``member`` one of the cluster's.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Sequence
from typing import get_args

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from kingbus_node.admin.histogram import Histogram, Total
from kingbus_node.admin.views import Counters, Node, Replica, SourceState, Status

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class Metrics:
    """The registry of one node. The histograms are there from the start; ``attach`` adds what is read from the node."""

    def __init__(self, version: str) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._version = version
        self._commit = Histogram()
        self._fsync = Histogram()
        self._corruptions = Total()
        self._registry.register(_Fed(self._commit, self._fsync, self._corruptions))

    def observe_commit(self, seconds: float) -> None:
        """A batch was committed ``seconds`` after it was proposed. Any thread."""
        self._commit.observe(seconds)

    def observe_fsync(self, seconds: float) -> None:
        """One fdatasync took ``seconds``. Any thread."""
        self._fsync.observe(seconds)

    def note_corruptions(self, count: int) -> None:
        """So many damages were found in the log. Any thread."""
        self._corruptions.add(count)

    def attach(self, node: Node) -> None:
        """Read everything else from ``node`` at each scrape. To be called once."""
        self._registry.register(_Snapshot(node, self._version))

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes, in the format of ``CONTENT_TYPE``."""
        return generate_latest(self._registry)


class _Fed(Collector):
    """What is fed as things happen."""

    def __init__(self, commit: Histogram, fsync: Histogram, corruptions: Total) -> None:
        self._commit = commit
        self._fsync = fsync
        self._corruptions = corruptions

    def collect(self) -> Iterable[Metric]:
        yield self._commit.family(
            "kingbus_raft_commit_seconds", "Time from a batch being proposed on this node to its commit."
        )
        yield self._fsync.family("kingbus_fsync_seconds", "Time that one fdatasync of the log took.")
        text = "Damages that reading the log again (kingbus verify) has found."
        yield CounterMetricFamily("kingbus_store_corruptions", text, value=self._corruptions.value)


class _Snapshot(Collector):
    def __init__(self, node: Node, version: str) -> None:
        self._node = node
        self._version = version

    def describe(self) -> Iterable[Metric]:
        return ()  # nothing is asked of the node at registration; the names are all fixed and unique

    def collect(self) -> Iterable[Metric]:
        return snapshot(self._node.status(), self._node.counters(), self._version)


def snapshot(status: Status, counters: Counters, version: str) -> Iterator[Metric]:
    """The metrics of one moment. What is not known (``None``) has no sample."""

    def gauge(name: str, text: str, value: float | None) -> Metric:
        family = GaugeMetricFamily(f"kingbus_{name}", text)
        if value is not None:
            family.add_metric([], value)
        return family

    def counter(name: str, text: str, value: int) -> Metric:
        return CounterMetricFamily(f"kingbus_{name}", text, value=value)

    build = GaugeMetricFamily("kingbus_build_info", "The program that runs: always 1.", labels=["version", "python"])
    build.add_metric([version, platform.python_version()], 1)
    yield build

    yield gauge("raft_term", "Current Raft term.", status.term)
    yield gauge("raft_is_leader", "1 on the leader, else 0.", status.role == "leader")
    yield gauge("raft_commit_index", "Index of the last committed log entry.", status.commit_index)
    yield gauge("raft_last_index", "Index of the last log entry on this node.", status.last_index)
    yield counter("raft_leader_changes", "Leader changes seen by this node.", counters.leader_changes)
    yield gauge("raft_quorum", "1 while this node is in touch with a quorum, else 0.", status.quorum)

    yield gauge("raft_suspended", "1 while this node would not lead, because of its disk say.", bool(status.suspended))

    copying = status.copying
    text = "Bytes of the log copied from another node; only while this one copies."
    yield gauge("store_copied_bytes", text, None if copying is None else copying.done_bytes)
    text = "Bytes of the log to copy from another node; only while this one copies."
    yield gauge("store_copy_total_bytes", text, None if copying is None else copying.total_bytes)

    connected = GaugeMetricFamily(
        "kingbus_raft_member_connected", "1 while this node is in contact with that member.", labels=["member"]
    )
    matched = GaugeMetricFamily(
        "kingbus_raft_member_match_index", "Last log entry known to be durable on that member.", labels=["member"]
    )
    round_trip = GaugeMetricFamily(
        "kingbus_raft_member_round_trip_seconds", "Time to that member and back.", labels=["member"]
    )
    in_flight = GaugeMetricFamily(
        "kingbus_raft_member_in_flight_bytes", "Sent to that member and not answered yet.", labels=["member"]
    )
    for member in status.members:
        connected.add_metric([member.name], member.connected)
        for family, value in (
            (matched, member.match_index),
            (round_trip, member.round_trip_seconds),
            (in_flight, member.in_flight_bytes),
        ):
            if value is not None:
                family.add_metric([member.name], value)
    yield from (connected, matched, round_trip, in_flight)

    source = status.source
    state = GaugeMetricFamily(
        "kingbus_source_state", "1 for the state that the source is in; only the leader knows.", labels=["state"]
    )
    for name in get_args(SourceState) if status.role == "leader" else ():
        state.add_metric([name], name == source.state)
    yield state
    missing = GaugeMetricFamily(
        "kingbus_source_missing",
        "1 while the source is refused because of these GTIDs: it has purged them, or has never had them.",
        labels=["gtids"],
    )
    if source.missing:
        missing.add_metric([source.missing.replace("\n", "")], 1)
    yield missing
    yield gauge("source_connected", "1 while the binlog comes in from the source.", source.state == "connected")
    yield gauge(
        "source_lag_seconds", "Age of the newest event received while there is more to come.", source.lag_seconds
    )
    yield counter("source_events", "Binlog events received from the source.", counters.source_events)
    yield counter("source_bytes", "Bytes of binlog events received from the source.", counters.source_bytes)
    yield counter("source_transactions", "Transactions received whole.", counters.source_transactions)
    yield counter("source_reconnects", "Connections to the source after the first.", counters.source_reconnects)
    yield gauge("source_semisync", "1 while the source waits for this node's acknowledgements.", source.semi_sync)
    yield counter("source_semisync_acks", "Semi-synchronous acknowledgements sent.", counters.semisync_acks)

    yield gauge("replicas", "Connections that receive the binlog from this node.", len(status.replicas))
    yield counter(
        "replicas_sent_bytes", "Bytes sent to replicas by this node, gone ones included.", counters.sent_bytes
    )
    yield from _replicas(status.replicas)
    errors = CounterMetricFamily("kingbus_replica_errors", "Refusals, by MySQL error number.", labels=["code"])
    # 1236 (asked for what is not there) is always told: an alert sees its first increase only if it was zero before.
    for code, count in sorted(({1236: 0} | dict(counters.replica_errors)).items()):
        errors.add_metric([str(code)], count)
    yield errors

    storage = status.storage
    yield gauge("store_bytes", "Size of the log on disk.", storage.bytes)
    yield gauge("store_segments", "Number of segments of the log.", storage.segments)
    yield gauge("store_free_bytes", "Free space where the log lies.", storage.free_bytes)
    yield gauge("store_capacity_bytes", "Size of the file system where the log lies.", storage.capacity_bytes)
    yield gauge("store_oldest_timestamp_seconds", "When the oldest event in the log was written.", storage.oldest)


def _replicas(replicas: Sequence[Replica]) -> Iterator[Metric]:
    """By replica. One that is just coming back may have two connections for a moment: the newer one tells its lag."""
    lag_seconds = GaugeMetricFamily("kingbus_replica_lag_seconds", "Age of what is still to send.", labels=["replica"])
    lag_bytes = GaugeMetricFamily("kingbus_replica_lag_bytes", "Committed bytes still to send.", labels=["replica"])
    sent = CounterMetricFamily(
        "kingbus_replica_sent_bytes",
        "Bytes sent to the replica by this node, on all its connections.",
        labels=["replica"],
    )
    for replica in {one.id: one for one in sorted(replicas, key=lambda one: one.connection)}.values():
        if replica.lag_seconds is not None:
            lag_seconds.add_metric([replica.id], replica.lag_seconds)
        if replica.lag_bytes is not None:
            lag_bytes.add_metric([replica.id], replica.lag_bytes)
        sent.add_metric([replica.id], replica.sent_bytes)
    yield from (lag_seconds, lag_bytes, sent)
