"""The alerts of deploy/monitoring: promtool finds them valid, they fire when they should and are silent otherwise."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from tools.prometheus import promtool

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"


FILES = ("rules.yaml", "operator-rules.yaml")


def alerts() -> list[dict[str, object]]:
    documents = [yaml.safe_load((MONITORING / name).read_text()) for name in FILES]
    return [rule for document in documents for group in document["groups"] for rule in group["rules"]]


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    assert "SUCCESS" in promtool("test", "rules", "rules_test.yaml", cwd=MONITORING)
    assert "SUCCESS" in promtool("check", "rules", "--lint=all", "--lint-fatal", *FILES, cwd=MONITORING)


def test_every_alert_is_seen_firing_by_a_test() -> None:
    expected = (MONITORING / "rules_test.yaml").read_text()
    assert [name for rule in alerts() if f'alertname="{(name := rule["alert"])}"' not in expected] == []


def test_a_test_notices_an_alert_that_never_fires(tmp_path: Path) -> None:
    for name in (*FILES, "rules_test.yaml"):
        (tmp_path / name).write_text((MONITORING / name).read_text().replace("quorum{job=~", "quorums{job=~"))
    with pytest.raises(AssertionError, match="KingbusNoQuorum"):
        promtool("test", "rules", "rules_test.yaml", cwd=tmp_path)


def test_every_alert_says_what_it_means_and_where_the_manual_tells_what_to_do() -> None:
    headings = {
        line[4:].strip().lower()
        for line in (ROOT / "docs/operations.md").read_text().splitlines()
        if line.startswith("### ")
    }
    for rule in alerts():
        annotations, labels = rule["annotations"], rule["labels"]
        assert isinstance(annotations, dict)
        assert isinstance(labels, dict)
        assert set(annotations) == {"summary", "description", "runbook"}
        assert labels["severity"] in ("critical", "warning")
        document, _, anchor = str(annotations["runbook"]).partition("#")
        assert document == "docs/operations.md"
        assert anchor == str(rule["alert"]).lower()
        assert anchor in headings


def test_every_selector_can_be_narrowed_to_one_cluster() -> None:
    """The operator puts a cluster's own labels in the place of job=~".*": a selector without it would see them all."""
    for rule in alerts():
        selectors = re.findall(r"(?:kingbus_\w+|\bup)(\{[^}]*\})?", str(rule["expr"]))
        assert selectors
        assert all('job=~".*"' in selector for selector in selectors), rule["alert"]
