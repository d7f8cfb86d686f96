"""Five hundred stories of trouble, each from its seed, and none may break a promise."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from .__main__ import play
from .plots import PLOTS
from .story import Story
from .world import Rules

SEEDS = 500
ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(900)
def test_no_promise_is_broken_in_five_hundred_seeds() -> None:
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        results = list(pool.map(play, range(SEEDS), chunksize=5))
    failed = [played for played in results if played.violation is not None]
    report = [
        line
        for one in failed[:3]
        for line in (
            f"seed {one.seed}: {one.violation}",
            *one.schedule,
            f"replay: python -m tests.simulation --seed {one.seed}",
        )
    ]
    assert not failed, "\n".join([f"{len(failed)} of {SEEDS} seeds fail", *report])
    hardly = "hardly anything was committed: the stories test nothing"
    assert sum(played.entries for played in results) > 50 * SEEDS, hardly
    assert sum(played.transactions for played in results) > 10 * SEEDS, hardly
    assert sum(played.cancelled for played in results) > SEEDS, "hardly a transaction was cut"


@pytest.mark.parametrize("name", PLOTS)
def test_directed_story_ends_well(name: str) -> None:
    PLOTS[name](Rules())


def test_seed_replays_exactly() -> None:
    first: list[str] = []
    second: list[str] = []
    Story(7, trace=first.append).run()
    Story(7, trace=second.append).run()
    assert first == second


def test_seed_does_not_depend_on_the_hash_seed() -> None:
    def steps(hash_seed: str) -> bytes:
        command = [sys.executable, "-m", "tests.simulation", "--seed", "3"]
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True).stdout

    one, other = steps("1"), steps("2")
    assert len(one.splitlines()) > 500
    assert one == other
