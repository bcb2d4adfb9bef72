"""Paired comparisons: known values, their size under no difference, and their power."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from petl.evidence.comparison import (
    across_seeds,
    across_seeds_and_images,
    mcnemar,
    p_value,
    paired_bootstrap,
    paired_permutation,
)
from petl.evidence.intervals import standard_error


def right(count: int, share: float, seed: int) -> Tensor:
    return (torch.rand(count, generator=torch.Generator().manual_seed(seed)) < share).double()


def test_mcnemar_is_the_binomial_test_of_the_discordant_images() -> None:
    stats = pytest.importorskip("scipy.stats")
    first, second = right(200, 0.8, 0).bool(), right(200, 0.7, 1).bool()
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    assert mcnemar(first, second) == pytest.approx(stats.binomtest(only_first, only_first + only_second).pvalue)
    assert mcnemar(first, first) == 1.0


def test_the_bootstrap_is_centred_repeatable_and_as_wide_as_its_error_says() -> None:
    first, second = right(400, 0.8, 2), right(400, 0.7, 3)
    one, two = paired_bootstrap(first, second), paired_bootstrap(first, second)
    assert one == two and one.mean == pytest.approx(float((first - second).mean()))
    assert (one.high - one.low) / (2 * 1.645 * one.error) == pytest.approx(1, abs=0.08)  # the normal limit; 2000 draws
    assert paired_bootstrap(second, first).mean == -one.mean


def test_equal_models_are_a_tie_and_a_model_that_is_always_better_is_not() -> None:
    scores = right(100, 0.6, 4)
    assert paired_bootstrap(scores, scores).tie and "a tie" in str(paired_bootstrap(scores, scores))
    assert not paired_bootstrap(scores + 1, scores).tie


@pytest.mark.deep
def test_without_a_difference_each_test_rejects_as_often_as_it_says() -> None:
    trials, rejected = 200, {"bootstrap": 0, "mcnemar": 0, "permutation": 0}
    for seed in range(trials):
        first, second = right(60, 0.7, 2 * seed), right(60, 0.7, 2 * seed + 1)
        rejected["bootstrap"] += not paired_bootstrap(first, second, level=0.95, draws=200, seed=seed).tie
        rejected["mcnemar"] += mcnemar(first, second) < 0.05
        rejected["permutation"] += paired_permutation(first, second, draws=200, seed=seed) < 0.05
    # 10 of 200 are expected at 5 %; 21 is three and a half standard deviations more
    assert all(count <= 21 for count in rejected.values()), rejected


def test_the_permutation_test_is_never_zero_and_equals_the_full_enumeration() -> None:
    first, second = torch.tensor([1.0, 1, 1, 1, 1, 1]), torch.zeros(6)
    assert paired_permutation(first, second, draws=2000) == pytest.approx(2 / 2**6, abs=0.01)  # both signs of all six
    assert paired_permutation(torch.arange(50.0) + 1, torch.zeros(50), draws=99) == 1 / 100
    assert paired_permutation(first, first) == 1.0


def test_p_values_count_what_is_as_large() -> None:
    values = iter([0.1, 0.5, 0.9, 0.5 - 1e-16])
    assert p_value(0.5, lambda: next(values), 4) == 4 / 5


def test_seeds_are_paired() -> None:
    mean, error = across_seeds([0.9, 0.5], [0.8, 0.4])
    assert mean == pytest.approx(0.1) and error == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="argument 2 is longer"):
        across_seeds([0.9], [0.8, 0.4])


@pytest.mark.parametrize("second", [torch.zeros(3), torch.zeros(4, 1)])
def test_scores_of_other_images_are_refused(second: Tensor) -> None:
    with pytest.raises(ValueError, match="one score an image"):
        paired_bootstrap(torch.zeros(4), second)


def test_the_error_over_seeds_and_images_is_that_of_means_drawn_anew() -> None:
    generator = torch.Generator().manual_seed(5)

    def drawn(seeds: int, images: int) -> Tensor:
        parts = ((seeds, 1), 0.3), ((1, images), 1.0), ((seeds, images), 0.5)
        return sum((torch.randn(shape, generator=generator) * size for shape, size in parts), torch.zeros(()))

    truth = (0.3**2 / 4 + 1.0**2 / 50 + 0.5**2 / 200) ** 0.5
    found = [across_seeds_and_images(drawn(4, 50)) for _ in range(500)]
    assert torch.tensor([mean for mean, _ in found]).std().item() == pytest.approx(truth, rel=0.1)
    squares = torch.tensor([error for _, error in found]).square().mean().sqrt().item()
    assert squares == pytest.approx(truth, rel=0.1)  # the mean of the squares has no bias but for the lower bound


def test_the_error_of_one_seed_is_that_of_its_images_and_is_never_below_either() -> None:
    values = torch.stack([right(40, 0.7, seed) for seed in range(3)])
    _, error = across_seeds_and_images(values)
    assert error >= max(standard_error(values.mean(0)), standard_error(values.mean(1)))
    assert across_seeds_and_images(values[:1]) == (float(values[0].mean()), standard_error(values[0]))
    assert across_seeds_and_images(values[:, :1]) == (float(values[:, 0].mean()), standard_error(values[:, 0]))
    with pytest.raises(ValueError, match="each seed and image"):
        across_seeds_and_images(values[0])


def test_answers_that_differ_on_all_images_alike_have_a_width() -> None:
    ones, zeros = torch.ones(20), torch.zeros(20)
    better, same = paired_bootstrap(ones, zeros), paired_bootstrap(ones, ones.clone())
    assert better.low < 1 == better.high and not better.tie and better.error > 0
    assert same.tie and same.low == -same.high < 0 < same.error
    assert paired_bootstrap(ones[:4], zeros[:4]).tie and mcnemar(ones[:4], zeros[:4]) > 0.1
    assert paired_bootstrap(ones[:5], zeros[:5]).low > 0 and mcnemar(ones[:5], zeros[:5]) < 0.1
    assert paired_bootstrap(ones, ones).error == 0, "a model and itself"
    assert across_seeds_and_images(torch.ones(3, 20))[1] > 0 < across_seeds_and_images(torch.zeros(1, 20))[1]
