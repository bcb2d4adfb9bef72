"""Who would be on which side if nothing but the class frequencies differed."""

from __future__ import annotations

import torch

from petl.shifts.expected_sides import ExpectedSides


def test_it_is_the_formula_for_the_frequencies_that_em_finds() -> None:
    y = torch.arange(400) % 2
    source = torch.where(torch.arange(400)[:, None] % 2 == torch.arange(2), 0.98, 0.02).double()
    target = source[(torch.arange(200) % 10 == 0).long()]  # nine in ten are of the first class
    second = torch.cat([torch.zeros(400), torch.ones(200)])
    found = ExpectedSides(torch.cat([source, target]), 400)(second[None])[0]
    odds = 200 / 400 * torch.tensor([0.9 / 0.5, 0.1 / 0.5])
    wanted = (odds / (1 + odds))[y]
    assert float((found[:400] - wanted).abs().max()) < 0.03
    assert abs(float(found.sum()) - 200) < 1e-3  # as many as there are


def test_a_part_has_its_own_images_and_frequencies() -> None:
    p = torch.rand(30, 3, generator=torch.Generator().manual_seed(0)).double().softmax(1)
    some = ExpectedSides(p, 20).part(torch.tensor([0, 5]), torch.tensor([1, 2]))
    assert some.count == 2 and torch.equal(some.probabilities, p[[0, 5, 21, 22]])
    assert some.draws(500) == 500 and some.draws(50) == 50
    assert ExpectedSides(torch.ones(4000, 1000), 2000).draws(500) == 100
