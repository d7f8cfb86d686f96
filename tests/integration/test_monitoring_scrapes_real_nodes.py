"""A real Prometheus that scrapes real nodes: every panel of the dashboard and every alert finds its data.

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
from servers.chain import Chain
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
    """A chain with a replica, under load, and the Prometheus that watches it."""

    chain: Chain
    prometheus: prometheus.Prometheus


@pytest.fixture(scope="module")
def watched(module_pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    chain = Chain.start(module_pool, Flavor.MYSQL)
    chain.replica()
    targets = [f"127.0.0.1:{chain.node.admin_port}"]
    folder = tmp_path_factory.mktemp("prometheus") / "prometheus"
    with prometheus.running(folder, {"orders": targets}, MONITORING / "rules.yaml") as running:
        what = "the replica to be seen by Prometheus"
        wait_until(lambda: running.query("kingbus_replica_lag_seconds"), 60, what, interval=0.2)
        chain.workload.everything()
        chain.wait_node()
        # A rate needs two scrapes after the last thing that happened.
        count = "count_over_time(kingbus_source_bytes_total[1h])"
        before = running.query(count)[0].value
        wait_until(lambda: running.query(count)[0].value >= before + 4, 60, "more scrapes", interval=0.2)
        yield Watched(chain, running)


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


def test_a_healthy_chain_alerts_nobody(watched: Watched) -> None:
    """But for the alerts about disks: how full the machine's disk is, is not for tests to say."""
    assert watched.prometheus.query('ALERTS{alertname=~"Kingbus.*", alertname!~"KingbusDisk.*"}') == []


def test_the_variables_of_the_dashboard_find_the_cluster(watched: Watched) -> None:
    assert watched.prometheus.label_values("job", "kingbus_build_info") == ["orders"]


def test_what_the_dashboard_says_is_so(watched: Watched) -> None:
    found = {title: watched.prometheus.query(expression.replace("$namespace", ".*").replace("$cluster", "orders"))
             for title, expression in panels() if "$__rate" not in expression}  # fmt: skip
    assert [sample.value for sample in found["Quorum"]] == [1]
    assert [sample.labels["state"] for sample in found["Source"]] == ["connected"]
    assert [sample.value for sample in found["Replicas connected"]] == [1]
    (leader,) = found["Leader"]
    assert leader.labels["instance"] == f"127.0.0.1:{watched.chain.node.admin_port}"


def test_a_lost_source_becomes_an_alert(watched: Watched) -> None:
    watched.chain.source.kill()
    try:
        pending = 'ALERTS{alertname="KingbusSourceDisconnected", job="orders"}'
        wait_until(lambda: watched.prometheus.query(pending), 60, "the alert", interval=0.2)
    finally:
        watched.chain.source.start()


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
