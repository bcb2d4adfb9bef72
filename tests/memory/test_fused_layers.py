"""Frozen norms computed with the convolution before them: what stands between, copies, and what unwrap leaves."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import petl
from petl.graft.classes import fast_paths
from petl.graft.kinds import PAIRED_NORM
from tests.support.steps import close, step, twins
from tests.support.zoo import images, make


def test_a_hook_between_convolution_and_norm_sees_what_it_always_sees() -> None:
    model, plain = twins("resnet", "lora", "lean")
    name = next(n for n, m in model.named_modules() if hasattr(m, PAIRED_NORM))
    seen: list[Tensor] = []
    for one in (model, plain):
        one.get_submodule(name).register_forward_hook(lambda module, args, out: seen.append(out.detach().clone()))
    (_, mine), (_, theirs) = (step(one, images("resnet").double()) for one in (model, plain))
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-10, atol=1e-10)
    assert close(mine, theirs)


def test_a_norm_that_others_read_too_is_left_alone() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return self.fc((self.norm(x) + x).mean((2, 3)))

    model = petl.wrap(Both(), "lora", head="fc")
    conv = model.get_submodule("conv")
    assert not hasattr(conv, PAIRED_NORM)


def test_dropout_between_convolution_and_norm_is_not_skipped() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.dropout(self.conv(x), 0.5, self.training)  # in evaluation the very same tensor comes back
            return self.fc(self.norm(x).mean((2, 3)))

    model = petl.wrap(Dropping(), "lora", head="fc")
    assert not hasattr(model.get_submodule("conv"), PAIRED_NORM)


def test_unwrap_and_merge_leave_no_trace() -> None:
    for give_back in (petl.unwrap, petl.merge):
        model = give_back(petl.wrap(make("resnet"), "lora", memory="min").train())
        assert not any(fast_paths(m) or hasattr(m, PAIRED_NORM) for m in model.modules())
        assert not any(type(m).__mro__[1].__module__.startswith("petl") for m in model.modules())


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_fold_their_own_norms(way: str) -> None:
    model, _ = twins("resnet", "lora", "lean")
    other = copy.deepcopy(model) if way == "deepcopy" else pickle.loads(pickle.dumps(model))
    assert torch.equal(step(model, images("resnet").double())[0], step(other, images("resnet").double())[0])
    inside = {id(module) for module in other.modules()}
    partners = [part for m in other.modules() if hasattr(m, PAIRED_NORM) for part in getattr(m, PAIRED_NORM)]
    assert partners and all(id(part) in inside for part in partners)
