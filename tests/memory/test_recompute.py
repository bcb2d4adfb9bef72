"""Tensors that are recomputed instead of kept."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import petl
from petl.memory import recompute
from tests.support.live_bytes import kept
from tests.support.steps import close, step, twins
from tests.support.zoo import disturb, images, make


def test_a_result_that_is_overwritten_is_not_made_again() -> None:
    net = nn.Sequential(
        nn.Linear(8, 8), nn.LayerNorm(8), nn.LeakyReLU(0.3, inplace=True), nn.Linear(8, 8), nn.Linear(8, 2)
    )
    plain = petl.wrap(copy.deepcopy(net).double(), "lora", head="4", fused=False)
    cheap = petl.wrap(net.double(), "lora", head="4")
    disturb(plain)
    cheap.load_state_dict(plain.state_dict())
    x = torch.randn(5, 8, dtype=torch.float64)
    assert close(step(cheap.train(), x)[1], step(plain.train(), x)[1])


@pytest.mark.deep
def test_what_autocast_casts_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers keep their input in autocast's type; of a norm's output that is a second tensor."""
    batch = images("vit")
    lean, fast = (petl.wrap(make("vit"), "lora", num_classes=7, memory=memory) for memory in ("lean", "fast"))
    disturb(fast)
    lean.load_state_dict(fast.state_dict())

    def bytes_kept() -> int:
        with torch.autocast("cpu", torch.bfloat16):
            return kept(lean, batch)

    def cheap_and_plain() -> list[dict[str, Tensor]]:
        with torch.autocast("cpu", torch.bfloat16):
            return [step(model.train(), batch)[1] for model in (lean, fast)]

    one, other = cheap_and_plain()
    assert all(torch.equal(one[key], other[key]) for key in other)
    again = bytes_kept()
    monkeypatch.setattr(recompute.RecomputeTape, "cast", lambda self, tensor, dtype: tensor.to(dtype))
    assert again < 0.9 * bytes_kept()


def test_somebody_elses_saved_tensor_hooks_stay_in_charge() -> None:
    model, plain = twins("vit", "lora", "lean")
    packed = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal packed
        packed += 1
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _, mine = step(model, images("vit").double())
    assert packed > 10 and close(mine, step(plain, images("vit").double())[1])
