"""Statistics of BatchNorm: adapted, reset or held, and norms that nobody tunes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import petl
from tests.support.compare import differing, state
from tests.support.zoo import images, make


def test_bn_moves_and_saves_statistics_or_holds_them() -> None:
    x = images("resnet")
    for stats, moves in (("adapt", True), ("keep", False)):
        model = petl.wrap(make("resnet"), "bn", stats=stats, num_classes=5).train()
        before = state(model)
        model(x + 1)
        moved = set(differing(before, state(model)))
        assert bool(moved) is moves
        assert not moves or moved == {
            k for k in before if k.endswith(("running_mean", "running_var", "num_batches_tracked"))
        }


def test_adapted_statistics_are_the_ones_that_plain_training_would_give() -> None:
    plain, model = make("resnet"), petl.wrap(make("resnet"), "bn", head=False)
    x = images("resnet")
    assert torch.equal(plain.train()(x), model.train()(x))
    assert not differing(state(plain), state(model))


@pytest.mark.parametrize("name", ["resnet", "levit", "densenet"])
def test_norms_that_nobody_tunes_stay_in_eval_for_good(name: str) -> None:
    model = petl.wrap(make(name), petl.LoRA(rank=2), num_classes=5)
    before = state(model)
    for _ in range(2):
        model.train()
        norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
        head = petl.record(model).head
        assert {n for n, m in norms.items() if m.training} == {n for n in norms if n.startswith(head)}
        model(images(name))
    moved = differing(before, state(model))
    assert all(key.startswith(head) for key in moved)
    stem = next(m for n, m in norms.items() if not n.startswith(head))
    stem.train()
    assert not stem.training
    model.eval()
    assert not any(m.training for m in model.modules())


def test_batch_normalisation_of_a_held_norm_uses_its_statistics() -> None:
    plain, model = make("resnet").eval(), petl.wrap(make("resnet"), "lora", head=False, fused=False).train()
    assert torch.equal(plain(images("resnet")), model(images("resnet")))
    folded = petl.wrap(make("resnet"), "lora", head=False).train()  # into the convolutions: rounds in another order
    torch.testing.assert_close(folded(images("resnet")), plain(images("resnet")))
