"""A real Prometheus that scrapes three real nodes: every panel of the dashboard and every alert finds its data.

What an alert compares is looked at with `bool` behind each comparison: then a healthy cluster gives zeros, while a
metric that does not exist, or labels that do not match, still give nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from servers.ensemble import Ensemble
from servers.fixtures import Pool
from tools import prometheus

from kingbus_node.demo.servers import Flavor
from kingbus_node.demo.waiting import wait_until

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
SETTINGS = {"raft": {"election_timeout": "4s"}}  # no election but when a leader is lost, on a busy machine
SLOWNESS = {
    "KingbusCommitSlow": ("kingbus_raft_commit_seconds", 0.5),
    "KingbusFsyncSlow": ("kingbus_fsync_seconds", 0.1),
}
"""Alerts about how long something takes: its histogram, and the bucket that holds nothing that is too long."""
COMPARISON = re.compile(r'("[^"]*")|(?<![=!<>~])(==|!=|<=|>=|<|>)(?![=~])(?!\s*bool)')


def dashboard() -> dict[str, list[dict[str, object]]]:
    document = json.loads((MONITORING / "dashboard.json").read_text())
    assert isinstance(document, dict)
    return document


def panels() -> list[tuple[str, str]]:
    """(title, expression) of every query of the dashboard."""
    found = []
    for panel in dashboard()["panels"]:
        targets = panel.get("targets", [])
        assert isinstance(targets, list)
        found += [(str(panel["title"]), str(target["expr"])) for target in targets]
    return found


def alerts() -> list[tuple[str, str]]:
    document = yaml.safe_load((MONITORING / "rules.yaml").read_text())
    return [(rule["alert"], rule["expr"]) for group in document["groups"] for rule in group["rules"]]


def values(expression: str) -> str:
    """The expression with every comparison made one that gives 0 or 1 instead of leaving series out."""
    return COMPARISON.sub(lambda match: match[1] or f"{match[2]} bool", expression)


@dataclass(frozen=True, slots=True)
class Watched:
    """A cluster with a replica, under load, and the Prometheus that watches it."""

    ensemble: Ensemble
    prometheus: prometheus.Prometheus

    def shows(self, expression: str, *values: float) -> None:
        """Wait until the query gives exactly these values."""
        wanted = sorted(values)

        def found() -> list[float]:
            return sorted(sample.value for sample in self.prometheus.query(expression))

        what = f"{expression} to be {wanted}"
        wait_until(lambda: found() == wanted, 90, what, interval=0.2, found=lambda: str(found()))


@pytest.fixture(scope="module")
def watched(module_pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    ensemble = Ensemble.start(module_pool, Flavor.MYSQL, settings=SETTINGS)
    ensemble.replica(ensemble.follower)
    targets = [f"127.0.0.1:{node.admin_port}" for node in ensemble.cluster.nodes]
    folder = tmp_path_factory.mktemp("prometheus") / "prometheus"
    with prometheus.running(folder, {"orders": targets}, MONITORING / "rules.yaml") as running:
        watched = Watched(ensemble, running)
        watched.shows("count(kingbus_replica_lag_seconds)", 1)
        ensemble.workload.everything()
        ensemble.settle()
        # A rate needs two scrapes after the last thing that happened.
        count = "min(count_over_time(kingbus_source_bytes_total[1h]))"
        before = running.query(count)[0].value
        wait_until(lambda: running.query(count)[0].value >= before + 4, 90, "more scrapes", interval=0.2)
        yield watched


def test_every_panel_shows_data(watched: Watched) -> None:
    """A node that a scrape did not reach in time is missing until the next; quantiles need something that goes on."""
    with watched.ensemble.workload.in_background():
        for title, expression in panels():
            filled = expression.replace("$namespace", ".*").replace("$cluster", "orders")
            filled = filled.replace("$__rate_interval", "30s")
            assert "$" not in filled, title

            def shown(query: str = filled) -> bool:
                found = watched.prometheus.query(query)
                return bool(found) and all(sample.value == sample.value for sample in found)

            what = f"{title}: numbers for {filled}"
            wait_until(shown, 90, what, found=lambda query=filled: str(watched.prometheus.query(query)))  # type: ignore[misc]


def test_every_alert_has_what_it_looks_at(watched: Watched) -> None:
    for name, expression in alerts():
        query = values(expression)
        wait_until(lambda query=query: watched.prometheus.query(query), 90, f"{name}: something for {query}")  # type: ignore[misc]


def test_a_healthy_cluster_alerts_nobody(watched: Watched) -> None:
    """But for the alerts about disks: how full the machine's disk is, is not for tests to say. One about slowness may
    be there if something did take long. A node that a scrape did not reach in time is up again at the next.
    """

    def alarmed() -> list[str]:
        found = watched.prometheus.query('ALERTS{alertname=~"Kingbus.*", alertname!~"KingbusDisk.*"}')
        return [name for sample in found if not was_slow(watched, name := sample.labels["alertname"])]

    wait_until(lambda: not alarmed(), 90, "no alert", interval=0.2, found=lambda: str(alarmed()))


def was_slow(watched: Watched, alert: str) -> bool:
    """Whether it is about slowness, and something has been slow on some node."""
    if alert not in SLOWNESS:
        return False
    histogram, limit = SLOWNESS[alert]
    share = f'{histogram}_bucket{{le="{limit}"}} / ignoring(le) {histogram}_count'
    shares = [sample.value for sample in watched.prometheus.query(share)]
    assert shares, f"nothing for {share}"
    return min(shares) < 1


def test_the_variables_of_the_dashboard_find_the_cluster(watched: Watched) -> None:
    assert watched.prometheus.label_values("job", "kingbus_build_info") == ["orders"]


def test_what_the_dashboard_says_is_so(watched: Watched) -> None:
    wanted: dict[str, list[float] | list[str]] = {
        "Quorum": [1.0],
        "Source": ["connected"],
        "Nodes that answer": [3.0],
        "Replicas connected": [1.0],
        "Leader": [f"127.0.0.1:{watched.ensemble.leader.admin_port}"],
        "Members behind the leader": [node.name for node in watched.ensemble.cluster.nodes],
    }
    told_by = {"Source": "state", "Leader": "instance", "Members behind the leader": "member"}

    def said() -> dict[str, list[float] | list[str]]:
        found: dict[str, list[float] | list[str]] = {}
        for title, expression in panels():
            if title in wanted:
                filled = expression.replace("$namespace", ".*").replace("$cluster", "orders")
                samples = watched.prometheus.query(filled)
                label = told_by.get(title)
                if label is None:
                    found[title] = sorted(one.value for one in samples)
                else:
                    found[title] = sorted(one.labels[label] for one in samples)
        return found

    # A node that a scrape did not reach in time is missing until the next.
    wait_until(lambda: said() == wanted, 90, f"the dashboard to say {wanted}", found=lambda: str(said()))


def test_a_lost_follower_becomes_an_alert(watched: Watched) -> None:
    """The alert waits for minutes before it fires; that it is pending is what can be waited for here."""
    follower = watched.ensemble.follower
    follower.kill()
    try:
        watched.shows(f'ALERTS{{alertname="KingbusMemberUnreachable", member="{follower.name}"}}', 1)
        watched.shows(f'ALERTS{{alertname="KingbusNodeDown", instance="127.0.0.1:{follower.admin_port}"}}', 1)
        watched.shows('ALERTS{alertname=~"KingbusNoQuorum|KingbusNoLeader|KingbusClusterDown"}')
    finally:
        follower.start()
    watched.shows('ALERTS{alertname=~"KingbusMemberUnreachable|KingbusNodeDown"}')


def test_a_lost_source_becomes_an_alert(watched: Watched) -> None:
    watched.ensemble.source.kill()
    try:
        watched.shows('ALERTS{alertname="KingbusSourceDisconnected", job="orders"}', 1)
    finally:
        watched.ensemble.source.start()


def test_a_lost_majority_becomes_an_alert(watched: Watched) -> None:
    for node in watched.ensemble.cluster.nodes[1:]:
        node.kill()
    try:
        watched.shows('ALERTS{alertname="KingbusNoQuorum", job="orders"}', 1)
        watched.shows('ALERTS{alertname="KingbusNoLeader", job="orders"}', 1)
    finally:
        watched.ensemble.cluster.start()


def test_the_dashboard_can_be_imported_as_it_is() -> None:
    """What Grafana wants of it, and what people want: every panel explained, none on top of another."""
    shown = [panel for panel in dashboard()["panels"] if panel["type"] != "row"]
    assert len({str(panel["id"]) for panel in dashboard()["panels"]}) == len(dashboard()["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert isinstance(place, dict)
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    for panel in shown:
        assert panel["description"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
