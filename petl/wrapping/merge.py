"""merge: folds all trained changes into the base's own tensors, and restores the model after an error."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from petl.errors import StateError, listing
from petl.graft.classes import is_grafted
from petl.graft.folding import adapted_values, fold, turned_nonfinite
from petl.graft.kinds import WeightGraft, grafts
from petl.methods.foreign import ForeignMethod
from petl.sites.names import joined
from petl.wrapping.backbone import set_in_chans
from petl.wrapping.interrupts import uninterrupted
from petl.wrapping.lookup import Model, in_chans, refuse_shared, require_record
from petl.wrapping.snapshot import RECORD, Snapshot
from petl.wrapping.undo import drop_record


class BeforeMerge:
    """Everything of a model that a merge may change: structure, record, training modes, requires_grad, storage of parameters.

    Values are copied (``copies``) only where another library's code will write to them in place.
    """

    def __init__(self, model: nn.Module, *, copies: bool):
        self.model, self.structure, self.record = model, Snapshot(model), require_record(model)[1]
        self.modes = [(module, module.training) for module in model.modules()]
        lists = [value for module in model.modules() for value in vars(module).values() if isinstance(value, list)]
        self.lists = [(value, [*value]) for value in lists]  # peft records in lists what it has merged
        self.tensors = [
            (p, p.detach(), p.requires_grad, p.detach().clone() if copies else None) for p in model.parameters()
        ]

    def restore(self) -> None:
        """Restores everything."""
        self.structure.restore()
        for value, entries in self.lists:
            value[:] = entries
        for parameter, alias, flag, copy in self.tensors:
            parameter.data = alias
            parameter.requires_grad_(flag)
            if copy is not None:
                parameter.detach().copy_(copy)
        for module, mode in self.modes:
            module.training = mode
        vars(self.model)[RECORD] = self.record


@torch.inference_mode(False)
def merge(model: Model) -> Model:
    """Folds all changes into the base's own tensors: a plain model with timm's own keys and bit-equal outputs. All or nothing.

    After ``base_dtype`` the tensors have their dtypes from before ``wrap`` again, and the values that the layers used: those of
    the rounded base, plus the change, which isn't rounded.

    Raises:
        StateError: a method adds layers that can't be folded (adapters, some input adapters); the model is unchanged.

    >>> import petl, timm, torch
    >>> model = petl.wrap(timm.create_model("test_vit"), "lora").eval()
    >>> x = torch.randn(1, 3, 160, 160)
    >>> before = model(x)
    >>> torch.equal(petl.merge(model)(x), before)
    True
    """
    plain, record = require_record(model)
    refuse_shared(plain, "merge")
    _refuse_stuck(plain)
    channels = in_chans(plain)
    before_merge = BeforeMerge(plain, copies=any(isinstance(method, ForeignMethod) for method in record.methods))
    try:
        values = _all_values(plain)
        for method in record.methods:
            if isinstance(method, ForeignMethod):
                method.merge(plain)
        for module, tensors in values:
            fold(module, tensors)
        for name, parameter in plain.named_parameters():
            parameter.requires_grad_(record.requires_grad.get(name, True))
        if channels != record.backbone["in_chans"]:
            set_in_chans(plain, channels)
        plain.train(plain.training)
        drop_record(plain, record)
    except BaseException:
        with uninterrupted():
            before_merge.restore()
        raise
    return model


def _refuse_stuck(model: nn.Module) -> None:
    """Raises a StateError where a graft can't be folded into a weight."""
    stuck = unfoldable(model)
    if stuck:
        reasons = "; ".join(
            f"{kind}: {why}" for kind, why in sorted({(n.rpartition(".")[2], w) for n, w in stuck.items()})
        )
        raise StateError(
            f"can't merge {listing(stuck)} into a weight ({reasons}); use the wrapped model as it is, or petl.unwrap it"
        )


def _all_values(model: nn.Module) -> list[tuple[nn.Module, dict[str, Tensor]]]:
    """Returns the merged values of every module that petl has changed, or raises a StateError where they aren't finite."""
    named = [(name, module, adapted_values(module)) for name, module in model.named_modules() if is_grafted(module)]
    nonfinite = [joined(name, param) for name, module, values in named for param in turned_nonfinite(module, values)]
    if nonfinite:
        raise StateError(
            f"not merged: {listing(nonfinite)} would get numbers that are infinite or not a number, which the base hasn't; the "
            f"model is as it was. petl.unwrap(model) gives the base back, petl.load(path, model) puts an earlier delta onto it"
        )
    return [(module, values) for _, module, values in named]


def unfoldable(model: nn.Module) -> dict[str, str]:
    """Returns the grafts on ``model`` that ``merge`` can't fold, by name, with the reason."""
    return {
        joined(name, child): graft.why_stuck
        for name, module in model.named_modules()
        for child, graft in grafts(module)
        if not isinstance(graft, WeightGraft)
    }
