"""Metrics: names, types and samples as Prometheus has them."""

from __future__ import annotations

from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families
from unit.admin.fakes import REPLICA, STATUS, FakeNode

from kingbus_node.admin.histogram import FSYNC_BUCKETS, Histogram
from kingbus_node.admin.metrics import Metrics
from kingbus_node.admin.views import Copying, Source

PROMISED = [
    "raft_term",
    "raft_is_leader",
    "raft_commit_index",
    "raft_last_index",
    "raft_leader_changes_total",
    "raft_quorum",
    "raft_commit_seconds",
    "fsync_seconds",
    "source_connected",
    "source_lag_seconds",
    "source_events_total",
    "source_bytes_total",
    "source_transactions_total",
    "source_reconnects_total",
    "source_semisync_acks_total",
    "replicas",
    "replica_lag_seconds",
    "replica_lag_bytes",
    "replica_sent_bytes_total",
    "replica_errors_total",
    "store_bytes",
    "store_segments",
    "store_free_bytes",
    "store_oldest_timestamp_seconds",
    "store_corruptions_total",
    "build_info",
]


def scrape(node: FakeNode) -> str:
    metrics = Metrics("1.2.3")
    metrics.attach(node)
    return metrics.exposition().decode()


def samples(text: str) -> dict[tuple[str, str], float]:
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    named = {(one.name, ",".join(f"{k}={v}" for k, v in sorted(one.labels.items()))): one.value for one in found}
    assert len(named) == len(found)
    return named


def test_every_promised_name_is_there_with_help_and_nothing_is_made_up_by_a_library() -> None:
    text = scrape(FakeNode())
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for name in PROMISED:
        family = families[f"kingbus_{name.removesuffix('_total')}"]
        assert family.documentation
        assert (family.type == "counter") == name.endswith("_total")
    assert all(name.startswith("kingbus_") for name in families)
    assert "_created" not in text


def test_a_histogram_counts_each_observation_in_every_bucket_that_holds_it() -> None:
    histogram = Histogram()
    for value in (0.00005, 0.0001, 0.003, 7.0):
        histogram.observe(value)
    counted = {one.labels["le"]: one.value for one in histogram.family("x", "y").samples if one.name == "x_bucket"}
    assert list(counted) == [*map(repr, FSYNC_BUCKETS), "+Inf"]
    assert (counted["0.0001"], counted["0.0025"], counted["0.005"], counted["5.0"], counted["+Inf"]) == (2, 2, 3, 3, 4)
    sums = {one.name: one.value for one in histogram.family("x", "y").samples if one.name != "x_bucket"}
    assert sums == {"x_count": 4, "x_sum": 7.00315}
    assert FSYNC_BUCKETS[0] == 0.0001
    assert FSYNC_BUCKETS[-1] == 5


def test_a_replica_with_two_connections_has_one_series_of_each() -> None:
    newer = replace(REPLICA, connection=9, lag_bytes=3, sent_bytes=5000)
    found = samples(scrape(FakeNode(replace(STATUS, replicas=[newer, REPLICA]))))
    label = f"replica={REPLICA.id}"
    assert found["kingbus_replicas", ""] == 2
    assert found["kingbus_replica_lag_bytes", label] == 3
    assert found["kingbus_replica_sent_bytes_total", label] == 5000


def test_a_replica_that_is_gone_has_no_series_but_its_bytes_stay_in_the_total() -> None:
    found = samples(scrape(FakeNode(replace(STATUS, replicas=[]))))
    assert not [name for name, label in found if label.startswith("replica=")]
    assert found["kingbus_replicas_sent_bytes_total", ""] == 8192


def test_only_the_leader_tells_the_state_of_the_source() -> None:
    leader = samples(scrape(FakeNode()))
    assert leader["kingbus_source_state", "state=connected"] == 1
    assert leader["kingbus_source_state", "state=refused"] == 0
    stopped = Source("db:3306", "stopped", None, False, None, None, None)
    follower = samples(scrape(FakeNode(replace(STATUS, role="follower", source=stopped))))
    assert not [name for name, _ in follower if name == "kingbus_source_state"]
    assert follower["kingbus_source_connected", ""] == 0
    assert ("kingbus_source_lag_seconds", "") not in follower


def test_a_copy_of_the_log_is_told_while_it_goes_on() -> None:
    quiet = samples(scrape(FakeNode()))
    assert not [name for name, _ in quiet if "cop" in name]
    found = samples(scrape(FakeNode(replace(STATUS, copying=Copying("node-2", 5, 20)))))
    assert found["kingbus_store_copied_bytes", ""] == 5
    assert found["kingbus_store_copy_total_bytes", ""] == 20
