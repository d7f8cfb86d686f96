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
    ensemble = Ensemble.start(module_pool, Flavor.MYSQL)
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
    for title, expression in panels():
        filled = expression.replace("$namespace", ".*").replace("$cluster", "orders").replace("$__rate_interval", "30s")
        assert "$" not in filled, title
        found = watched.prometheus.query(filled)
        assert found, f"{title}: nothing for {filled}"
        assert all(sample.value == sample.value for sample in found), f"{title}: not a number for {filled}"


def test_every_alert_has_what_it_looks_at(watched: Watched) -> None:
    for name, expression in alerts():
        assert watched.prometheus.query(values(expression)), f"{name}: nothing for {values(expression)}"


def test_a_healthy_cluster_alerts_nobody(watched: Watched) -> None:
    """But for the alerts about disks: how full the machine's disk is, is not for tests to say."""
    assert watched.prometheus.query('ALERTS{alertname=~"Kingbus.*", alertname!~"KingbusDisk.*"}') == []


def test_the_variables_of_the_dashboard_find_the_cluster(watched: Watched) -> None:
    assert watched.prometheus.label_values("job", "kingbus_build_info") == ["orders"]


def test_what_the_dashboard_says_is_so(watched: Watched) -> None:
    found = {
        title: watched.prometheus.query(expression.replace("$namespace", ".*").replace("$cluster", "orders"))
        for title, expression in panels()
        if "$__rate" not in expression
    }
    assert [sample.value for sample in found["Quorum"]] == [1]
    assert [sample.labels["state"] for sample in found["Source"]] == ["connected"]
    assert [sample.value for sample in found["Nodes that answer"]] == [3]
    assert [sample.value for sample in found["Replicas connected"]] == [1]
    (leader,) = found["Leader"]
    assert leader.labels["instance"] == f"127.0.0.1:{watched.ensemble.leader.admin_port}"
    behind = {sample.labels["member"]: sample.value for sample in found["Members behind the leader"]}
    assert set(behind) == {node.name for node in watched.ensemble.cluster.nodes}


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
