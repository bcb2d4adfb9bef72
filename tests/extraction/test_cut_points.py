"""Where a model is cut, and what runs above the cut."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

import petl
from petl.errors import StateError
from petl.extraction.cut_points import cut_points, record_calls
from petl.extraction.skippable import changes_in_training
from petl.extraction.tail_search import find_tail
from tests.support.compare import gap, state
from tests.support.cut_models import BATCH, ROADS, adapting, built, train
from tests.support.data import CLASSES, SIZE

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.mark.sweep(5)
@pytest.mark.parametrize(("method", "name", "start"), ROADS, ids=lambda v: getattr(v, "__name__", v))
def test_nothing_below_builds_a_graph(method: Callable[..., nn.Module], name: str, start: str) -> None:
    """Also in training mode, with modules that are held still or in grafted models."""
    model = method(built(name))
    below = {module for cut in cut_points(model, BATCH) if cut.name == start for module in cut.below}
    graphs: list[bool] = []
    for module in below:
        module.register_forward_hook(lambda m, args, out: graphs.append(out.requires_grad))
    assert model.train()(BATCH).requires_grad
    assert len(graphs) >= 5
    assert not any(graphs)


class Skip(nn.Module):
    """What ``early`` gives also goes straight to the head."""

    def __init__(self) -> None:
        super().__init__()
        self.early, self.middle, self.late = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(8, CLASSES)
        self.num_classes = CLASSES

    def forward(self, x: Tensor) -> Tensor:
        early = self.early(x)
        return self.head(torch.cat([self.late(self.middle(early)), early], 1).mean((2, 3)))


def test_a_second_way_past_the_cut_is_seen() -> None:
    """The cut goes where one tensor is enough: before the two ways part, not where training begins."""
    model = Skip().requires_grad_(False)
    model.late.requires_grad_(True)
    points = cut_points(model, BATCH)
    assert [point.name for point in points] == ["late", "middle"]
    assert find_tail(model, points, BATCH) is None
    history = train(model, cache=None)
    assert "more than one tensor" in history.features
    with pytest.raises(StateError, match="cache=True: .*more than one tensor"):
        train(model, cache=True)


def test_watching_changes_nothing() -> None:
    model = adapting(built("test_resnet"))
    before, random = state(model), torch.get_rng_state()
    modes = [module.training for module in model.train().modules()]
    net = find_tail(model, cut_points(model, BATCH), BATCH)
    assert net
    assert gap(before, state(model)) == 0
    assert torch.equal(random, torch.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in model.modules())
    assert not record_calls(model, BATCH).finished[-1].returned(7).isfinite().any()


def test_moving_statistics_below_are_seen() -> None:
    model = built("test_resnet").requires_grad_(False)
    model.layer4.requires_grad_(True)
    assert changes_in_training(model) >= {model.bn1, model.layer3[0].bn1}
    history = train(model)
    assert "BatchNorm" in history.features
    assert "other values in training" in history.features


def test_attention_pools_can_be_cut_off() -> None:
    """torch's own counter of operations fails on them."""
    model = petl.wrap(timm.create_model("test_vit3", img_size=SIZE), "partial", num_classes=CLASSES)
    assert "from attn_pool on" in train(model, epochs=2).features
