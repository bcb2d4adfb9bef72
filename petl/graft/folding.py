"""Taking grafts off: prune removes them, fold writes their effect into the module's own parameters first."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from petl.errors import SiteError
from petl.graft.classes import RuntimeClass, base_class
from petl.graft.computed_weights import compute_in_eval, make_own
from petl.graft.kinds import PAIRED_NORM, WeightGraft, grafts
from petl.graft.values import adapted_value, own_value


def prune(module: nn.Module) -> None:
    """Takes every graft off ``module`` and gives it its own class back; its parameters are not touched."""
    for name, _ in grafts(module):
        delattr(module, name)
    vars(module).pop(PAIRED_NORM, None)
    if isinstance(module, RuntimeClass):
        cast(Any, module).__class__ = base_class(module)


def fold(module: nn.Module, values: dict[str, Tensor] | None = None) -> None:
    """Writes the adapted values into ``module``'s own parameters and prunes it: bit for bit what ``forward`` used.

    ``values`` are those of ``adapted_values``; without them they are computed now.
    """
    present = grafts(module)
    stuck = [name for name, graft in present if not isinstance(graft, WeightGraft)]
    if stuck:
        raise SiteError(
            f"{', '.join(stuck)} on {base_class(module).__name__} is not a weight graft and can't be folded"
        )
    weights = cast("list[tuple[str, WeightGraft]]", present)
    values = adapted_values(module) if values is None else values
    prune(module)
    for param, value in values.items():
        make_own(module, param, value)
    for _, graft in weights:
        graft.folded(module)


def adapted_values(module: nn.Module) -> dict[str, Tensor]:
    """Computes the adapted values, by parameter: new tensors, which ``fold`` writes; the module is not changed."""
    values = {}
    for param in dict.fromkeys(graft.param for _, graft in grafts(module) if isinstance(graft, WeightGraft)):
        compute_in_eval(module, param)
        values[param] = adapted_value(module, param).detach().clone()
    return values


def turned_nonfinite(module: nn.Module, values: dict[str, Tensor]) -> list[str]:
    """Returns the parameters with infinite or NaN numbers in the new value and none in the own value."""
    return [p for p, value in values.items() if not value.isfinite().all() and own_value(module, p).isfinite().all()]
