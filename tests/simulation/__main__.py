"""``python -m tests.simulation --seeds N``: many seeds, for as long as one likes. A failing seed prints its schedule
and how to replay it.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from .checks import ViolationError
from .mutations import MUTATIONS
from .story import Story
from .world import Rules


@dataclass(frozen=True, slots=True)
class Played:
    """How a seed ended: the violation and the schedule, if there was one, and how much was committed."""

    seed: int
    violation: str | None
    schedule: list[str]
    entries: int
    transactions: int
    cancelled: int


def play(seed: int, mutation: str | None = None) -> Played:
    """Runs one seed."""
    story = Story(seed, MUTATIONS[mutation].rules if mutation else Rules())
    found = None
    try:
        story.run()
    except ViolationError as violation:
        found = str(violation)
    ledger = story.world.ledger
    schedule = story.world.schedule if found is not None else []
    return Played(seed, found, schedule, ledger.length, ledger.transactions.done, ledger.transactions.cancelled)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first one")
    parser.add_argument("--seed", type=int, help="this one only, with every step shown")
    parser.add_argument("--jobs", type=int, default=1, help="processes to use")
    parser.add_argument("--without", choices=sorted(MUTATIONS), help="with this rule switched off")
    parser.add_argument("--stop", action="store_true", help="at the first failing seed")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        rules = MUTATIONS[arguments.without].rules if arguments.without else Rules()
        Story(arguments.seed, rules, trace=print).run()
        print("no violation")
        return 0
    logging.disable(logging.CRITICAL)
    began = time.monotonic()
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    failed = done = committed = transactions = cancelled = 0

    def told() -> str:
        seconds = time.monotonic() - began
        return (
            f"{done} seeds, {committed} entries committed, {transactions} transactions of a source, {cancelled} cut, "
            f"{failed} failed, {seconds:.0f} s"
        )

    with ProcessPoolExecutor(arguments.jobs) as pool:
        for played in pool.map(play, seeds, [arguments.without] * len(seeds), chunksize=4):
            done += 1
            committed += played.entries
            transactions += played.transactions
            cancelled += played.cancelled
            if played.violation is not None:
                failed += 1
                print(f"seed {played.seed}: {played.violation}")
                if not arguments.without:
                    print("\n".join(played.schedule))
                    print(f"replay it with: python -m tests.simulation --seed {played.seed}", flush=True)
                if arguments.stop:
                    pool.shutdown(cancel_futures=True)
                    break
            if done % 500 == 0:
                print(told(), flush=True)
    print(told())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
