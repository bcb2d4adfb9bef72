"""Rungs, and what fits into a number of seconds."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

import petl
from petl.trials.plan import Cost, as_time_allows, expected, fixed_plan, plan_within, rungs_to

COSTS = {f"{name} x{factor}": Cost(1.0, 0.5) for name in ("norm", "lora") for factor in (0.33, 1, 3)}


@pytest.mark.parametrize("last", [1, 2, 3, 9, 10, 27, 31, 60])
def test_rungs_end_with_the_last_and_are_about_three_times_as_long_each(last: int) -> None:
    rungs = rungs_to(last, updates=10)
    assert rungs[-1] == last
    assert all(2 < after / before < 6 for before, after in itertools.pairwise(rungs))


def test_a_first_rung_has_thirty_updates_or_is_the_only_one() -> None:
    assert rungs_to(27, updates=10) == (3, 9, 27)
    assert rungs_to(27, updates=4) == (9, 27)
    assert rungs_to(9, updates=1) == (9,)
    assert fixed_plan(None, updates=100, seeds=3).rungs == (1, 3, 10)


def test_more_seconds_never_give_a_shorter_training() -> None:
    ends = [
        plan_within(seconds, COSTS, epochs=27, updates=10, seeds=3, jobs=1).rungs[-1]
        for seconds in (20, 40, 80, 160, 320, 1e6)
    ]
    assert ends == sorted(ends)
    assert ends[-1] == 27


def test_a_plan_is_expected_to_fit() -> None:
    for seconds in (30, 60, 120):
        plan = plan_within(seconds, COSTS, epochs=None, updates=10, seeds=1, jobs=2)
        assert expected(plan, COSTS) <= seconds * 2


def test_too_few_seconds_are_refused_with_a_number_that_is_enough() -> None:
    with pytest.raises(petl.PetlError, match=r"seconds=5 isn't enough .* pass seconds=(\d+)") as caught:
        plan_within(5, COSTS, epochs=None, updates=10, seeds=3, jobs=1, used=2)
    enough = int(str(caught.value).partition("pass seconds=")[2].partition(" ")[0])
    assert plan_within(enough, COSTS, epochs=None, updates=10, seeds=3, jobs=1, used=2).rungs


def test_ties_go_on_as_far_as_time_allows() -> None:
    costs = dict.fromkeys("abcd", 2.0)
    assert as_time_allows("abcd", 2, costs, 8) == ["a", "b", "c", "d"]
    assert as_time_allows("abcd", 2, costs, 7) == ["a", "b", "c"]
    assert as_time_allows("abcd", 2, costs, 3) == []


def test_where_time_is_short_a_third_of_the_length_comes_first() -> None:
    asked: dict[str, Any] = {"epochs": 9, "updates": 13, "seeds": 3, "jobs": 1}
    middle = ["norm x1", "lora x1"]
    plan = plan_within(15, COSTS, middle=middle, **asked)
    assert (plan.entry, plan.rungs[0] * 13 >= 30, plan.rungs[-1]) == ("middle", True, 3)
    assert "of the best third of the methods alone" in plan.said
    assert expected(replace(plan, seeds=1), COSTS, middle) <= 15
    judged = plan_within(24, COSTS, middle=middle, **{**asked, "updates": 40})
    assert (judged.entry, judged.rungs) == ("all", (1, 3))  # there is time for all of them: short trainings halve them
    slow = {name: Cost(3.0, 0.5) for name in COSTS}
    left_out = plan_within(29, slow, middle=middle, **{**asked, "updates": 40})
    assert (left_out.entry, left_out.rungs) == ("middle", (3,))  # what is left out isn't judged by one epoch
    longer = plan_within(25, COSTS, middle=middle, **asked)
    assert (longer.entry, longer.rungs) == ("all", (3,))
    assert plan_within(1e6, COSTS, middle=middle, **asked).rungs == fixed_plan(9, 13, 3).rungs == (3, 9)
    assert plan_within(15, COSTS, middle=list(COSTS), **asked).entry == "all"  # each method has one rate
