"""`find_lr`: the range test of ``fit(lr="find")`` alone."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn

from petl.data.inputs import Data
from petl.data.replacements import marking_unreadable
from petl.extraction.accelerator import private_accelerator, progress_bar, restored_afterwards
from petl.training.fit import fit
from petl.training.optimizer_settings import FIND
from petl.training.preparation import prepare_training
from petl.training.rate_search import RateSearch
from petl.training.setting_checks import refuse_unknown_options
from petl.training.settings import Settings
from petl.training.setup import build_run
from petl.training.trained_state import cloned, copy_into
from petl.wrapping.lookup import bare, record

OF_TRAINING = ("lr", "epochs", "minutes", "checkpoint", "resume", "out", "patience", "keep", "on_epoch", "unfreeze")
WRITTEN = (
    "labels",
    "pipeline",
    "task",
    "units",
    "thresholds",
    "quantiles",
    "temperature",
    "correction",
    "results",
)  # into a record, by a training


def find_lr(model: nn.Module, train: Data, **options: Any) -> RateSearch:
    """Returns by which factor the default learning rates suit this training data best, and leaves the model as it is, to the bit.

    About 100 updates with growing rates (Smith 2015, arXiv:1506.01186) are taken and undone. Small sets are read several times.
    On a few hundred images the curve is noise in part: the default rates, and half or twice of them, are as good a guess.

    Args:
        options: of `petl.fit`, such as ``batch_size=`` or ``optimizer=``.

    Raises:
        PetlError: what `petl.fit` raises before it trains, or an option that is of no use here.

    >>> import petl, timm, torch
    >>> data = torch.utils.data.TensorDataset(torch.randn(4, 3, 32, 32), torch.arange(4) % 2)
    >>> model = petl.wrap(timm.create_model("test_resnet"), "norm", num_classes=2)
    >>> found = petl.find_lr(model, data)
    >>> history = petl.fit(model, data, epochs=1, lr=found.lr)
    """
    defaults = {p.name: p.default for p in inspect.signature(fit).parameters.values() if p.kind is p.KEYWORD_ONLY}
    refuse_unknown_options("find_lr", options, [name for name in defaults if name not in OF_TRAINING])
    settings = Settings.of({**defaults, **options, "lr": FIND, "epochs": 1})
    settings.refuse_impossible(None, model)
    plain = bare(model)
    with (
        marking_unreadable(train),
        private_accelerator(settings.run.precision) as accelerator,
        restored_afterwards(plain),
        progress_bar(accelerator, settings.run.progress) as progress,
        _left_as_it_was(plain),
    ):
        run = build_run(accelerator, plain, (train, None), settings, progress)
        try:
            prepare_training(run)
        finally:
            run.finish()
    return RateSearch(**{key: value for key, value in (run.history.rate_search or {}).items() if key != "lr"})


@contextlib.contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Gives modules their modes, what trains its values (a start computes the classifier), and the record its entries again."""
    wrapped, modes = record(model), [(module, module.training) for module in model.modules()]
    kept = {name: getattr(wrapped, name) for name in WRITTEN} if wrapped else {}
    values = cloned({name: p for name, p in model.named_parameters() if p.requires_grad})
    try:
        yield
    finally:
        parameters = dict(model.named_parameters())
        copy_into({name: parameters[name] for name in values}, values)
        for module, mode in modes:
            module.training = mode
        for name, value in kept.items():
            setattr(wrapped, name, value)
