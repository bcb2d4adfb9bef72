"""The correction of a classifier: the formula, undone to the bit, kept in files, and refused where it can't be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models.resnetv2 import ResNetV2
from torch import Tensor, nn

import petl
from petl.shifts.correct import offsets

CLASSES = ["ant", "bee", "cat"]
Q = [0.7, 0.2, 0.1]


def found(**changes: Any) -> dict[str, Any]:
    values = {"source": [0.3, 0.3, 0.4], "target": Q, "scale": 0.6, "bias": [0.2, -0.1, 0.0], **changes}
    return {"classes": CLASSES, "verdict": "classes", "correction": values}


def wrapped(name: str = "test_vit", method: str = "lora", **args: Any) -> nn.Module:
    torch.manual_seed(0)
    model = petl.wrap(timm.create_model(name), method, num_classes=3, **args).eval()
    with torch.no_grad():
        for parameter in petl.trainable(model).values():
            parameter += 0.1 * torch.randn(parameter.shape)
    petl.record(model).labels = list(CLASSES)  # type: ignore[union-attr]  # wrapped
    return model


def images(model: nn.Module, count: int = 4) -> Tensor:
    return torch.randn(count, 3, 160, 160, generator=torch.Generator().manual_seed(1))


def bits(model: nn.Module) -> dict[str, bytes]:
    return {key: value.numpy().tobytes() for key, value in model.state_dict().items()}


# a linear classifier, one on a map of a CNN, a convolution, two classifiers whose mean counts, a large model's kinds of norm
MODELS = ["test_vit", "test_resnet", "test_convnext", "test_efficientnet"]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.sweep(2)
def test_corrected_and_undone_bit_for_bit(name: str) -> None:
    model = wrapped(name)
    x = images(model)
    before, old = bits(model), model(x)
    state = torch.get_rng_state()
    assert petl.correct(model, found()) is model
    assert torch.equal(torch.get_rng_state(), state)
    new = model(x)
    ratio = torch.tensor(Q, dtype=torch.float64) / torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
    wanted = (old.double() * 0.6 + torch.tensor([0.2, -0.1, 0.0]) + ratio.log()).softmax(1)
    answered = petl.predict(model, x, progress=False)
    assert torch.allclose(torch.from_numpy(answered.probabilities).double(), wanted, atol=1e-5)
    assert torch.equal(new.argmax(1), wanted.argmax(1))
    changed = [key for key, value in bits(model).items() if value != before[key]]
    assert len(changed) == 1 and changed[0].endswith("bias")
    petl.correct(model, None)
    assert bits(model) == before and torch.equal(model(x), old)
    assert petl.record(model).temperature is None and petl.record(model).correction is None  # type: ignore[union-attr]


def test_a_convolution_and_two_classifiers() -> None:
    by_convolution = ResNetV2(layers=(1, 1), channels=(128, 128), stem_chs=32, num_classes=3)
    small = {"depth": 1, "img_size": 64, "embed_dim": 24}
    distilled = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3, **small)
    for base in (by_convolution, distilled):
        torch.manual_seed(0)
        model = petl.wrap(base, "probe").eval()
        x = torch.randn(2, 3, 64, 64)
        old, before = model(x), bits(model)
        petl.correct(model, found())
        offset = offsets(torch.tensor([0.3, 0.3, 0.4]), torch.tensor(Q), 0.6, torch.tensor([0.2, -0.1, 0.0]))
        assert torch.allclose(model(x), old + offset.float(), atol=1e-5)
        petl.correct(model, None)
        assert bits(model) == before


def test_a_file_keeps_it_and_gives_it_back(tmp_path: Path) -> None:
    model = wrapped()
    x, before = images(model), bits(model)
    plain = petl.save(model, tmp_path / "plain.safetensors")
    petl.correct(model, found())
    path = petl.save(model, tmp_path / "d.safetensors")
    header = petl.read(path)
    assert header["correction"]["target"] == Q and header["temperature"] == 1 / 0.6
    torch.manual_seed(0)
    again = petl.load(path, timm.create_model("test_vit")).eval()
    assert torch.equal(again(x), model(x))
    petl.correct(again, None)
    assert bits(again) == before
    assert petl.save(again, tmp_path / "again.safetensors").read_bytes() == plain.read_bytes()
    merged = petl.merge(model)
    assert torch.equal(merged(x), petl.correct(again, found())(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.deep
def test_a_file_of_lower_precision_gives_back_what_it_would_have_had(tmp_path: Path, dtype: torch.dtype) -> None:
    model = wrapped()
    plain = petl.save(model, tmp_path / "plain.safetensors", dtype=dtype)
    petl.correct(model, found())
    path = petl.save(model, tmp_path / "d.safetensors", dtype=dtype)
    backbones = []
    for file in (plain, path):
        torch.manual_seed(0)
        backbones.append(petl.load(file, timm.create_model("test_vit")))
    assert bits(petl.correct(backbones[1], None)) == bits(backbones[0])


@pytest.mark.deep
def test_a_second_correction_takes_the_place_of_the_first() -> None:
    one, two = wrapped(), wrapped()
    petl.correct(petl.correct(one, found()), found(target=[0.1, 0.1, 0.8]))
    petl.correct(two, found(target=[0.1, 0.1, 0.8]))
    assert bits(one) == bits(two)
    assert bits(petl.correct(one, None)) == bits(wrapped())


def test_a_temperature_from_before_comes_back() -> None:
    model = wrapped()
    record: Any = petl.record(model)
    record.temperature = 2.5
    petl.correct(model, found())
    assert record.temperature == 1 / 0.6
    petl.correct(model, None)
    assert record.temperature == 2.5


def test_classes_in_another_order_are_matched_by_name() -> None:
    one, two = wrapped(), wrapped()
    turned = {
        "classes": CLASSES[::-1],
        "correction": {k: v[::-1] if isinstance(v, list) else v for k, v in found()["correction"].items()},
    }
    assert bits(petl.correct(one, turned)) == bits(petl.correct(two, found()))


def test_a_class_that_is_gone_keeps_a_finite_bias() -> None:
    model = petl.correct(wrapped(), found(target=[1.0, 0.0, 0.0]))
    assert bool(torch.isfinite(model.head.bias).all())
    kept = petl.correct(wrapped(), found(source=[0.5, 0.5, 0.0], bias=[0.0, 0.0, 0.0]))
    assert torch.equal(kept.head.bias[2], wrapped().head.bias[2])


def test_a_training_forgets_it() -> None:
    model = petl.correct(wrapped(method="probe"), found())
    data = torch.utils.data.TensorDataset(images(model, 6), torch.arange(6) % 3)
    petl.fit(model, data, epochs=1, labels=CLASSES, progress=False)
    record: Any = petl.record(model)
    assert record.correction is None and record.temperature is None
    with pytest.raises(petl.StateError, match="nothing to take back"):
        petl.correct(model, None)


def test_what_has_changed_since_is_not_undone() -> None:
    model = petl.correct(wrapped(), found())
    with torch.no_grad():
        model.head.bias[0] += 1
    after = bits(model)
    for shift in (None, found()):
        with pytest.raises(petl.StateError, match="has changed since"):
            petl.correct(model, shift)
    assert bits(model) == after


class Cosine(nn.Module):
    """A classifier whose scores are computed behind its linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(3, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x.mean((2, 3)))).tanh()


def test_models_that_cannot_be_corrected() -> None:
    with pytest.raises(petl.StateError, match="not wrapped"):
        petl.correct(timm.create_model("test_vit", num_classes=3), found())
    with pytest.raises(petl.StateError, match="nothing to take back"):
        petl.correct(wrapped(), None)
    levels = wrapped()
    petl.record(levels).task = "multilabel"  # type: ignore[union-attr]  # wrapped
    with pytest.raises(petl.StateError, match="trained for 'multilabel'"):
        petl.correct(levels, found())
    frozen = petl.wrap(timm.create_model("test_vit", num_classes=3), "lora", head=False)
    no_bias = timm.create_model("test_vit", num_classes=3)
    no_bias.head = nn.Linear(64, 3, bias=False)
    none = petl.wrap(timm.create_model("test_vit", num_classes=0), "lora")
    for model in (frozen, petl.wrap(no_bias, "lora"), petl.wrap(Cosine(), "bias", head="fc"), none):
        before = bits(model)
        with pytest.raises(petl.StateError, match="change of the classifier's bias"):
            petl.correct(model, found())
        assert bits(model) == before


@pytest.mark.parametrize("place", ["head", "head.1"])
def test_a_classifier_without_bias_is_told_the_line_that_gives_it_one(place: str) -> None:
    def backbone() -> Any:
        model: Any = timm.create_model("test_vit", num_classes=3)
        plain = nn.Linear(64, 3, bias=False)
        model.head = plain if place == "head" else nn.Sequential(nn.Identity(), plain)
        return model

    with pytest.raises(petl.StateError, match="has no bias") as error:
        petl.correct(petl.wrap(backbone(), "lora", head="head"), found())
    line = str(error.value).rpartition("and train: ")[2]
    model = backbone()
    exec(line, {"model": model, "torch": torch})
    corrected = petl.correct(petl.wrap(model, "lora", head="head"), found())
    assert bool((corrected.get_submodule(place).bias != 0).any())


@pytest.mark.parametrize(("verdict", "said"), [("none", "noise"), ("appearance", "appearance"), ("classes", "")])
def test_a_correction_that_may_do_harm_says_so(verdict: str, said: str, caplog: pytest.LogCaptureFixture) -> None:
    petl.correct(wrapped(), {**found(), "verdict": verdict})
    assert said in caplog.text and bool(caplog.text) == bool(said)


@pytest.mark.parametrize(
    ("shift", "said"),
    [
        ({**found(), "classes": ["ant", "bee", "dog"]}, "dog"),
        ({"classes": CLASSES, "correction": None, "correction_refused": "too little is known"}, "too little is known"),
        ({"classes": CLASSES}, "petl.shift returned"),
        (3, "petl.shift returned"),
        (found(scale=0), "scale"),
        (found(target=[0.5, 0.5]), "each class"),
        (found(bias=[0.0, float("nan"), 0.0]), "each class"),
        (found(target=[1.1, -0.1, 0.0]), "0 or more"),
        (found(target=[7, 2, 1]), "sums to 10; expected"),
        (found(source=[0.0, 0.0, 0.0]), "'source' of .* sums to 0"),
        (found(target=[10**400, 0, 0]), "number for each class"),
        (found(target="abc"), "a str for 3 classes"),
        ({**found(), "correction": [1, 2]}, "is a list"),
        ("nowhere.json", "can't be read"),
    ],
)
@pytest.mark.sweep(4)
def test_shifts_that_give_no_correction(shift: Any, said: str) -> None:
    model = wrapped()
    before = bits(model)
    with pytest.raises(petl.DataError, match=said):
        petl.correct(model, shift)
    assert bits(model) == before and petl.record(model).correction is None  # type: ignore[union-attr]


def test_a_file_of_findings_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "shift.json"
    path.write_text(json.dumps(found()))
    assert bits(petl.correct(wrapped(), path)) == bits(petl.correct(wrapped(), found()))
