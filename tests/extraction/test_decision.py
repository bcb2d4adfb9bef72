"""Every reason not to train on features, each with its cheapest case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

import petl
from petl.data.inputs import as_loader
from petl.errors import StateError
from petl.extraction import reasons
from petl.extraction.decision import RunModel, UseFeatures, choose_features
from petl.extraction.reasons import REASONS, Reason
from tests.support.data import CLASSES, SIZE, Noisy, noise_pairs

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@dataclass
class Options:
    """What `choose_features` reads of the settings of a training."""

    views: int | None = None
    cache: bool | str | Path | None = None
    mixes: bool = False
    needs_images: str = ""
    limit: float = 1e9


def vit(method: Any = "partial", **options: Any) -> nn.Module:
    chosen = {"last": 1} if method == "partial" else {}
    return petl.wrap(timm.create_model("test_vit", num_classes=CLASSES, img_size=SIZE, **options), method, **chosen)


def resnet() -> nn.Module:
    """Its last stage trains, and no norm is held in evaluation mode."""
    model = timm.create_model("test_resnet", num_classes=CLASSES).requires_grad_(False)
    model.layer4.requires_grad_(True)
    return model


def hooked() -> nn.Module:
    model = vit()
    model.patch_embed.proj.register_forward_hook(lambda *_: None)
    return model


class Skip(nn.Module):
    """The output of ``early`` goes to ``middle`` and past it, so that no later module's input is all that the rest needs."""

    def __init__(self, stem: nn.Module) -> None:
        super().__init__()
        self.stem, self.early, self.middle = stem, nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 9)
        self.late, self.head = nn.Conv2d(4, 4, 1), nn.Linear(8, CLASSES)
        self.requires_grad_(False).late.requires_grad_(True)

    def forward(self, x: Tensor) -> Tensor:
        early = self.early(self.stem(x))
        late = self.late(self.middle(early)).mean((2, 3))
        return self.head(torch.cat([late, early.mean((2, 3))], 1))


def decide(model: nn.Module, data: Any = None, processes: int = 1, **options: Any) -> Any:
    accelerator = Accelerator(cpu=True)
    if processes > 1:
        accelerator = SimpleNamespace(num_processes=processes, device=accelerator.device, autocast=accelerator.autocast)
    loader = as_loader(noise_pairs() if data is None else data, model, training=True, batch_size=8)
    return choose_features(accelerator, model, (loader, None), Options(**options))


def augmented(folder: Path, **options: Any) -> Any:
    for number in range(4):
        place = folder / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((SIZE, SIZE, 3), number, dtype=np.uint8)).save(place)
    return petl.data.dataset(folder, petl.data.pipeline(vit()), training=True, **options)


CASES: list[tuple[Reason, Callable[[], nn.Module], dict[str, Any]]] = [
    (reasons.TurnedOff(), vit, {"cache": False}),
    (reasons.TurnedOff(), vit, {"views": 0}),
    (reasons.NoFrozenPart(), lambda: vit("lora"), {}),
    (reasons.Mixes(), vit, {"mixes": True}),
    (reasons.NeedsImages("aux='all'"), vit, {"needs_images": "aux='all'"}),
    (reasons.OwnLoader(), vit, {"data": DataLoader(noise_pairs(), batch_size=8)}),
    (reasons.SeveralProcesses(), vit, {"processes": 2}),
    (reasons.UnknownDataset("Noisy"), vit, {"data": Noisy(0.1)}),
    (reasons.Stochastic(("BatchNorm2d",)), resnet, {}),
    (reasons.Stochastic(("Dropout",)), lambda: vit(pos_drop_rate=0.2), {}),
    (reasons.Hooked(("Conv2d",)), hooked, {}),
    (reasons.SeveralTensors(), lambda: Skip(nn.Identity()), {}),
    (reasons.NoRoom("0.0 GB of features are more than cache_limit=1e-08"), vit, {"limit": 10}),
]


@pytest.mark.sweep(7)
@pytest.mark.parametrize(("reason", "model", "options"), CASES, ids=[type(case[0]).__name__ for case in CASES])
def test_the_whole_model_is_run_for_this_reason(reason: Reason, model: Any, options: dict[str, Any]) -> None:
    decision = decide(model(), **options)
    assert decision == RunModel(reason)
    assert decision.source is None
    told = f"each step ran the whole model: {reason}" if reason.reported else ""
    assert decision.describe(20) == told


def test_images_that_are_augmented_at_random(tmp_path: Path) -> None:
    assert decide(vit(), augmented(tmp_path)) == RunModel(reasons.AugmentedAtRandom())


def as_it_is(image: Image.Image) -> Image.Image:
    return image


def test_images_with_a_transform_of_ones_own(tmp_path: Path) -> None:
    images = augmented(tmp_path, transform=as_it_is)
    assert decide(vit(), images) == RunModel(reasons.UnknownTransform("as_it_is"))
    assert isinstance(decide(vit(), images, cache=True), UseFeatures)


def test_images_that_differ_when_they_are_read_again() -> None:
    with pytest.raises(StateError, match=f"^cache=True: {reasons.DiffersWhenReread('Noisy')}$"):
        decide(vit(), Noisy(0.1), cache=True)


def test_a_cut_with_too_little_below() -> None:
    model = Skip(nn.Conv2d(3, 3, 1))
    reason = decide(model).reason
    assert isinstance(reason, reasons.TooLittle)
    assert reason.cut == "early"
    assert 0 < reason.share < 0.25
    assert isinstance(decide(model, cache=True), UseFeatures)


def test_the_table_has_every_reason_and_every_reason_has_a_case() -> None:
    tried = {type(reason) for reason, _, _ in CASES}
    assert tried | {
        reasons.AugmentedAtRandom,
        reasons.UnknownTransform,
        reasons.DiffersWhenReread,
        reasons.TooLittle,
    } == {*REASONS}
    assert {*REASONS} == {*Reason.__subclasses__()}
    for kind in REASONS:
        assert kind.__doc__ and kind.remedy, f"{kind.__name__} says when it comes and what to do"


def test_a_probe_trains_on_the_inputs_of_its_head() -> None:
    decision = decide(vit("probe"))
    assert isinstance(decision, UseFeatures)
    assert decision.describe(20).startswith("trained from head on, on features that were computed once: 20 images")
    decision.source.close()
