"""Who guesses passwords waits, and does not fill the log; who mistypes once notices nothing."""

from __future__ import annotations

from kingbus_node.serve.attempts import FREE, Attempts


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_first_mistakes_are_answered_at_once_and_the_next_ever_more_slowly() -> None:
    attempts = Attempts(Clock())
    delays = [attempts.failed("10.0.0.1").delay for _ in range(FREE + 7)]
    assert delays == [0.0] * FREE + [0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    assert attempts.failed("10.0.0.2").delay == 0


def test_what_the_next_mistake_costs_is_known_before_it_counts() -> None:
    clock = Clock()
    attempts = Attempts(clock)
    assert attempts.delay("a") == 0
    for _ in range(FREE + 7):
        expected = attempts.delay("a")
        assert attempts.failed("a").delay == expected
    clock.now += 301
    assert attempts.delay("a") == 0


def test_a_success_and_time_make_good() -> None:
    clock = Clock()
    attempts = Attempts(clock)
    for _ in range(FREE + 3):
        attempts.failed("a")
        attempts.failed("b")
    attempts.succeeded("a")
    assert attempts.failed("a").delay == 0
    clock.now += 301
    assert attempts.failed("b").delay == 0


def test_an_address_is_logged_once_in_a_while_with_the_number_of_what_was_not() -> None:
    clock = Clock()
    attempts = Attempts(clock)
    assert attempts.failed("a").log
    assert not any(attempts.failed("a").log for _ in range(4))
    clock.now += 11
    verdict = attempts.failed("a")
    assert (verdict.log, verdict.unlogged) == (True, 4)


def test_addresses_without_number_are_not_kept() -> None:
    attempts = Attempts(Clock())
    for number in range(20_001):
        attempts.failed(str(number))
    assert len(attempts._hosts) == 10_000
