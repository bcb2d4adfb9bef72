"""A wrapped model inside another: a wrapper, an average, a detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import petl
from tests.support.compare import differing, state
from tests.support.zoo import disturb, images, make, output


class Holder(nn.Module):
    """What hubs, detectors and trainers put around a model."""

    def __init__(self, backbone: nn.Module, neck: bool = False):
        super().__init__()
        self.backbone = backbone
        if neck:
            self.neck = nn.Linear(5, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone(images)


HOLDERS: dict[str, Any] = {
    "holder": Holder,
    "average": AveragedModel,
    "twice": lambda model: Holder(Holder(model)),
    "parallel": lambda model: nn.DataParallel(Holder(model)),
}


def held(kind: str, methods: Any = "lora") -> Any:
    return HOLDERS[kind](disturb(petl.wrap(make("vit"), methods, num_classes=5)))


@pytest.mark.sweep(4)
@pytest.mark.parametrize("kind", HOLDERS)
@pytest.mark.parametrize("methods", ["lora", "probe"])
def test_the_verbs_work_on_what_is_inside(kind: str, methods: str, tmp_path: Path) -> None:
    outer, x = held(kind, methods), images("vit")
    out = output(outer, x)
    assert [row.name for row in petl.summary(outer)][-1] == "head"
    assert petl.record(outer) is not None and petl.in_chans(outer) == 3
    path = petl.save(outer, tmp_path / "d.safetensors")
    assert torch.equal(output(petl.load(path, make("vit")), x), out)
    if kind != "parallel":
        again = HOLDERS[kind](make("vit"))
        assert petl.load(path, again) is again and torch.equal(output(again, x), out)
    assert petl.merge(outer) is outer and petl.record(outer) is None
    assert torch.equal(output(outer, x), out)


@pytest.mark.deep
def test_unwrap_and_check_inside() -> None:
    outer = held("holder")
    assert petl.check(outer, images("vit")).ok
    assert len(petl.trainable(outer)) == len(petl.trainable(outer.backbone))
    assert petl.unwrap(outer) is outer
    assert not differing(state(outer.backbone), state(make("vit")))


def test_what_trains_outside_is_named(tmp_path: Path) -> None:
    outer = Holder(petl.wrap(make("vit"), "lora", num_classes=5), neck=True)
    with pytest.raises(petl.StateError, match=r"neck\.weight.*petl\.save\(model\.backbone, path\)"):
        petl.save(outer, tmp_path / "d.safetensors")
    assert not list(tmp_path.iterdir())
    outer.neck.requires_grad_(False)
    assert petl.save(outer, tmp_path / "d.safetensors")


def test_two_inside_are_named_and_none_is_said(tmp_path: Path) -> None:
    pair = nn.ModuleDict({"student": petl.wrap(make("vit"), "lora"), "teacher": petl.wrap(make("vit"), "lora")})
    for verb in (petl.summary, petl.merge, petl.unwrap, lambda m: petl.save(m, tmp_path / "d.safetensors")):
        with pytest.raises(petl.StateError, match=r"student, teacher.*model\.student"):
            verb(pair)
    with pytest.raises(petl.StateError, match="student.*wrapped already"):
        petl.wrap(pair, "lora")
    path = petl.save(pair["student"], tmp_path / "d.safetensors")
    plain = nn.ModuleDict({"one": make("vit"), "other": make("vit")})
    with pytest.raises(petl.DeltaError, match=r"one, other.*petl\.load\(path, model\.one\)"):
        petl.load(path, plain)
    with pytest.raises(petl.StateError, match="not wrapped, nor is a model inside it"):
        petl.summary(plain)


def test_a_model_of_transformers_knows_its_classes() -> None:
    transformers = pytest.importorskip("transformers")
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ViTConfig(**size, image_size=32, patch_size=8, num_labels=7)
    model = transformers.ViTForImageClassification(config)
    with pytest.raises(petl.SiteError, match="head='classifier'"):
        petl.wrap(model, "lora", num_classes=5)
    petl.wrap(model, "lora", num_classes=5, head="classifier")
    assert model.config.num_labels == model.num_labels == 5 and len(model.config.id2label) == 5
    assert model(torch.randn(2, 3, 32, 32), labels=torch.tensor([4, 0])).loss.isfinite()
    assert petl.unwrap(model).config is config and config.num_labels == model.num_labels == 7


def test_timms_models_in_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    settings = transformers.TimmWrapperConfig(architecture="test_vit", model_args={"img_size": 64}, num_labels=7)
    outer, x = transformers.TimmWrapperForImageClassification(settings).eval(), images("vit")
    with pytest.raises(petl.SiteError, match="head='timm_model.head'"):
        petl.wrap(outer, "lora", num_classes=5)
    petl.wrap(outer, "lora", num_classes=5, head="timm_model.head")
    assert outer.config.num_labels == outer.timm_model.num_classes == 5
    petl.unwrap(outer)
    assert outer.config.num_labels == outer.timm_model.num_classes == 7
    disturb(petl.wrap(outer.timm_model, "lora"))
    path, base = petl.save(outer, tmp_path / "d.safetensors"), transformers.TimmWrapperForImageClassification(settings)
    base.timm_model.load_state_dict(petl.unwrap(outer).timm_model.state_dict())
    petl.load(path, outer)
    assert torch.equal(petl.load(path, base).eval()(x).logits, outer.eval()(x).logits)
