"""Parameter groups with a learning rate for each kind of tensor, and the factors by which their rates change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from petl.wrapping.rates import HEAD, rated_tensors

PEAK = "peak_lr"  # key of a group: its own rate at the top of the schedule


def with_default_rates(model: nn.Module, groups: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns timm's groups, cut by method and default rate: each has ``name`` and ``peak_lr``.

    ``lr`` is the highest of all rates and ``lr_scale`` the group's share of it: timm's schedules multiply by it, so that
    warm-up and ``min_lr`` are in proportion as well.
    """
    rated = {one.tensor: one for one in rated_tensors(model)}
    cut: dict[tuple[int, str, float], dict[str, Any]] = {}
    for number, group in enumerate(groups):
        for parameter in group["params"]:
            _, name, rate = rated[parameter]
            own = cut.setdefault((number, name, rate), {**group, "params": [], "name": name, PEAK: rate})
            own["params"].append(parameter)
    top = max(group[PEAK] for group in cut.values())
    for group in cut.values():
        decay = group.get("lr_scale", 1.0)
        group.update({"lr": top, "lr_scale": group[PEAK] / top * decay, PEAK: group[PEAK] * decay})
    return list(cut.values())


def multiply_all(optimizer: Any, factor: float) -> None:
    """Multiplies the rates of all groups before a schedule is made."""
    for group in optimizer.param_groups:
        group["lr"] *= factor
        group[PEAK] *= factor


def multiply_each(optimizer: Any, factor: Callable[[Mapping[str, Any]], float]) -> None:
    """Multiplies the rate of each group by a factor of its own, also under a schedule, which takes it up with its next step."""
    for group in optimizer.param_groups:
        key = "lr_scale" if "lr_scale" in group else "lr"
        group[key] *= factor(group)
        if PEAK in group:
            group[PEAK] *= factor(group)


def lower_head_rate(optimizer: Any, rate: float) -> None:
    """Gives the classifier's groups this rate, if theirs is higher."""
    multiply_each(optimizer, lambda group: min(1.0, rate / group[PEAK]) if group.get("name") == HEAD else 1.0)


def rates_by_name(optimizer: Any) -> dict[str, float]:
    """Returns the highest rate of each method, of "head", and of "full", the base's own tensors; or one rate under "all"."""
    rates: dict[str, float] = {}
    for group in optimizer.param_groups:
        name, rate = group.get("name", "all"), group.get(PEAK, group.get("initial_lr", group["lr"]))
        rates[name] = max(float(rate), rates.get(name, 0.0))
    return rates
