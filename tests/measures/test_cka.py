"""Unbiased CKA: its known answers, at few images of many numbers."""

from __future__ import annotations

import math

import pytest
import torch

from petl.measures.cka import shuffled_cka, unbiased_cka, unbiased_hsic, without_class_means


def noise(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(3))
def test_independent_noise_is_nothing_alike(seed: int) -> None:
    assert abs(unbiased_cka(noise(64, 1280, seed), noise(64, 1280, seed + 100))) < 0.02


def test_a_rotation_a_scale_and_a_shift_change_nothing() -> None:
    x = noise(40, 16, 0)
    rotation = torch.linalg.qr(noise(16, 16, 1).double())[0]
    assert unbiased_cka(x, 1000 * (x.double() @ rotation) + 7) == pytest.approx(1, abs=1e-6)
    x = x.double()
    y = noise(40, 8, 2) + x[:, :8]
    assert unbiased_cka(x, 1e-4 * y - 3) == pytest.approx(unbiased_cka(x, y), abs=1e-6)


def test_the_estimate_is_that_of_all_triples_and_quadruples() -> None:
    """HSIC_1 is the mean over distinct images of k_ij m_ij + k_ij m_qr - 2 k_ij m_iq."""
    k, m = (noise(6, 6, seed).double() for seed in (3, 4))
    k, m = k @ k.T, m @ m.T
    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    first = sum(float(k[i, j] * m[i, j]) for i, j in pairs) / 30
    triples = [(i, j, q) for i, j in pairs for q in range(6) if q not in (i, j)]
    second = sum(float(k[i, j] * m[i, q]) for i, j, q in triples) / 120
    quads = [(i, j, q, r) for i, j, q in triples for r in range(6) if r not in (i, j, q)]
    third = sum(float(k[i, j] * m[q, r]) for i, j, q, r in quads) / 360
    assert unbiased_hsic(k, m) == pytest.approx(first + third - 2 * second, rel=1e-9)


def test_one_batch_of_all_images_is_the_whole() -> None:
    x, y = noise(50, 20, 5), noise(50, 20, 6) + noise(50, 20, 5)
    assert unbiased_cka(x, y, batch=50) == unbiased_cka(x, y)
    assert unbiased_cka(x, y, batch=25) == pytest.approx(unbiased_cka(x, y), abs=0.1)
    assert unbiased_cka(x, y, batch=47) == pytest.approx(unbiased_cka(x[:47], y[:47]), abs=0.01)  # three are left over


def test_few_images_say_what_many_say() -> None:
    x = noise(2000, 32, 7)
    y = x @ noise(32, 32, 8) + 2 * noise(2000, 32, 9)
    many = unbiased_cka(x, y)
    few = sum(unbiased_cka(x[n : n + 100], y[n : n + 100]) for n in range(0, 2000, 100)) / 20
    assert few == pytest.approx(many, abs=0.03)


def test_shuffled_images_have_nothing_in_common() -> None:
    x = noise(64, 200, 10)
    assert abs(shuffled_cka(x, x)) < 0.05
    assert shuffled_cka(x, x, seed=1) == shuffled_cka(x, x, seed=1)


def test_without_class_means_only_what_differs_inside_is_left() -> None:
    y = torch.arange(40) % 4
    x = torch.eye(4)[y] * 9
    assert without_class_means(x, y).abs().max() == 0
    assert math.isnan(unbiased_cka(without_class_means(x, y), x))


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="N of 4 or more"):
        unbiased_cka(torch.eye(3), torch.eye(3))
