"""`fit` trains a model on labelled images.

It knows nothing of methods: what has ``requires_grad`` trains. timm makes the optimizer, the schedule and the mixes, accelerate
brings the model to its device, its precision and its ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from petl.data.inputs import Data
from petl.data.pairs import Keys
from petl.data.replacements import marking_unreadable
from petl.data.sampling import Sampling
from petl.extraction.accelerator import private_accelerator, progress_bar, restored_afterwards
from petl.training.history import History
from petl.training.loop import train_all
from petl.training.optimizer_settings import OptimizerChoice
from petl.training.preparation import prepare_training
from petl.training.saving import print_curves, report_interruption
from petl.training.settings import Settings
from petl.training.setup import build_run
from petl.training.trackers import tracking
from petl.wrapping.lookup import bare


def fit(
    model: nn.Module,
    train: Data,
    val: Data | None = None,
    *,
    epochs: int | None = None,
    minutes: float | None = None,
    lr: float | str | None = None,
    objective: Any = None,
    aux: Literal["first", "all"] | float = "first",
    batch_size: int = 32,
    optimizer: OptimizerChoice = "adamw",
    weight_decay: float = 0.01,
    layer_decay: float | Literal["gradients"] | None = None,
    unfreeze: int | Literal["stall"] | None = None,
    schedule: str | None = None,
    scheduler: Any = None,
    cycles: Sequence[int] | None = None,
    warmup_epochs: float | None = None,
    min_lr: float = 0.0,
    accumulate: int = 1,
    clip: float | None = None,
    label_smoothing: float = 0.0,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    class_weights: Sequence[float] | Tensor | Literal["balanced"] | None = None,
    ema: float | None = None,
    start: Literal["auto", "probe"] | None = "auto",
    out: str | Path | None = None,
    labels: Sequence[str] | None = None,
    keys: Keys | None = None,
    transform: Callable[..., Any] | None = None,
    sampling: Sampling = None,
    monitor: str | None = None,
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
    compile: bool | str = False,
    progress: bool = True,
    on_epoch: Callable[[dict[str, Any]], Any] | None = None,
    callbacks: Any = None,
    log: str | Sequence[Any] | Any = None,
    log_dir: str | Path = "runs",
    log_every: int = 1,
) -> History:
    """Trains what is trainable in ``model``, in place, and leaves it in evaluation mode on accelerate's device.

    The model returns scores [N, K]: alone, as ``.logits`` of an object or a dict (transformers), or first in a tuple (Inception,
    GoogLeNet and distilled DeiT in training), see ``aux``.

    Args:
        train, val: A folder or table (read through the model's own pipeline; `petl.data.dataset` says which tables there are:
            ``pets.csv``, DataFrames, lists of paths with labels, Hugging Face's datasets), a Dataset or other collection of pairs
            (image [C, H, W], target), or a loader, which is taken as it is: a DataLoader, timm's with a prefetcher,
            webdataset's, or any other iterable with a length whose batches are (images [N, C, H, W], targets). Under
            several ranks accelerate shares out a DataLoader's batches; any other loader has to give each rank its own. Without
            ``val`` the last epoch counts as the best one.
        keys: For items or batches that are dicts or longer tuples: the names or numbers of images and labels, such as
            ``("image", "label")`` or ``(0, 2)``. Dicts with usual names don't need it.
        transform: Where ``train`` is a folder or table: a transform of one's own for the training images, in place of timm's
            augmentation; ``val`` is read without it. See `petl.data.dataset`, which has the same keyword for any set of images.
        sampling: How images are drawn, with replacement, the same number in each epoch: "balanced", all classes equally often;
            "weights", in proportion to the dataset's own ``.weights``; or a number for each image. None: each image once.
        objective: What the targets mean: "classification" (class numbers [N]), "multilabel" (0 or 1 for each label [N, K]),
            "regression" (numbers [N] or [N, K]), "ordinal" (numbers of levels in order [N]), "metric" (class numbers [N], to
            train features for retrieval); an object with options (`petl.Multilabel`, `petl.Regression`, `petl.Ordinal`,
            `petl.MetricLearning`, `petl.OwnLoss`); or a callable ``loss(outputs, targets, batch)``. None: what the model was
            trained for before, else what a table says, else a classification, if the targets are class numbers. It is written
            into the delta.
        aux: Of the scores that a model returns after the main ones in training: "first" doesn't train on them, "all" adds their
            losses to that of the main scores, a number adds them with this weight (Inception was trained with 0.4).
        epochs: How often all images are seen; None for a number that suits the set: 10, and on small sets so many that there are
            300 updates, up to 60. It is in ``history.epochs``. Without ``epochs``, ``lr`` and other settings of a training by
            gradient, a `petl.Probe` is computed in closed form: one row of the history.
        minutes: In place of ``epochs``: as many of them (60 at most) as fit, with validation, by the time that a few updates
            take, which are undone. With ``epochs=history.epochs`` the same training repeats bit for bit.
        lr: None for the default rates: each method has those of its tensors, and the classifier its own (``history.rates``);
            "x0.5" for half of all of them; "find" for the factor that a range test of about 100 updates chooses
            (`petl.find_lr`). Or a number: one rate for all, at the top of the schedule. None is scaled by batch size or ranks.
            With default rates an epoch that diverges is trained again with a third of them, twice at most.
        batch_size: Images per batch and rank; an update is on ``batch_size * accumulate * ranks`` images.
        optimizer: A name from timm.optim, a function that returns an optimizer for parameter groups, or a ready optimizer of
            torch's, whose parameters are among those that train here; lr, layer_decay and weight_decay are then its own.
        layer_decay: Factor of the learning rates per layer of timm's depth order; None for none; "gradients" for rates of blocks
            in proportion to their relative gradients on the first batches (arXiv:2210.11466).
        unfreeze: Train in stages: of what trains, first the classifier and the last block alone, and one more block, from the
            end to the first, every so many epochs, or with "stall" when ``monitor`` hasn't become better for ``patience``
            epochs, from the best values so far. A block that opens has a warm-up of its own; until then it runs as at
            evaluation, without gradients and optimizer state. ``history.notes`` says what opens when, rows their ``stage``.
        schedule, warmup_epochs, min_lr: timm's schedule, per update ("cosine", which is the default, "poly", "tanh", "none" ...),
            after a linear warm-up (a tenth of the epochs unless said otherwise; with default rates at least 30 updates).
        scheduler: In their place, an LRScheduler of torch's, a Scheduler of timm's, or a function that returns one for the
            optimizer (and gets the number of updates, if it has a parameter ``updates``). It takes a step after each update.
        cycles: Epochs after which the schedule starts anew, such as (3, 9, 27): three parts, each with a warm-up and a decay
            of its own. With ``checkpoint`` and ``resume`` a training of 3 epochs goes on to 9, and is as one of 9, bit for bit.
        clip: Largest norm of the gradient. None is 1 with default rates, and none where ``lr`` is a number; inf is none.
        mixup, cutmix: timm's alpha; 0 is off. A last batch of an odd number of images isn't mixed.
        class_weights: One per class, or "balanced". The mean in each batch is then a weighted one, as torch has it.
        start: "probe" computes the classifier in closed form before the first update, from the training images without
            augmentation, calibrated (see `petl.Probe`); ``history.head`` says how. Not again by ``resume``. "auto" does so with
            default rates, if ``wrap`` made the classifier and nobody has changed it, on up to 50,000 images; None never does.
        ema: Decay of averaged weights (timm's ModelEmaV3, with its warm-up). They are what is measured, saved and left.
        monitor: The number that says which epoch is best: one of the metrics of the objective; None is accuracy for a
            classification, average_precision, r2, quadratic_kappa, recall_at_1, or loss.
        out: The delta file; it is written whenever ``monitor`` has become better on ``val``, with labels and results (it is tried
            before the training, and where it can't be written later, the delta goes to a temporary folder, which the error
            names). Beside it, ``pets.history.json`` for ``pets.safetensors`` has the settings, the history so far and, where
            `petl.data.holdout` made ``val``, which images it holds.
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
        cache: The output of the layers below everything that trains is computed once for each image, if the images are the same
            in every epoch, and the rest of the model trains on that ("partial", LoRA or adapters in late blocks; the head alone
            of a probe). None: where it can be done, in a temporary folder; True: an error where it can't (it also takes your
            word that a Dataset of your own returns the same images again); a folder: as True, and kept there for later runs
            on the same backbone and images; False: never.
        cache_limit: Gigabytes (10**9 bytes) that this may take on disk; in a folder of yours the oldest go first.
        seed: Decides the order, augmentation, dropout and mixes of every epoch. The new classifier was drawn by ``wrap``.
        workers: Processes that read images.
        strict: Read every file before training, and refuse to train if one can't be read. Without it such files are named and
            left out (`petl.data.sift`).
        precision: Autocast; None is what ``accelerate launch`` was started with, or "no". "fp16" needs a GPU, and scales the
            gradients: an update that overflows is skipped, and counts for no schedule and no average.
        compile: torch.compile for this training and its validation: True, a backend or a mode. Names and files stay as they are.
        progress: A bar on a terminal, and on stderr a line for each epoch as soon as it is measured, and the learning curves.
        on_epoch: Is called with each row of the history, after all files of the epoch are written.
        callbacks: One or several objects with methods of `petl.Callback`.
        log: Trackers of accelerate's: "tensorboard", "wandb", "mlflow" ..., its tracker objects, or a list of these. They get
            settings, each epoch's row, and loss and learning rate of each ``log_every``-th update; files go to ``log_dir``.

    Ctrl-C raises KeyboardInterrupt as ever, says what is kept, and leaves the model in evaluation mode, the best delta in
    ``out`` and the last whole epoch in ``checkpoint``.

    Raises:
        DataError: the data doesn't fit the model, or is of one class alone. StateError: nothing trains; ``out``, ``checkpoint``
            or ``resume`` can't be; something frozen has moved, which is checked after the first epoch.
        PetlError: a setting that can't be, or a loss that is no longer finite (with default rates: for the third time).

    >>> import petl, timm, torch
    >>> data = torch.utils.data.TensorDataset(torch.randn(8, 3, 64, 64), torch.arange(8) % 2)
    >>> model = petl.wrap(timm.create_model("test_resnet"), "bn", num_classes=2)
    >>> history = fit(model, data, data, epochs=2)
    >>> [row["epoch"] for row in history.rows]
    [1, 2]
    """
    settings = Settings.of(locals())
    settings.refuse_impossible(val, model)
    return _train(bare(model), train, val, settings)


def _train(model: nn.Module, train: Data, val: Data | None, settings: Settings) -> History:
    """Trains with an Accelerator of its own, which leaves no trace on the model."""
    with (
        marking_unreadable(train, val),
        private_accelerator(settings.run.precision, **settings.accelerate_options) as accelerator,
        restored_afterwards(model),
        progress_bar(accelerator, settings.run.progress) as progress,
    ):
        run = build_run(accelerator, model, (train, val), settings, progress)
        try:
            prepare_training(run)
            with tracking(run):
                train_all(run)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) or run.callbacks.failed:
                report_interruption(run)
            raise
        finally:
            run.finish()
        print_curves(run)
        run.callbacks.fit_end(run)
        return run.history
