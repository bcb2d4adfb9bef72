"""Who stays in, who is in the final, and who wins."""

from __future__ import annotations

import torch

from petl.trials.choosing import Standing, finalists, gap_of, promoted, standings, winner


def standing(name: str, gap: float, error: float) -> Standing:
    return Standing(name, 1 - gap, gap, error)


def test_the_order_is_by_score_then_loss_then_place() -> None:
    same, worse = torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([1.0, 0.0, 0.0, 1.0])
    found = standings({"w": worse, "a": same, "b": same, "c": same}, {"w": 0.0, "a": 0.5, "b": 0.4, "c": float("nan")})
    assert [one.name for one in found] == ["b", "a", "c", "w"]
    assert [one.gap for one in found] == [0.0, 0.0, 0.0, 0.25]


def test_the_error_of_a_gap_is_paired() -> None:
    right = torch.tensor([1.0] * 50 + [0.0] * 50)
    assert gap_of(right, right) == (0.0, 0.0)
    gap, error = gap_of(right, torch.tensor([1.0] * 45 + [0.0] * 55))
    assert abs(gap - 0.05) < 1e-12
    assert abs(error - (0.05 * 0.95 / 99) ** 0.5) < 1e-12  # that of unpaired accuracies is three times as large


def test_the_top_third_and_everything_within_one_standard_error_stay_in() -> None:
    ranked = [standing("a", 0, 0), standing("b", 0.1, 0.05), standing("c", 0.11, 0.2), standing("d", 0.2, 0.1)]
    assert promoted(ranked) == ["a", "b", "c"]
    assert promoted([standing(str(n), 0.1 * n, 0.01) for n in range(9)]) == ["0", "1", "2"]
    assert promoted([standing(str(n), 0.0, 0.0) for n in range(9)]) == [str(n) for n in range(9)]
    assert promoted([standing("a", 0, 0)]) == ["a"]


def test_the_final_is_of_two_and_of_ties_up_to_four() -> None:
    assert finalists([standing("a", 0, 0), standing("b", 0.3, 0.1), standing("c", 0.3, 0.1)]) == ["a", "b"]
    assert finalists([standing(str(n), 0.0, 0.0) for n in range(9)]) == ["0", "1", "2", "3"]


def test_the_winner_is_the_cheapest_within_one_standard_error() -> None:
    ranked = [standing("a", 0, 0), standing("b", 0.02, 0.03), standing("c", 0.03, 0.03), standing("d", 0.2, 0.03)]
    assert winner(ranked, {"a": 90, "b": 50, "c": 50, "d": 1}) == "b"  # of b and c, which cost the same, the better one
    assert winner(ranked, {"a": 50, "b": 50, "c": 60, "d": 1}) == "a"


def test_a_margin_takes_the_place_of_the_standard_error() -> None:
    ranked = [standing("a", 0, 0), standing("b", 0.01 + 1e-17, 0.001), standing("c", 0.03, 0.05)]
    trainable = {"a": 90, "b": 50, "c": 10}
    assert [winner(ranked, trainable, margin) for margin in (None, 0.05, 0.01, 0.0)] == ["c", "c", "b", "a"]
