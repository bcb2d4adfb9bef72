"""fit and evaluate: train a model on labelled images, and see how well it does.

Neither knows of methods: what has ``requires_grad`` trains. timm makes the optimizer, the schedule and the mixes, accelerate
brings the model to its device, its precision and its ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from petl.data.inputs import Data, as_loader, loader_classes
from petl.data.loaders import on_device
from petl.data.pairs import Keys
from petl.data.replacements import marking_unreadable
from petl.format.header import class_names
from petl.training.accelerator import accelerated, bar, lent
from petl.training.loop import interrupted, measure, train_all
from petl.training.metrics import History, Metrics
from petl.training.settings import WHOLE, Optimizer, Settings, refuse_keys, refuse_number
from petl.training.setup import named, prepared, recorded
from petl.wrapping.record import bare

__all__ = ["History", "Metrics", "evaluate", "fit"]


def fit(
    model: nn.Module,
    train: Data,
    val: Data | None = None,
    *,
    epochs: int,
    lr: float,
    batch_size: int = 32,
    optimizer: Optimizer = "adamw",
    weight_decay: float = 0.01,
    layer_decay: float | None = None,
    schedule: str = "cosine",
    warmup_epochs: float | None = None,
    min_lr: float = 0.0,
    accumulate: int = 1,
    clip: float | None = None,
    label_smoothing: float = 0.0,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    class_weights: Sequence[float] | Tensor | Literal["balanced"] | None = None,
    ema: float | None = None,
    out: str | Path | None = None,
    labels: Sequence[str] | None = None,
    keys: Keys | None = None,
    monitor: str = "accuracy",
    patience: int | None = None,
    keep: Literal["last", "best"] = "last",
    checkpoint: str | Path | None = None,
    resume: bool | str | Path = False,
    views: int | None = None,
    cache: bool | str | Path | None = None,
    cache_limit: float = 10.0,
    seed: int = 0,
    workers: int = 0,
    strict: bool = False,
    precision: Literal["no", "bf16", "fp16"] | None = None,
    progress: bool = True,
    on_epoch: Callable[[dict[str, Any]], Any] | None = None,
) -> History:
    """Train what is trainable in ``model``, in place, and leave it in evaluation mode on accelerate's device.

    The model returns class scores [N, classes]: alone, as ``.logits`` of an object or a dict (transformers), or first in a tuple
    (Inception, GoogLeNet and distilled DeiT in training), whose auxiliary scores aren't trained on.

    Args:
        train, val: A folder (read through the model's own pipeline), a Dataset or other collection of pairs (image [C, H, W],
            class number), or a loader, which is taken as it is: a DataLoader, timm's with a prefetcher, webdataset's, or any
            other iterable with a length whose batches are (images [N, C, H, W], class numbers [N]). Under several ranks
            accelerate shares out a DataLoader's batches; any other loader has to give each rank its own. Without ``val``
            the last epoch counts as the best one.
        keys: For items or batches that are dicts or longer tuples: the names or numbers of images and labels, such as
            ``("image", "label")`` or ``(0, 2)``.
        lr: Learning rate at the top of the schedule, in the last layers; it is not scaled by batch size or ranks.
        batch_size: Images per batch and rank; an update is on ``batch_size * accumulate * ranks`` images.
        optimizer: A name of timm.optim's, or what makes an optimizer from parameter groups.
        layer_decay: Factor of the learning rate per layer of timm's depth order; None for one rate.
        schedule, warmup_epochs, min_lr: timm's schedule, per update ("cosine", "poly", "tanh", "none" ...), after a linear
            warm-up (a tenth of the epochs unless said otherwise).
        clip: Largest norm of the gradient.
        mixup, cutmix: timm's alpha; 0 is off. A last batch of an odd number of images isn't mixed.
        class_weights: One per class, or "balanced". The mean in each batch is then a weighted one, as torch has it.
        ema: Decay of averaged weights (timm's ModelEmaV3, with its warm-up). They are what is measured, saved and left.
        out: The delta file; it is written whenever ``monitor`` (accuracy, balanced_accuracy, precision, recall, f1, loss)
            has become better on ``val``, with labels and results (it is tried before the training, and where it can't be
            written later, the delta goes to a temporary folder, which the error names). Beside it, ``pets.history.json`` for
            ``pets.safetensors`` has the settings, the history so far and, where `petl.data.holdout` made ``val``, which images
            it holds.
        patience: Stop after this many epochs without a better ``monitor``.
        keep: Leave the model with its last values, or with those of the best epoch.
        labels: Class names in the order of the model's outputs; else the data's, or those in the model's record.
        checkpoint: A folder for a training checkpoint per epoch (what trains, optimizer, random states; not the backbone).
            Its files are pickles, which can run any code when they are loaded: resume only from folders that you trust.
        resume: Go on from ``checkpoint``'s newest (True; from the start if there is none) or from another such folder. With
            the same settings the result is that of an unbroken run, bit for bit on a CPU.
        views: If only the classifier trains on a Dataset or folder, its inputs are computed once, and it trains on these.
            ``views=k`` computes them k times, each under its own random augmentation, and uses them in turn; None is 1;
            0 runs the backbone in every epoch. Not with mixup, dropout, or moving statistics before the classifier.
        cache: What the layers below everything that trains give for the images is computed once, if the images are the same in
            every epoch, and the rest of the model trains on that ("partial", LoRA or adapters in late blocks; the head alone
            of a probe). None: where it can be done, in a temporary folder; True: an error where it can't (it also takes your
            word that a Dataset of your own gives the same images again); a folder: as True, and kept there for later runs
            on the same backbone and images; False: never.
        cache_limit: Gigabytes (10**9 bytes) that this may take on disk; in a folder of yours the oldest go first.
        seed: Decides the order, augmentation, dropout and mixes of every epoch. The new classifier was drawn by ``wrap``.
        workers: Processes that read images.
        strict: Read every file before training, and refuse to train if one can't be read. Without it such files are named and
            left out (`petl.data.sift`).
        precision: Autocast; None is what ``accelerate launch`` was told, or "no".
        progress: A bar on a terminal, and on stderr a line for each epoch as soon as it is measured.
        on_epoch: Is called with each row of the history, after everything of the epoch is written.

    Ctrl-C raises KeyboardInterrupt as ever, says what is kept, and leaves the model in evaluation mode, the best delta in
    ``out`` and the last whole epoch in ``checkpoint``.

    Raises:
        DataError: the data doesn't fit the model, or is of one class alone. StateError: nothing trains; ``out``, ``checkpoint``
            or ``resume`` can't be; something frozen has moved, which is told after the first epoch.
        PetlError: a setting that can't be, or a loss that is no longer finite.

    >>> import petl, timm, torch
    >>> data = torch.utils.data.TensorDataset(torch.randn(8, 3, 64, 64), torch.arange(8) % 2)
    >>> model = petl.wrap(timm.create_model("test_resnet"), "bn", num_classes=2)
    >>> history = fit(model, data, data, epochs=2, lr=1e-3)
    >>> [row["epoch"] for row in history.rows]
    [1, 2]
    """
    given = {name: value for name, value in locals().items() if name not in ("model", "train", "val")}
    settings = Settings(**given)
    settings.refuse_impossible(val, model)
    plain = bare(model)
    with (
        marking_unreadable(train, val),
        accelerated(precision) as accelerator,
        lent(plain),
        bar(accelerator, progress) as shown,
    ):
        run = prepared(accelerator, plain, (train, val), settings, shown)
        try:
            return train_all(run)
        except KeyboardInterrupt:
            interrupted(run)
            raise
        finally:
            run.settle()


def evaluate(
    model: nn.Module,
    data: Data,
    *,
    batch_size: int = 64,
    labels: Sequence[str] | None = None,
    keys: Keys | None = None,
    workers: int = 0,
    strict: bool = False,
    precision: Literal["no", "bf16", "fp16"] | None = None,
    progress: bool = True,
) -> Metrics:
    """Loss, accuracy, balanced accuracy, precision, recall, F1 and the confusion matrix; each module keeps its mode.

    Args:
        model: Any classifier of images, wrapped or not, that returns class scores, alone, as ``.logits``, or first in a tuple;
            it is taken to accelerate's device.
        data: A folder (its ``val`` where it has one), a Dataset or a loader, as for `petl.fit`.
        labels: Class names in the order of the outputs; else the wrapped model's, the data's, or the numbers.
        keys: The names or numbers of images and labels, as for `petl.fit`.
        strict: An error if a file can't be read; without it such files are named and left out.

    Under several ranks each one measures its share, and all get the same answer.

    Raises:
        DataError: the data is empty or doesn't fit the model.

    >>> import timm, torch
    >>> data = torch.utils.data.TensorDataset(torch.randn(6, 3, 64, 64), torch.arange(6) % 2)
    >>> metrics = evaluate(timm.create_model("test_resnet", num_classes=2), data)
    >>> sum(map(sum, metrics.confusion))
    6
    """
    plain = bare(model)
    refuse_keys(keys)
    for name, value in (("batch_size", batch_size), ("workers", workers)):
        refuse_number(name, value, Integral, WHOLE[name])
    known = class_names(labels) if labels is not None else recorded(plain)
    with (
        marking_unreadable(data),
        accelerated(precision) as accelerator,
        lent(plain),
        bar(accelerator, progress) as shown,
    ):
        plain.to(accelerator.device)
        loader = as_loader(data, plain, classes=known, keys=keys, strict=strict, batch_size=batch_size, workers=workers)
        names = named(accelerator, plain, loader, known or loader_classes(loader))
        prepared = on_device(accelerator, loader)
        task = shown.add_task("evaluate", total=len(prepared) if hasattr(loader, "__len__") else None, note="")
        return measure(accelerator, model, prepared, names, lambda: shown.advance(task))
