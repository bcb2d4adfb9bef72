"""fit and evaluate: against hand-made loops, scikit-learn and themselves."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from PIL import Image
from sklearn import metrics as oracle
from sklearn.utils.class_weight import compute_class_weight
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import petl
from petl.data.batches import loader, set_epoch
from petl.errors import DataError, PetlError, StateError
from petl.extraction.decision import head_features, trained_module
from petl.training.evaluation import evaluate
from petl.training.fit import fit
from petl.training.metrics import metrics_of
from tests.support.compare import equal, gap, state
from tests.support.data import CLASSES, SIZE, Noisy, pairs

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def adapted(methods: Any = "bn", name: str = "test_resnet", **options: Any) -> nn.Module:
    """The same model each time."""
    torch.manual_seed(3)
    size = {"img_size": SIZE} if name == "test_vit" else {}
    return petl.wrap(timm.create_model(name, **size), methods, num_classes=CLASSES, **options)


def without_time(history: Any) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history.rows]


# What it learns, and what it leaves alone


@pytest.mark.sweep(1)
@pytest.mark.parametrize(
    ("methods", "name", "lr"),
    [("bn", "test_resnet", 1e-2), (["bias", petl.LoRA(rank=4)], "test_vit", 1e-2), ("full", "test_efficientnet", 1e-2)],
)
def test_it_learns_and_leaves_frozen_tensors_alone(methods: Any, name: str, lr: float) -> None:
    model = adapted(methods, name)
    before, trains = state(model), set(petl.trainable(model))
    history = fit(model, pairs(48), pairs(30, seed=1), epochs=5, lr=lr, batch_size=8)
    after = state(model)
    assert history.rows[-1]["train_loss"] < 0.7 * history.rows[0]["train_loss"]
    assert history.best["accuracy"] >= 0.8
    assert not [key for key in before if key not in trains and "running" not in key and "num_batches" not in key
                and not torch.equal(before[key], after[key])]  # fmt: skip
    assert all(not torch.equal(before[key], after[key]) for key in trains)
    assert petl.record(model).moved() == []
    assert not any(module.training for module in model.modules())


def test_it_is_the_plain_loop_and_the_plain_average() -> None:
    """Bit for bit what a hand-written loop over the same batches gives, averaged weights included."""
    data, run, hand = pairs(21), adapted(), adapted()
    ema, batches = ModelEmaV3(hand, decay=0.9, use_warmup=True), loader(data, batch_size=8, training=True, seed=7)
    optimizer = torch.optim.SGD(petl.param_groups(hand, lr=0.05, weight_decay=0.1), lr=0.05)
    step = 0
    for epoch in range(2):
        set_epoch(batches, epoch)
        hand.train()
        for images, targets in batches:
            F.cross_entropy(hand(images), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            ema.update(hand, step=step)
    settings: dict[str, Any] = {
        "epochs": 2,
        "lr": 0.05,
        "batch_size": 8,
        "weight_decay": 0.1,
        "seed": 7,
        "schedule": "none",
    }
    plain = copy.deepcopy(run)
    fit(plain, data, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.05), **settings)
    fit(run, data, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.05), ema=0.9, **settings)
    assert equal(state(plain), state(hand))
    assert equal(state(run), state(ema.module))
    assert not equal(state(run), state(plain))


def test_the_seed_decides() -> None:
    runs = []
    for seed in (0, 0, 1):
        model = adapted()
        torch.manual_seed(seed * 100)  # what happened before must not matter
        fit(model, pairs(), epochs=1, lr=1e-2, batch_size=8, mixup=0.3, seed=seed)
        runs.append(state(model))
    assert equal(runs[0], runs[1])
    assert not equal(runs[0], runs[2])


def test_accumulation_is_a_larger_batch() -> None:
    """Also in the last window, which is short here, and for its last batch of two images."""
    states = []
    for batch_size, accumulate in ((12, 1), (4, 3)):
        model = adapted("lora", "test_vit")
        options: dict[str, Any] = {"optimizer": lambda groups: torch.optim.SGD(groups, lr=0.1), "schedule": "none"}
        history = fit(model, pairs(22), epochs=2, lr=0.1, batch_size=batch_size, accumulate=accumulate, **options)
        states.append((state(model), history.rows[-1]["train_loss"]))
    assert gap(states[0][0], states[1][0]) < 1e-5
    assert states[0][1] == pytest.approx(states[1][1], abs=1e-5)
    assert gap(states[0][0], state(adapted("lora", "test_vit"))) > 1e-3


def test_clipping_bounds_the_step() -> None:
    steps = []
    for clip in (None, 0.01):
        model = adapted("lora", "test_vit")
        before = {name: p.detach().clone() for name, p in petl.trainable(model).items()}
        options: dict[str, Any] = {"optimizer": lambda groups: torch.optim.SGD(groups, lr=1.0), "schedule": "none"}
        fit(model, pairs(8), epochs=1, lr=1.0, batch_size=8, clip=clip, weight_decay=0.0, **options)
        steps.append(torch.cat([(p - before[n]).flatten() for n, p in petl.trainable(model).items()]).norm().item())
    assert steps[0] > 0.05
    assert steps[1] == pytest.approx(0.01, rel=1e-3)


def test_schedule_and_layer_decay() -> None:
    """Linear warm-up, then a cosine to nothing; earlier layers have their share of the rate, once."""
    made: list[Any] = []
    rates: list[list[float]] = []

    class Watched(torch.optim.AdamW):
        def step(self, closure: Any = None) -> Any:
            rates.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    def build(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        made.append(groups)
        return Watched(groups, lr=1e-2)

    model = adapted("lora", "test_vit")
    fit(model, pairs(32), epochs=5, lr=1e-2, batch_size=8, warmup_epochs=1, layer_decay=0.5, optimizer=build)
    scales = [group["lr_scale"] for group in made[0]]
    top = [max(row) for row in rates]
    assert len(rates) == 20
    assert top[0] == pytest.approx(1e-4)
    assert top[:4] == sorted(top[:4])
    assert top[4] == max(top)
    assert top[4] == pytest.approx(1e-2, rel=0.1)
    assert top[4:] == sorted(top[4:], reverse=True)
    assert top[-1] < 1e-4
    assert min(scales) < 0.2
    assert all(row == pytest.approx([max(row) * scale for scale in scales]) for row in rates)


# The loss


def initial_logits(model: nn.Module, data: TensorDataset) -> Tensor:
    with torch.no_grad():
        return model.eval()(data.tensors[0])


@pytest.mark.parametrize("weights", [[1.0, 2.0, 5.0], "balanced"])
def test_class_weights_by_hand(weights: Any) -> None:
    images, _ = pairs(12).tensors
    targets = torch.tensor([0] * 7 + [1] * 3 + [2] * 2)
    data, model = TensorDataset(images, targets), adapted("lora", "test_vit")
    logits = initial_logits(model, data)
    table = (
        compute_class_weight("balanced", classes=np.arange(3), y=targets.numpy()) if weights == "balanced" else weights
    )
    each = torch.tensor(np.asarray(table), dtype=torch.float32)[targets]
    wanted = (each * -logits.log_softmax(1)[range(12), targets]).sum() / each.sum()
    history = fit(model, data, epochs=1, lr=1e-3, batch_size=12, class_weights=weights)
    assert history.rows[0]["train_loss"] == pytest.approx(wanted.item(), rel=1e-5)
    assert wanted.item() != pytest.approx(F.cross_entropy(logits, targets).item(), rel=1e-3)


def test_label_smoothing_by_hand() -> None:
    data, model = pairs(12), adapted("lora", "test_vit")
    logs = initial_logits(model, data).log_softmax(1)
    wanted = -(0.7 * logs[range(12), data.tensors[1]] + 0.3 * logs.mean(1)).mean()
    history = fit(model, data, epochs=1, lr=1e-3, batch_size=12, label_smoothing=0.3)
    assert history.rows[0]["train_loss"] == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("mix", [{"mixup": 0.5}, {"cutmix": 1.0}, {"mixup": 0.5, "cutmix": 1.0}])
def test_mixes_change_images_and_targets(mix: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """21 images in batches of 8: the last one is odd and isn't mixed; all targets are soft, and smoothed once."""
    seen: list[Any] = []
    plain_loss = nn.CrossEntropyLoss.forward

    def spied(self: nn.CrossEntropyLoss, answers: Tensor, targets: Tensor) -> Tensor:
        seen.append((answers.detach(), targets))
        assert self.label_smoothing == 0
        return plain_loss(self, answers, targets)

    monkeypatch.setattr(nn.CrossEntropyLoss, "forward", spied)
    fit(adapted("lora", "test_vit"), pairs(21), epochs=1, lr=1e-3, batch_size=8, label_smoothing=0.3, **mix)
    targets = [targets for _, targets in seen]
    assert [len(batch) for batch in targets] == [8, 8, 5]
    assert all(torch.allclose(batch.sum(1), torch.ones(len(batch))) for batch in targets)
    assert torch.allclose(targets[2].sort(1).values, torch.tensor([0.1, 0.1, 0.8]).expand(5, 3))
    assert any(((batch > 0.11) & (batch < 0.79)).any() for batch in targets[:2])
    seen.clear()
    fit(adapted("lora", "test_vit"), pairs(21), epochs=1, lr=1e-3, batch_size=8)
    assert seen[0][1].dtype == torch.int64


# The best epoch


def test_the_best_delta_is_the_best_epoch(tmp_path: Path) -> None:
    val, path = pairs(30, seed=1), tmp_path / "best.safetensors"
    model = adapted()
    base = timm.create_model("test_resnet")
    base.load_state_dict(petl.unwrap(copy.deepcopy(model)).state_dict())
    history = fit(model, pairs(48), val, epochs=4, lr=2e-2, batch_size=8, out=path, labels=["a", "b", "c"], keep="best")
    header, again = petl.read(path), petl.load(path, base)
    best = max(history.rows, key=lambda row: row["accuracy"])
    assert history.best == best
    assert header["labels"] == ["a", "b", "c"]
    assert header["results"] == json.loads(json.dumps(best))
    assert evaluate(again, val, batch_size=8).accuracy == best["accuracy"]
    assert equal(state(again), state(model))
    assert petl.record(model).labels == ["a", "b", "c"]


def test_keep_last_leaves_the_last_values() -> None:
    """Training on wrong labels gets worse on the right ones, so the best epoch is the first."""
    images, targets = pairs(48).tensors
    states = []
    for keep in ("last", "best"):
        model = adapted()
        wrong, val = TensorDataset(images, (targets + 1) % 3), pairs(30, seed=1)
        history = fit(model, wrong, val, epochs=4, lr=2e-2, batch_size=8, monitor="loss", keep=keep)
        states.append((state(model), evaluate(model, val, batch_size=8).loss, history))
    assert history.best["epoch"] < 4
    assert states[0][1] == pytest.approx(history.rows[-1]["loss"])
    assert states[1][1] == pytest.approx(history.best["loss"])
    assert states[1][1] < states[0][1]


def test_early_stopping_stops() -> None:
    history = fit(adapted(), pairs(8), pairs(8, seed=1), epochs=9, lr=1e-12, batch_size=8, patience=2, monitor="f1")
    assert history.stopped
    assert len(history) <= 5
    assert history.stale == 2
    going = fit(adapted(), pairs(8), pairs(8, seed=1), epochs=4, lr=1e-12, batch_size=8, monitor="f1")
    assert not going.stopped
    assert len(going) == 4


def test_history_prints_a_table() -> None:
    history = fit(adapted(), pairs(16), pairs(8, seed=1), epochs=2, lr=1e-2, batch_size=8)
    lines = repr(history).splitlines()
    assert lines[0].split()[:4] == ["epoch", "train_loss", "loss", "accuracy"]
    assert len(lines) == 3
    assert sum("best accuracy" in line for line in lines) == 1


def test_without_validation_the_last_epoch_is_saved(tmp_path: Path) -> None:
    model = adapted()
    history = fit(model, pairs(16), epochs=2, lr=1e-2, batch_size=8, out=tmp_path / "last.safetensors")
    assert history.best["epoch"] == 2
    assert petl.read(tmp_path / "last.safetensors")["results"]["epoch"] == 2


# Interrupted and resumed


def stop_after(epoch: int, error: type[BaseException] = KeyboardInterrupt) -> Callable[[dict[str, Any]], None]:
    def on_epoch(row: dict[str, Any]) -> None:
        if row["epoch"] == epoch:
            raise error

    return on_epoch


RESUMED: list[Any] = [
    ("bn", "test_resnet", {"mixup": 0.2}),
    ("lora", "test_vit", {"ema": 0.9, "keep": "best", "accumulate": 2}),
    ("probe", "test_resnet", {}),
    ("full", "test_efficientnet", {"precision": "bf16", "layer_decay": 0.8}),
]


@pytest.mark.sweep(2)
@pytest.mark.parametrize(("methods", "name", "options"), RESUMED, ids=lambda value: str(value)[:12])
def test_resuming_is_bit_equal(methods: Any, name: str, options: dict[str, Any], tmp_path: Path) -> None:
    given: dict[str, Any] = {"epochs": 4, "lr": 1e-2, "batch_size": 8, **options}

    def run(folder: str, **more: Any) -> tuple[dict[str, Tensor], Any]:
        model = adapted(methods, name)
        history = fit(model, pairs(21), pairs(12, seed=1), checkpoint=tmp_path / folder, **given, **more)
        return state(model), without_time(history)

    with pytest.raises(KeyboardInterrupt):
        run("broken", on_epoch=stop_after(2))
    saved = torch.load(tmp_path / "broken/epoch-0002/custom_checkpoint_0.pkl", weights_only=False)
    torch.rand(7)
    unbroken, resumed = run("whole"), run("broken", resume=True)
    assert len(saved["history"]["rows"]) == 2
    assert equal(resumed[0], unbroken[0])
    assert resumed[1] == unbroken[1]
    assert len(resumed[1]) == 4
    assert [path.name for path in (tmp_path / "broken").iterdir()] == ["epoch-0004"]


def test_a_checkpoint_has_no_backbone(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = adapted("lora")  # its batch norms are held still
    fit(model, pairs(8), epochs=1, lr=1e-2, batch_size=8, checkpoint=tmp_path)
    assert load_file(tmp_path / "epoch-0001/model.safetensors").keys() == petl.trainable(model).keys()
    tuned = adapted("bn")
    fit(tuned, pairs(8), epochs=1, lr=1e-2, batch_size=8, checkpoint=tmp_path / "bn")
    found = load_file(tmp_path / "bn/epoch-0001/model.safetensors")
    statistics = [key for key in tuned.state_dict() if "running" in key or "num_batches" in key]
    assert statistics
    assert found.keys() == {*petl.trainable(tuned), *statistics}
    assert all(torch.equal(found[key], tuned.state_dict()[key]) for key in found)


def test_resume_refuses_what_it_cannot_be(tmp_path: Path) -> None:
    fit(adapted(), pairs(8), epochs=1, lr=1e-2, batch_size=8, checkpoint=tmp_path / "bn")
    model = adapted("lora", rank=2)
    before = state(model)
    with pytest.raises(StateError, match="another model or method"):
        fit(model, pairs(8), epochs=2, lr=1e-2, batch_size=8, resume=tmp_path / "bn")
    assert equal(state(model), before)
    with pytest.raises(StateError, match="no training checkpoint"):
        fit(model, pairs(8), epochs=2, lr=1e-2, resume=tmp_path / "none")
    assert len(fit(model, pairs(8), epochs=1, lr=1e-2, checkpoint=tmp_path / "new", resume=True)) == 1


class Breaking(Dataset):
    """Raises, or gives NaN, after so many images."""

    def __init__(self, after: int, what: type[BaseException] | float):
        self.data, self.left, self.what = pairs(16), after, what

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.left -= 1
        image, target = self.data[index]
        if self.left >= 0:
            return image, target
        if isinstance(self.what, float):
            return image * self.what, target
        raise self.what


def test_control_c_leaves_the_best_delta(tmp_path: Path) -> None:
    """In the middle of the third epoch; one image is looked at before the first."""
    model, path = adapted(), tmp_path / "best.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(model, Breaking(1 + 2 * 16 + 9, KeyboardInterrupt), epochs=5, lr=1e-2, batch_size=8, out=path)
    assert petl.read(path)["results"]["epoch"] == 2
    assert not model.training
    assert not [key for key in vars(model) if "accelerate" in key]


def test_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    model, path = adapted(), tmp_path / "best.safetensors"
    with pytest.raises(PetlError, match=r"loss is nan in epoch 2, update 3: try a lower lr .*holds epoch 1"):
        fit(model, Breaking(1 + 16, float("nan")), epochs=3, lr=1e-2, batch_size=8, out=path)
    assert petl.read(path)["results"]["epoch"] == 1
    assert all(p.isfinite().all() for p in model.parameters())


# What can't be


class Mapping(Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": torch.zeros(3, SIZE, SIZE), "label": 0}


IMAGES, TARGETS = pairs(8).tensors
BAD_DATA: list[Any] = [
    (lambda: TensorDataset(IMAGES[:0], TARGETS[:0]), "dataset is empty"),
    (lambda: DataLoader(pairs(8), batch_size=9, drop_last=True), "gives no batch"),
    (lambda: TensorDataset(IMAGES, TARGETS + 1), "label 3 for a model of 3 classes"),
    (lambda: TensorDataset(IMAGES, TARGETS - 1), "label -1 for a model of 3 classes"),
    (lambda: TensorDataset(IMAGES[:, :1], TARGETS), "have 1 channels, the model takes 3"),
    (lambda: TensorDataset(IMAGES.byte(), TARGETS), "can't take images of shape .*uint8"),
    (lambda: TensorDataset(IMAGES[..., :50], TARGETS), r"can't take images of shape \(1, 3, 64, 50\)"),
    (lambda: TensorDataset(IMAGES, TARGETS.float()), "expected class numbers"),
    (lambda: TensorDataset(IMAGES, F.one_hot(TARGETS)), "expected class numbers"),
    (lambda: TensorDataset(IMAGES), "expected pairs"),
    (Mapping, "batch of type dict"),
    (lambda: 5, "got data of type int"),
    (lambda: "no/such/folder", "no such folder"),
]


@pytest.mark.parametrize(("data", "message"), BAD_DATA, ids=[message for _, message in BAD_DATA])
def test_bad_data_is_one_clear_error(data: Callable[[], Any], message: str) -> None:
    model = adapted("lora", "test_vit")
    before = state(model)
    with pytest.raises(DataError, match=message):
        fit(model, data(), epochs=1, lr=1e-2, batch_size=8)
    with pytest.raises(DataError, match=message):
        evaluate(model, data())
    with pytest.raises(DataError, match=message):
        fit(model, pairs(8), data(), epochs=1, lr=1e-12, batch_size=8, schedule="none", weight_decay=0.0)
    assert gap(state(model), before) < 1e-9


BAD_SETTINGS: list[Any] = [
    ({"epochs": 0}, "epochs=0"),
    ({"lr": 0.0}, "lr=0.0"),
    ({"lr": float("nan")}, "lr=nan"),
    ({"batch_size": 0}, "batch_size=0"),
    ({"accumulate": 0}, "accumulate=0"),
    ({"monitor": "acuracy"}, "near names: accuracy"),
    ({"patience": 3}, "need validation data"),
    ({"keep": "best"}, "need validation data"),
    ({"keep": "first"}, "keep='first'"),
    ({"resume": True}, "needs checkpoint="),
    ({"warmup_epochs": 2}, "warmup_epochs=2"),
    ({"optimizer": "adamv"}, "optimizer='adamv'"),
    ({"schedule": "cosin"}, "schedule='cosin'"),
    ({"schedule": "plateau"}, "schedule='plateau'"),
    ({"precision": "fp8"}, "precision='fp8'"),
    ({"class_weights": [1.0, 2.0]}, "expected 3 numbers"),
    ({"class_weights": "even"}, "expected 'balanced'"),
    ({"labels": ["a", "b"]}, "2 labels .* 3 classes"),
    ({"views": 2}, "views=2, but the head"),
    ({"views": 2, "mixup": 0.2}, "only images can be mixed"),
    ({"out": "no/such/folder/x.safetensors"}, "is not a folder"),
]


@pytest.mark.parametrize(("options", "message"), BAD_SETTINGS, ids=[str(options) for options, _ in BAD_SETTINGS])
def test_bad_settings_are_one_clear_error(options: dict[str, Any], message: str) -> None:
    model = adapted()
    before = state(model)
    with pytest.raises(PetlError, match=message):
        fit(model, pairs(8), **{"epochs": 1, "lr": 1e-3, **options})
    assert equal(state(model), before)


def test_a_model_that_cannot_be_trained() -> None:
    plain = timm.create_model("test_resnet", num_classes=3)
    with pytest.raises(StateError, match="not wrapped"):
        fit(plain, pairs(8), epochs=1, lr=1e-3, out="x.safetensors")
    with pytest.raises(StateError, match=r"no parameter of this .* trains"):
        fit(plain.requires_grad_(False), pairs(8), epochs=1, lr=1e-3)
    with pytest.raises(DataError, match="a model with a classifier"):
        evaluate(nn.Identity(), pairs(8))


def test_half_precision_needs_a_gpu() -> None:
    with pytest.raises(PetlError, match="needs a GPU"):
        fit(adapted(), pairs(8), epochs=1, lr=1e-3, precision="fp16")


# Precision, other people's accelerators, bars


def test_bf16_and_back() -> None:
    """Two precisions in one process; the model's own forward is back, and it is still a float32 model."""
    states = []
    for precision in ("bf16", "no", "bf16"):
        model = adapted()
        history = fit(model, pairs(24), pairs(12, seed=1), epochs=2, lr=1e-2, batch_size=8, precision=precision)
        assert history.rows[-1]["train_loss"] < history.rows[0]["train_loss"]
        assert not {"forward", "_original_forward", "_is_accelerate_prepared"} & vars(model).keys()
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        states.append(state(model))
    assert equal(states[0], states[2])
    assert not equal(states[0], states[1])


def test_a_bfloat16_model_trains() -> None:
    model = petl.wrap(timm.create_model("test_resnet").bfloat16(), "full", num_classes=CLASSES)
    history = fit(model, pairs(24), pairs(6), epochs=3, lr=1e-2, batch_size=8)
    assert history.rows[-1]["train_loss"] < history.rows[0]["train_loss"]
    assert model.fc.weight.dtype == torch.bfloat16


def test_the_callers_accelerator_is_as_before() -> None:
    mine = Accelerator(gradient_accumulation_steps=4, mixed_precision="bf16", cpu=True)
    model = mine.prepare(adapted())
    evaluate(model, pairs(6))
    fit(model, pairs(8), epochs=1, lr=1e-3, batch_size=8, precision="no")
    assert mine.gradient_accumulation_steps == 4
    assert mine.mixed_precision == "bf16"
    assert model._is_accelerate_prepared
    with torch.no_grad():
        assert not torch.equal(model(IMAGES), type(model).forward(model, IMAGES))  # it still runs in bf16


def test_no_bar_but_a_line_an_epoch_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    fit(adapted("probe"), pairs(8), pairs(8), epochs=2, lr=1e-3, batch_size=8)
    evaluate(adapted(), pairs(8))
    out, err = capfd.readouterr()
    assert out == "" and [line.split("  ")[0] for line in err.splitlines()] == ["epoch 1/2", "epoch 2/2"]


# evaluate


def test_metrics_are_scikit_learns() -> None:
    """Class 3 never occurs, class 4 neither occurs nor is answered."""
    chance = torch.Generator().manual_seed(0)
    truth, answers = torch.randint(3, (200,), generator=chance), torch.randint(4, (200,), generator=chance)
    found = metrics_of(torch.rand(200, generator=chance), answers, truth, list("abcde"))
    assert found.accuracy == pytest.approx(oracle.accuracy_score(truth, answers))
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert found.balanced_accuracy == pytest.approx(oracle.balanced_accuracy_score(truth, answers))
    assert found.f1 == pytest.approx(oracle.f1_score(truth, answers, average="macro"))
    wanted = oracle.precision_recall_fscore_support(truth, answers, labels=range(5), zero_division=0)
    columns = zip(*((c.precision, c.recall, c.f1, c.images) for c in found.classes), strict=True)
    assert all(np.allclose(one, other) for one, other in zip(columns, wanted, strict=True))
    assert found.precision == pytest.approx(wanted[0][:4].mean())
    assert np.array_equal(found.confusion, oracle.confusion_matrix(truth, answers, labels=range(5)))
    assert [line.split()[0] for line in repr(found).splitlines()[2:]] == list("abcde")


def test_evaluate_is_the_model_in_eval_and_restores_each_mode() -> None:
    model, data = adapted(), pairs(13)
    model.train()
    model.layer1.eval()
    modes = [module.training for module in model.modules()]
    before, found = state(model), evaluate(model, data, batch_size=5)
    assert [module.training for module in model.modules()] == modes
    assert equal(state(model), before)
    logits = initial_logits(model, data)
    assert found.loss == pytest.approx(F.cross_entropy(logits, data.tensors[1]).item(), rel=1e-5)
    assert found.accuracy == oracle.accuracy_score(data.tensors[1], logits.argmax(1))
    assert sum(map(sum, found.confusion)) == 13
    assert {"loss", "accuracy", "classes", "confusion"} <= json.loads(json.dumps(vars(found), default=vars)).keys()


def test_evaluate_takes_what_fit_takes() -> None:
    model, data = adapted(), pairs(10)
    ways: list[Any] = [data, DataLoader(data, batch_size=3, shuffle=True), [data[i] for i in range(10)]]
    found = [evaluate(model, way, labels=["x", "y", "z"]) for way in ways]
    assert all(metrics.confusion == found[0].confusion for metrics in found)
    assert found[0].classes[2].label == "z"


# The fast road


def forwards(model: nn.Module) -> list[int]:
    """Filled with the number of images of each forward of the whole model."""
    seen: list[int] = []
    model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    return seen


@pytest.mark.sweep(2)
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
    """With a view per epoch the fast road sees what the ordinary one sees."""
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


# Folders


def test_folders_bring_labels_and_pipeline(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("val", 3)):
        for number, name in enumerate(("ant", "bee", "cow")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (70, 70), (80 * number + i, 200 - 80 * number, 30)).save(folder / f"{i}.png")
    model, path = adapted("bn"), tmp_path / "insects.safetensors"
    history = fit(model, tmp_path, tmp_path, epochs=3, lr=1e-2, batch_size=6, out=path)
    header = petl.read(path)
    assert header["labels"] == ["ant", "bee", "cow"]
    assert header["pipeline"]["input_size"] == list(petl.data.pipeline(model)["input_size"])
    assert history.best["accuracy"] > 0.6
    found = evaluate(model, tmp_path / "val")
    assert [row.label for row in found.classes] == ["ant", "bee", "cow"]
    assert [row.images for row in found.classes] == [3, 3, 3]
    assert evaluate(model, tmp_path).confusion == found.confusion
