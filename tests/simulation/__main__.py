"""``python -m tests.simulation --seeds N``: many seeds, for as long as one likes. A failing seed prints its schedule
and how to replay it.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from .checks import ViolationError
from .mutations import MUTATIONS
from .story import Story
from .world import Rules


def play(seed: int, mutation: str | None = None) -> tuple[int, str | None, list[str], int]:
    """Runs one seed; returns it, the violation if there was one, the schedule, and how many entries were committed."""
    story = Story(seed, MUTATIONS[mutation].rules if mutation else Rules())
    try:
        story.run()
    except ViolationError as violation:
        return seed, str(violation), story.world.schedule, story.world.ledger.length
    return seed, None, [], story.world.ledger.length


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
    failed = done = committed = 0
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for seed, violation, schedule, length in pool.map(play, seeds, [arguments.without] * len(seeds), chunksize=4):
            done += 1
            committed += length
            if violation is not None:
                failed += 1
                print(f"seed {seed}: {violation}")
                if not arguments.without:
                    print("\n".join(schedule))
                    print(f"replay it with: python -m tests.simulation --seed {seed}", flush=True)
                if arguments.stop:
                    pool.shutdown(cancel_futures=True)
                    break
            if done % 500 == 0:
                print(
                    f"{done} seeds, {committed} entries committed, {failed} failed, {time.monotonic() - began:.0f} s",
                    flush=True,
                )
    print(f"{done} seeds, {committed} entries committed, {failed} failed, {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
