"""Which learning rate each trainable tensor of a model has by default, and to whom the tensor belongs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn

from petl.errors import MethodError
from petl.graft.kinds import grafts
from petl.methods.rates import RATES, TrainedTensor, rate_for
from petl.sites.family import Family, family_of
from petl.wrapping.lookup import bare, wrapped_inside
from petl.wrapping.own_tensors import state_tensors
from petl.wrapping.record import Record
from petl.wrapping.snapshot import RECORD

HEAD, OWN = "head", "full"  # names of groups beside those of methods: the classifier, and the base's own tensors


class RatedTensor(NamedTuple):
    """A trainable tensor with its default rate; ``group`` is the name of a method, "head", or "full"."""

    tensor: Tensor
    group: str
    rate: float


def rated_tensors(model: nn.Module) -> list[RatedTensor]:
    """Returns every trainable tensor of a model with its default learning rate, in the order of ``model.parameters()``.

    Each method declares the rates of its own tensors (`Method.rate`); a tensor that several claim takes the lowest. The
    classifier has a rate of its own. What no method owns (unfrozen by hand, outside of a wrapped model, or all of a
    model that isn't wrapped) trains as in full fine-tuning.
    """
    plain = bare(model)
    family = family_of(plain)
    claims: dict[nn.Parameter, RatedTensor] = {}  # the model holds the parameters: none can die meanwhile
    for inner in wrapped_inside(plain).values():
        for claim in _claims(inner, vars(inner)[RECORD], family):
            known = claims.get(claim.tensor)  # type: ignore[call-overload]  # buffers are asked for, too, and not there
            if isinstance(claim.tensor, nn.Parameter) and (known is None or claim.rate < known.rate):
                claims[claim.tensor] = claim
    heads = _classifier(plain)
    for key, owner, _, tensor in state_tensors(plain):
        if isinstance(tensor, nn.Parameter) and tensor not in claims:
            described = _described(plain, key, owner, tensor, in_place=True, family=family)
            name = HEAD if owner in heads else OWN
            claims[tensor] = RatedTensor(tensor, name, rate_for(name, described))
    return [claims[p] for p in plain.parameters() if p.requires_grad]


def started_head_rate(model: nn.Module) -> float:
    """Returns the default rate of a classifier that was computed before the first update: it has only to follow the features."""
    return getattr(RATES["started head"], family_of(bare(model)))


def changed_weights(model: nn.Module) -> dict[nn.Parameter, list[nn.Parameter]]:
    """Returns for each parameter of a graft the parameters of the layer that the graft is on."""
    layers = [(module, graft) for module in model.modules() for _, graft in grafts(module)]
    own = [(graft, [p for p in module._parameters.values() if p is not None]) for module, graft in layers]
    return {parameter: weights for graft, weights in own for parameter in graft.parameters()}


def _claims(model: nn.Module, record: Record, family: Family) -> Iterator[RatedTensor]:
    """Yields each tensor that a method or the head owns, once for each owner."""
    known = {key: (owner, tensor) for key, owner, _, tensor in state_tensors(model)}
    for method, keys in zip(record.methods, record.tensors, strict=True):
        for key in keys:
            if key in known:
                tensor = _described(model, key, *known[key], in_place=key in record.originals, family=family)
                yield RatedTensor(tensor.value, method.name, _checked(method.name, method.rate(tensor)))
    for key in record.head_tensors:
        if key in known:
            tensor = _described(model, key, *known[key], in_place=True, family=family)
            yield RatedTensor(tensor.value, HEAD, rate_for(HEAD, tensor))


def _described(
    model: nn.Module, key: str, owner: nn.Module, tensor: Tensor, *, in_place: bool, family: Family
) -> TrainedTensor:
    above = key.rpartition(".")[0].rpartition(".")[0]
    try:
        parent = model.get_submodule(above)
    except AttributeError:  # a sharded or compiled part, whose keys leave a level out
        parent = owner
    return TrainedTensor(key=key, value=tensor, module=owner, parent=parent, in_place=in_place, family=family)


def _checked(name: str, rate: float) -> float:
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < float("inf"):
        raise MethodError(f"{name}.rate returned {rate!r}; expected a learning rate above 0, such as 1e-3")
    return float(rate)


def _classifier(model: nn.Module) -> set[nn.Module]:
    """Returns the classifier's modules, as the record or timm's ``get_classifier`` has them; none where nobody says."""
    found = []
    for inner in wrapped_inside(model).values():
        names = vars(inner)[RECORD].classifier
        found += [module for path, module in inner.named_modules() if path in names]
    if not found and callable(getattr(model, "get_classifier", None)):
        head = model.get_classifier()  # type: ignore[operator]  # asked in the line above
        found = [part for part in (head if isinstance(head, (tuple, list)) else [head]) if isinstance(part, nn.Module)]
    return {part for module in found for part in module.modules()}
