"""The bias of a corrected classifier: written, noted in the record, and given back bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from petl.errors import StateError
from petl.wrapping.record import Record

ROUNDED = (None, torch.bfloat16, torch.float16)  # what a delta may have been stored as


@torch.no_grad()
def write_correction(record: Record, layers: Mapping[str, nn.Module], values: Mapping[str, Any]) -> None:
    """Adds ``values["offset"]`` [K] to the bias of each layer, and notes in the record what was there before.

    Raises:
        StateError: a bias would become infinite; nothing is changed then.
    """
    before = {name: _bias(layer).detach().clone() for name, layer in layers.items()}
    after = {name: _added(bias, values["offset"]) for name, bias in before.items()}
    if not all(bool(torch.isfinite(bias).all()) for bias in after.values()):
        raise StateError("the corrected bias would be infinite or not a number; the model is as it was")
    for name, layer in layers.items():
        _bias(layer).copy_(after[name])
    plain = {key: value.tolist() if isinstance(value, Tensor) else float(value) for key, value in values.items()}
    kept = {name: bias.tolist() for name, bias in before.items()}
    record.correction = {**plain, "before": kept, "temperature": record.temperature}
    record.temperature = 1 / values["scale"]


@torch.no_grad()
def take_back(model: nn.Module, record: Record) -> None:
    """Gives each bias its bits from before the correction, and the record its temperature.

    Raises:
        StateError: there is no correction, or a bias isn't as the correction left it.
    """
    made = record.correction
    if made is None:
        raise StateError("this model's classifier isn't corrected, so there is nothing to take back")
    modules, found = dict(model.named_modules()), {}
    for name, numbers in made["before"].items():
        bias = _bias(modules[name]) if name in modules else None
        value = None if bias is None else _as_before(bias, numbers, torch.tensor(made["offset"], dtype=torch.float64))
        if value is None:
            raise StateError(
                f"the bias of {name or 'the model'} has changed since it was corrected, so its values from before can't come "
                "back; petl.load the delta from before the correction"
            )
        found[name] = value
    for name, value in found.items():
        _bias(modules[name]).copy_(value)
    if record.temperature == 1 / made["scale"]:
        record.temperature = made.get("temperature")
    record.correction = None


def _as_before(bias: Tensor, numbers: list[float], offset: Tensor) -> Tensor | None:
    """Returns the value from before where the bias is as the correction left it, or as a delta of lower precision stored that."""
    if len(numbers) != bias.numel():
        return None
    for dtype in (bias.dtype, torch.float32):  # of the bias when it was corrected
        before = torch.tensor(numbers, dtype=dtype)
        after = _added(before, offset)
        for stored in ROUNDED:
            rounded = [value.to(stored or dtype).to(bias.dtype) for value in (before, after)]
            if torch.equal(rounded[1].to(bias.device).reshape(bias.shape), bias.detach()):
                return rounded[0].to(bias.device).reshape(bias.shape)
    return None


def _added(bias: Tensor, offset: Tensor) -> Tensor:
    return (bias.double().cpu() + offset.reshape(bias.shape)).to(bias.dtype).to(bias.device)


def _bias(layer: nn.Module) -> Tensor:
    return layer._parameters["bias"]  # type: ignore[return-value]  # class_layers saw that it is there
