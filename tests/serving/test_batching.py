"""Batches of what is submitted at the same time: none is lost, and one that fails fails alone."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from petl.serving.batching import Batcher

LONG = 300.0  # seconds that no test waits for


class Gate:
    """Runs batches of numbers, the first of them when it is opened."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered, self.open = threading.Event(), threading.Event()

    def __call__(self, work: list[int]) -> list[int]:
        self.entered.set()
        self.open.wait(LONG)
        self.batches.append(work)
        if 13 in work:
            raise ValueError("thirteen")
        return [2 * number for number in work]


def running(run: Any, **options: Any) -> Batcher:
    batcher = Batcher(run, **{"most": 4, "wait_s": LONG, "expected": lambda: 0, **options})
    batcher.start()
    return batcher


def test_what_comes_meanwhile_is_one_batch() -> None:
    gate = Gate()
    batcher = running(gate)
    answers = [batcher.submit(0)]
    gate.entered.wait(LONG)
    answers += [batcher.submit(number) for number in range(1, 8)]
    cancelled = batcher.submit(99)
    assert cancelled.cancel()
    gate.open.set()
    assert [answer.result(LONG) for answer in answers] == [2 * number for number in range(8)]
    batcher.stop()
    assert gate.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]
    assert not batcher.is_alive


def test_one_that_fails_fails_alone() -> None:
    gate = Gate()
    batcher = running(gate)
    first = batcher.submit(1)
    gate.entered.wait(LONG)
    answers = {number: batcher.submit(number) for number in (2, 13, 3)}
    gate.open.set()
    assert (first.result(LONG), answers[2].result(LONG), answers[3].result(LONG)) == (2, 4, 6)
    with pytest.raises(ValueError, match="thirteen"):
        answers[13].result(LONG)
    batcher.stop()


def test_a_batch_waits_while_more_are_expected_and_stopping_answers_all() -> None:
    gate, expected = Gate(), [2]
    gate.open.set()
    batcher = running(gate, expected=lambda: expected[0])
    one, other = batcher.submit(1), batcher.submit(2)
    assert (one.result(LONG), other.result(LONG)) == (2, 4)
    assert gate.batches == [[1, 2]]
    last = batcher.submit(3)
    expected[0] = 1
    batcher.nudge()
    assert last.result(LONG) == 6
    expected[0] = 9
    waiting = [batcher.submit(number) for number in (4, 5)]
    batcher.stop()
    assert [answer.result(0) for answer in waiting] == [8, 10]


def test_it_rests_once_after_each_time_of_work() -> None:
    rests: list[int] = []
    rested = threading.Event()

    def rest() -> None:
        rests.append(len(rests))
        rested.set()

    batcher = running(lambda work: work, rest=rest, rest_s=0.01)
    for times in (1, 2):
        assert batcher.submit(5).result(LONG) == 5
        assert rested.wait(LONG)
        rested.clear()
        assert len(rests) == times
    batcher.nudge()
    batcher.stop()
    assert len(rests) == 2
