"""`petl.extract` finds what a fine-tuning did: exactly at the rank that it had, with a stated residual below."""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.utils.data import TensorDataset

import petl
from tests.combining.test_combine import base_of, images, same, trained

TOLERANCE = 1e-5  # of outputs of size 1, for a merged LoRA that is found again at its rank


@pytest.fixture(scope="module")
def base() -> nn.Module:
    return base_of()


def test_a_merged_delta_is_found_again_at_its_rank_and_no_change_at_all(base: nn.Module, tmp_path: Path) -> None:
    tuned = petl.merge(trained(base, ["lora", "norm"], 1))
    before = {key: value.clone() for key, value in base.state_dict().items()}
    found = petl.extract(base, tuned, rank=8, labels=["a", "b", "c"])
    with torch.no_grad():
        assert float((found.model(images()) - tuned(images())).abs().max()) < TOLERANCE
    assert found.residual < 1e-3 and max(layer.rank or 0 for layer in found.layers) == 8
    path = found.save(tmp_path / "e.safetensors")
    assert same(petl.load(path, copy.deepcopy(base)).eval(), found.model)
    assert petl.read(path)["labels"] == ["a", "b", "c"]
    nothing = petl.extract(base, base)
    assert nothing.tensors == 0 and not nothing.layers and same(nothing.model, base)
    assert all(torch.equal(value, before[key]) for key, value in base.state_dict().items())


@pytest.mark.deep
@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext"])
def test_whole_fine_tunings(name: str, tmp_path: Path) -> None:
    base = base_of(name)
    tuned = petl.merge(trained(base, "full", 1, stats="adapt")).eval()
    assert same(petl.extract(base, tuned, rank="full").model, tuned)
    data = TensorDataset(torch.randn(12, 3, 64, 64), torch.arange(12) % 3)
    residuals = []
    for options in ({"rank": 2}, {"rank": 8}, {"energy": 0.5}, {"rank": "auto"}):
        found = petl.extract(base, tuned, data=data, **options)  # type: ignore[arg-type]  # each has its type
        residuals.append(found.residual)
        assert found.cost is not None and found.cost.images == 12 and "paired" in str(found)
        state, own = petl.merge(copy.deepcopy(found.model)).state_dict(), tuned.state_dict()
        assert all(torch.equal(state[k], own[k]) for k in own if own[k].ndim < 2)  # biases, norms, statistics
    assert residuals == sorted(residuals, reverse=True)
    assert residuals[2] <= 0.5**0.5 + 1e-6 and residuals[3] <= 0.1**0.5 + 1e-6
    assert same(petl.load(found.save(tmp_path / "e.safetensors"), copy.deepcopy(base)).eval(), found.model)
    assert same(petl.unwrap(found.model), base)


@pytest.mark.deep
def test_checkpoints_come_in_many_forms(base: nn.Module, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tuned = petl.merge(trained(base, "full", 1)).eval()
    state = tuned.state_dict()
    torch.save(state, tmp_path / "plain.pth")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "ddp.pth")
    beside = {"args": argparse.Namespace(lr=0.1), "state_dict": base.state_dict()}  # as timm's trainings save it
    torch.save({**beside, "state_dict_ema": state}, tmp_path / "ema.pth")
    save_file(state, tmp_path / "s.safetensors")
    wrapped = trained(base, "full", 1)
    forms: list[Any] = [state, wrapped, *(tmp_path / n for n in ("plain.pth", "ddp.pth", "ema.pth", "s.safetensors"))]
    for form in forms:
        assert same(petl.extract(base, form, rank="full").model, tuned)
    headless = timm.create_model("test_efficientnet", num_classes=0)
    headless.load_state_dict({k: v for k, v in base.state_dict().items() if not k.startswith("classifier")})
    assert same(petl.extract(headless, state, rank="full").model, tuned)
    bare = petl.extract(headless, headless)
    assert bare.tensors == 0 and bare.classes is None


class Evil:
    def __reduce__(self) -> Any:
        return (open, ("/nonexistent/evil", "w"))


@pytest.mark.deep
def test_what_is_no_checkpoint_of_the_base_is_refused(base: nn.Module, tmp_path: Path) -> None:
    import pickle

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"state_dict": Evil()}))
    (tmp_path / "text.pth").write_text("no weights")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    small = timm.create_model("test_efficientnet", in_chans=1)
    broken = copy.deepcopy(base.state_dict())
    broken["conv_stem.weight"][0, 0, 0, 0] = float("nan")
    cases: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        (tmp_path / "evil.pth", {}, petl.StateError, "can't be read as a checkpoint"),
        (tmp_path / "text.pth", {}, petl.StateError, "can't be read as a checkpoint"),
        (tmp_path / "empty.pth", {}, petl.StateError, "holds no tensors"),
        (tmp_path / "none.pth", {}, petl.StateError, "no such file"),
        (3, {}, petl.StateError, "expected a fine-tuned model"),
        (base_of("test_resnet"), {}, petl.StateError, "isn't one of the base: it lacks"),
        (small, {}, petl.StateError, "another shape"),
        (broken, {}, petl.StateError, "not a number"),
        (copy.deepcopy(base).to("meta"), {}, petl.StateError, "meta device"),
        ({**base.state_dict(), "conv_stem.weight": broken["conv_stem.weight"] * 1j}, {}, petl.StateError, "complex"),
        (base, {"rank": 0}, petl.MethodError, "rank=0"),
        (base, {"energy": 2}, petl.MethodError, "energy=2"),
        (base, {"labels": ["a"]}, petl.DeltaError, "label"),
    ]
    for tuned, options, kind, said in cases:
        with pytest.raises(kind, match=said):
            petl.extract(base, tuned, **options)
    with pytest.raises(petl.StateError, match="delta on it"):
        petl.extract(trained(base, "lora", 1), base)
