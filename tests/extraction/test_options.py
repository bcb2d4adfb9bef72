"""Whether a training runs on features that are computed once, and why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

import petl
from petl.data.batches import loader
from petl.errors import PetlError, StateError
from petl.extraction.decision import head_features, trained_module
from petl.training.evaluation import evaluate
from petl.training.fit import fit
from tests.support.compare import equal, gap, state
from tests.support.cut_models import built, partial, picture_folder, train
from tests.support.data import SIZE, Noisy, noise_pairs, pairs
from tests.support.training import adapted

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def forwards(model: nn.Module) -> list[int]:
    """Filled with the number of images of each forward of the whole model."""
    seen: list[int] = []
    model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    return seen


@pytest.mark.sweep(1)
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext", "test_nfnet"])
def test_the_fast_road_is_the_ordinary_one(name: str) -> None:
    """Up to the last bits: the backbone's kernels round differently for batches of another composition."""
    runs = []
    for views in (0, None):
        model = adapted("probe", name)
        seen = forwards(model)
        history = fit(model, pairs(21), pairs(12, seed=1), epochs=4, lr=1e-2, batch_size=8, views=views)
        runs.append((state(model), history.rows, len(seen)))
    assert gap(runs[0][0], runs[1][0]) < 1e-4
    assert gap(runs[0][0], state(adapted("probe", name))) > 5e-3
    assert runs[0][1][-1]["loss"] == pytest.approx(runs[1][1][-1]["loss"], abs=1e-4)
    assert runs[0][2] > 4 * (3 + 2)
    assert runs[1][2] <= 3 + 2 + 4  # one pass over either set, two first looks, the proof
    assert evaluate(model, pairs(12, seed=1), batch_size=8).loss == pytest.approx(runs[1][1][-1]["loss"], abs=1e-6)


def test_views_are_augmented_epochs() -> None:
    """With a view per epoch training on features sees what training on images sees."""
    states = []
    for views in (0, 3, 1):
        model = adapted("probe")
        fit(model, Noisy(), epochs=3, lr=1e-2, batch_size=8, views=views)
        states.append(state(model))
    assert gap(states[0], states[1]) < 1e-4
    assert gap(states[0], states[2]) > 1e-3


def test_the_fast_road_is_taken_only_where_it_is_right() -> None:
    def taken(model: nn.Module, data: Any = None) -> bool:
        batches = data or loader(pairs(8), batch_size=4, training=True)
        before = state(model)
        found = head_features(Accelerator(cpu=True), model, batches)
        assert equal(before, state(model))
        return found is not None

    moving = timm.create_model("test_resnet", num_classes=3).requires_grad_(False)
    moving.fc.requires_grad_(True)
    assert taken(adapted("probe"))
    assert trained_module(adapted("probe")) == "fc"
    assert not taken(adapted("bn"))
    assert not taken(adapted("lora", "test_vit"))
    assert not taken(moving)  # its batch norms move in training
    assert not taken(petl.wrap(timm.create_model("test_resnet", drop_rate=0.5), "probe", num_classes=3))
    assert not taken(petl.wrap(timm.create_model("test_vit", img_size=64), "partial", last=1, num_classes=3))
    assert not taken(adapted("probe"), DataLoader(pairs(8), batch_size=4))
    twice = adapted("probe")
    twice.register_forward_hook(lambda module, args, output: output * 2)
    assert not taken(twice)  # the answer is not the head's


def test_a_hook_between_keeps_the_ordinary_road_right() -> None:
    model = adapted("probe")
    model.register_forward_hook(lambda module, args, output: output * 2)
    seen = forwards(model)
    fit(model, pairs(16), epochs=3, lr=1e-3, batch_size=8)
    assert len(seen) >= 3 * 2


@pytest.mark.deep
def test_random_images(tmp_path: Path) -> None:
    assert "can't see whether Noisy" in train(partial(built()), Noisy(0.1)).features
    with pytest.raises(StateError, match="Noisy gives other images when it is read again"):
        train(partial(built()), Noisy(0.1), cache=True)
    assert "from blocks.5 on" in train(partial(built()), Noisy(0.0), cache=True).features
    torch.manual_seed(0)
    model = petl.wrap(timm.create_model("test_vit", img_size=SIZE), "partial", num_classes=2)
    assert "augmented at random" in train(model, picture_folder(tmp_path), epochs=1).features
    with pytest.raises(StateError, match="augmented at random"):
        train(model, tmp_path, cache=True)


class Rarely(Noisy):
    """Draws for one image only, and that changes nothing."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index == 11:
            torch.rand(())
        return self.data[index]


@pytest.mark.parametrize("workers", [0, 1])
def test_no_random_number_escapes(workers: int) -> None:
    with pytest.raises(StateError, match="image 11 of Rarely draws random numbers"):
        train(partial(built()), Rarely(0.0), cache=True, workers=workers)


@pytest.mark.deep
def test_hooks_see_every_forward() -> None:
    model, seen, marks = partial(built()), [], []
    model.blocks[1].register_forward_hook(lambda module, args, out: seen.append(bool(out.isnan().any())))  # type: ignore
    history = train(model, epochs=3, on_epoch=lambda _: marks.append(len(seen)))
    assert "from blocks.1 on" in history.features  # and no later
    assert marks[0] + 2 * 3 <= len(seen) and not any(seen[marks[0] :])


@pytest.mark.deep
def test_unfreezing_below_is_an_error() -> None:
    model = partial(built())
    with pytest.raises(StateError, match="pass cache=False to unfreeze"):
        train(model, epochs=2, on_epoch=lambda _: model.requires_grad_(True))
    assert torch.isfinite(model(noise_pairs().tensors[0])).all()


REASONS: list[Any] = [
    (partial, {}, {"mixup": 0.2}, "mixup and cutmix"),
    (partial, {"pos_drop_rate": 0.2}, {}, "Dropout in the frozen part"),
    (partial, {}, {"data": DataLoader(noise_pairs(), batch_size=8)}, "pass its dataset"),
    (partial, {}, {"cache_limit": 1e-6}, "more than cache_limit=1e-06"),
    (lambda model: petl.wrap(model, "lora"), {}, {}, ""),
    (partial, {}, {"views": 0}, ""),
]


@pytest.mark.sweep(3)
@pytest.mark.parametrize(("method", "model_options", "options", "reason"), REASONS, ids=[r[-1] for r in REASONS])
def test_the_reason_is_told(method: Any, model_options: Any, options: dict[str, Any], reason: str) -> None:
    history = train(method(built(**model_options)), epochs=1, **options)
    assert reason in history.features
    assert bool(history.features) == bool(reason)
    if "pos_drop_rate" in model_options:
        return  # the patches are before it, and who insists gets these
    error = StateError if "views" not in options else PetlError
    with pytest.raises(error, match=reason or "trains from its first layers|only .* of a forward|views=0"):
        train(method(built(**model_options)), epochs=1, cache=True, **options)


def test_the_limit_is_a_positive_number() -> None:
    with pytest.raises(PetlError, match="cache_limit=0"):
        train(partial(built()), cache_limit=0)
