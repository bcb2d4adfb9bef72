"""Every bias, the attentions' own too, and no matrix."""

from __future__ import annotations

import pytest

import petl
from tests.support.zoo import make


@pytest.mark.parametrize(("name", "own"), [("beit", {"q_bias", "v_bias"}), ("eva_fused", {"q_bias", "v_bias"})])
def test_bias_finds_the_attentions_own(name: str, own: set[str]) -> None:
    model = petl.wrap(make(name), "bias", num_classes=5)
    trains = petl.trainable(model)
    assert own <= {key.rpartition(".")[2] for key in trains}
    assert all(key.endswith("bias") for key in trains if not key.startswith("head"))
    assert not any("relative_position" in key for key in trains)


def test_bias_trains_every_bias_and_no_matrix() -> None:
    model = petl.wrap(make("vit"), "bias", num_classes=5)
    expected = {k for k, _ in make("vit").named_parameters() if k.endswith(".bias")} | {"head.weight", "head.bias"}
    assert {*petl.trainable(model)} == expected
