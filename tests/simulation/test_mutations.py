"""The simulator is worth something only if it notices: with a rule switched off it must find a broken promise."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import kingbus_node.raft
from kingbus_node import leader

from .checks import ViolationError
from .mutations import MUTATIONS, SAFETY, Mutation
from .plots import PLOTS
from .story import Story

DECISION = Path(__file__).parents[2] / "docs" / "decisions" / "0010-own-raft-core.md"
_NAMED = re.compile(r"``(?P<mutation>[a-z-]+)``, (?:seed|plot) (?P<story>[a-z0-9-]+)")


def play(mutation: Mutation) -> str | None:
    """How the mutation's story ends."""
    try:
        if isinstance(mutation.story, int):
            Story(mutation.story, mutation.rules).run()
        else:
            PLOTS[mutation.story](mutation.rules)
    except ViolationError as violation:
        return str(violation)
    return None


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_promise_is_broken_without(name: str) -> None:
    violation = play(MUTATIONS[name])
    assert violation is not None, (
        f"{MUTATIONS[name].story!r} no longer fails without the rule; find another story with: "
        f"python -m tests.simulation --without {name} --stop"
    )
    assert violation.startswith(MUTATIONS[name].expected)


def test_rules_name_the_stories_that_fail_without_them() -> None:
    named: dict[str, str] = {}
    for source in [Path(leader.__file__), *sorted(Path(kingbus_node.raft.__file__).parent.glob("*.py"))]:
        text = " ".join(source.read_text().split())
        named |= {match["mutation"]: match["story"] for match in _NAMED.finditer(text)}
    assert named == {name: str(mutation.story) for name, mutation in MUTATIONS.items()}


def test_the_decision_lists_the_rules_as_they_are() -> None:
    """Row by row, the last table of the document: which rule, the story that fails without it, and what breaks."""

    def breaks(mutation: Mutation) -> str:
        others = [one for one in mutation.expected if one not in SAFETY]
        return ", ".join((["safety"] if set(SAFETY) <= set(mutation.expected) else []) + others)

    table = DECISION.read_text().partition("| rule switched off |")[2].splitlines()
    rows = [line for line in table[2:] if line.startswith("|")]
    assert rows == [f"| `{name}` | {one.story} | {breaks(one)} |" for name, one in MUTATIONS.items()]
