"""Decides whether the classifier is computed in closed form: alone, as the start of a training, or not at all."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import nn

from petl.errors import PetlError, StateError, listing
from petl.methods.probe import CLOSED_FORM, Probe
from petl.training.settings import Settings
from petl.wrapping.fingerprints import checksums
from petl.wrapping.lookup import record, require_record, trainable
from petl.wrapping.own_tensors import state_tensors

HINT = "; petl.Probe(solver='sgd') trains by gradient"


@dataclass(frozen=True)
class HeadPlan:
    """What to do about the classifier before the first update.

    Args:
        kind: The head to compute ("auto", "ridge", "lda", "prototypes"), or "" for none.
        alone: Whether the classifier is then finished, so that nothing trains by gradient.
        required: Whether it is an error if the classifier can't be computed; else it trains by gradient.
    """

    kind: str = ""
    alone: bool = False
    required: bool = False

    def settings(self, settings: Settings) -> Settings:
        """Returns the settings of the run: a classifier that is computed is one epoch."""
        one = dataclasses.replace(settings.optim, epochs=1, warmup_epochs=None)
        return dataclasses.replace(settings, optim=one) if self.alone else settings


def head_plan(model: nn.Module, settings: Settings) -> HeadPlan:
    """Returns the plan that the model's probe and ``start`` ask for.

    Raises:
        PetlError: a solver in closed form got settings that only a gradient has.
        StateError: ``start="probe"`` for a model of which no classifier trains.
    """
    wrapped = record(model)
    probe = next((m for m in wrapped.methods if isinstance(m, Probe)), None) if wrapped else None
    started = settings.optim.start == "probe"
    if started and wrapped is not None and not wrapped.head:
        raise StateError(
            "start='probe' computes the classifier, and that of this model doesn't train; wrap it without head=False"
        )
    solver = probe.solver if probe else "sgd"
    kind = solver if solver != "sgd" else "auto"
    alone = probe is not None and _only_head_trains(model)
    if started or (solver in CLOSED_FORM and not alone):
        plan = HeadPlan(kind, alone and solver != "sgd" and not settings.given, required=True)
    elif solver in CLOSED_FORM:
        plan = HeadPlan(kind, alone=True, required=True)
    elif solver == "auto" and (not settings.given if alone else "lr" not in settings.given):
        plan = HeadPlan(kind, alone)
    elif not alone and _starts_by_itself(model, settings):
        return HeadPlan("auto")
    else:
        return HeadPlan()
    _refuse_gradient(plan, settings)
    return plan


def _starts_by_itself(model: nn.Module, settings: Settings) -> bool:
    """Returns whether default rates train a classifier that ``wrap`` made, and that has the random values that it had then."""
    optim, wrapped = settings.optim, record(model)
    if optim.start != "auto" or not optim.has_default_rates or wrapped is None or not wrapped.new_head:
        return False
    inner, _ = require_record(model)
    heads = {*wrapped.head_tensors}
    now = {key: tensor for key, _, _, tensor in state_tensors(inner) if key in heads}
    return dict(zip(now, checksums(now.values()), strict=True)) == wrapped.new_head


def _only_head_trains(model: nn.Module) -> bool:
    inner, wrapped = require_record(model)
    heads = {*wrapped.head_tensors}
    own = {parameter for name, parameter in inner.named_parameters() if name in heads}
    return all(parameter in own for parameter in trainable(model).values())


def _refuse_gradient(plan: HeadPlan, settings: Settings) -> None:
    """Raises a PetlError for settings that a classifier in closed form has no use for."""
    if plan.alone and settings.given:
        raise PetlError(
            f"petl.Probe(solver={plan.kind!r}) is computed in closed form, where {listing(settings.given)} "
            f"mean{'s' * (len(settings.given) == 1)} nothing; leave {'it' if len(settings.given) == 1 else 'them'} out{HINT}"
        )
    weights = settings.loss.class_weights
    if plan.required and plan.kind in ("lda", "prototypes") and weights is not None and not isinstance(weights, str):
        raise PetlError(
            f"{plan.kind} counts all classes alike and can't take one weight per class; pass class_weights='balanced', or "
            f"petl.Probe(solver='ridge'), which weighs images{HINT}"
        )
