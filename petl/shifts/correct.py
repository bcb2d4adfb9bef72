"""`correct` fits a classifier to new class frequencies by its bias, and takes that back bit for bit."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from petl.errors import DataError, StateError, listing
from petl.extraction.accelerator import private_accelerator
from petl.format.calibration_values import is_temperature
from petl.format.outputs import label_texts
from petl.graft.sharded import is_sharded_model
from petl.shifts.shift_findings import Shift
from petl.sites.survey import survey_model
from petl.training.head_layers import ClassLayers, class_layers
from petl.wrapping.lookup import Model, require_record
from petl.wrapping.record import Record

log = logging.getLogger(__name__)

FEWEST_SHARE = 1e-6  # of a class that the target seems not to have: its bias stays finite
ROUNDED = (None, torch.bfloat16, torch.float16)  # what a delta may have been stored as


def correct(model: Model, shift: Shift | Mapping[str, Any] | str | Path | None) -> Model:
    """Fits a wrapped model's classifier to the class frequencies that `petl.shift` found; None takes the correction back.

    The classifier's bias gets ``(b + ln(q / p)) / a``: q and p are the frequencies of target and source, and ``softmax(a z + b)``
    calibrates the class scores z. With it goes the temperature 1 / a, so that `petl.predict` answers with
    ``softmax(a z + b + ln(q / p))``. Nothing else changes: the correction is in the delta when it is saved, loaded or merged, and
    `petl.record` and ``petl inspect`` show it. Taken back, each bias has the very bits from before. A second correction takes the
    place of the first. A later `petl.fit` trains on from the corrected classifier and forgets both numbers.

    Args:
        model: Wrapped, with a classifier that trains; it is changed in place and returned.
        shift: What `petl.shift` returned, the dict of its ``to_json``, or the JSON file that ``petl shift --out`` wrote.

    Raises:
        StateError: the model isn't wrapped, its classifier isn't linear or has no bias, or nothing is to be taken back; or the
            bias has changed since. DataError: the shift has no class frequencies, or other classes.

    >>> import petl, timm
    >>> model = petl.wrap(timm.create_model("test_vit"), "probe", num_classes=2)
    >>> before = model.head.bias.detach().clone()
    >>> found = {"classes": ["0", "1"], "correction": {"source": [0.5, 0.5], "target": [0.8, 0.2], "scale": 1.0, "bias": [0, 0]}}
    >>> [round(float(value), 2) for value in petl.correct(model, found).head.bias.detach() - before]
    [0.47, -0.92]
    >>> bool((petl.correct(model, None).head.bias == before).all())
    True
    """
    plain, record = require_record(model)
    if is_sharded_model(plain):
        raise StateError("a sharded model can't be corrected; petl.load its delta onto a plain model, and correct that")
    if shift is None:
        _take_back(plain, record)
        return model
    values = _values(shift)
    order = _order(record, values["classes"])
    source, target, bias = (
        torch.tensor(values[key], dtype=torch.float64)[order] for key in ("source", "target", "bias")
    )
    layers = _layers(plain, len(source))
    if record.correction is not None:
        _take_back(plain, record)
    offset = offsets(source, target, values["scale"], bias)
    _write(plain, record, layers, {"source": source, "target": target, "scale": values["scale"], "offset": offset})
    return model


def offsets(source: Tensor, target: Tensor, scale: float, bias: Tensor) -> Tensor:
    """Returns what a classifier's bias gets [K]: ``(bias + ln(target / source)) / scale``.

    A class that the target seems not to have counts as one in a million images; one that the source lacks keeps its score.
    """
    ratio = torch.where(source > 1e-9, target.clamp_min(FEWEST_SHARE) / source.clamp_min(1e-9), 1.0)
    return (bias + ratio.log()) / scale


def _values(shift: Any) -> dict[str, Any]:
    """Returns classes, frequencies, scale and bias of a shift.

    Raises:
        DataError: it is none, or holds no correction.
    """
    found: Any = (
        shift.to_json() if isinstance(shift, Shift) else _read(shift) if isinstance(shift, (str, Path)) else shift
    )
    if not isinstance(found, Mapping) or "correction" not in found or "classes" not in found:
        raise DataError(
            f"got a {type(shift).__name__} without 'classes' and 'correction'; expected what petl.shift returned, its to_json(), "
            "or the file that petl shift --out wrote"
        )
    values = found["correction"]
    if values is None:
        raise DataError(f"this shift gives no correction: {found.get('correction_refused') or 'it has no frequencies'}")
    if found.get("verdict") in ("appearance", "unknown"):
        log.warning(
            "the shift is of appearance, where class frequencies are uncertain; petl.correct(model, None) undoes it"
        )
    classes = label_texts(found["classes"]) or []
    lists: list[Any] = [
        values.get(key) if isinstance(values, Mapping) else None for key in ("source", "target", "bias")
    ]
    sane = all(isinstance(one, Sequence) and len(one) == len(classes) > 1 and _finite(one) for one in lists)
    if not sane or not is_temperature(values.get("scale")) or min(*lists[0], *lists[1]) < 0:
        raise DataError(
            "the shift's correction needs numbers for each class in 'source', 'target' (0 or more) and 'bias', and a 'scale' "
            "above 0; run petl.shift again"
        )
    return {"classes": classes, **{key: values[key] for key in ("source", "target", "bias", "scale")}}


def _finite(numbers: Sequence[Any]) -> bool:
    fine = all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in numbers)
    return fine and bool(torch.isfinite(torch.tensor(numbers, dtype=torch.float64)).all())


def _read(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read as JSON ({error}); petl shift --out writes such a file") from error


def _order(record: Record, classes: list[str]) -> list[int]:
    """Returns for each output of the model the place of its class in the shift.

    Raises:
        DataError: the model has other classes.
    """
    own = record.labels
    if own is None or list(own) == classes:
        return list(range(len(classes)))
    if sorted(own) != sorted(classes) or len({*own}) != len(own):
        odd = [name for name in classes if name not in own] or [name for name in own if name not in classes]
        raise DataError(
            f"the shift is of {len(classes)} classes and the model has {len(own)}, which differ in {listing(odd)}; run "
            "petl.shift with this model"
        )
    return [classes.index(name) for name in own]


def _layers(model: nn.Module, classes: int) -> dict[str, nn.Module]:
    """Returns the linear layers by name whose mean is the model's class scores; a StateError where there are none."""
    survey = survey_model(model)
    parameter = next(model.parameters())
    image = torch.rand(1, *survey.image, generator=torch.Generator().manual_seed(0))
    with private_accelerator(None) as accelerator:
        found = class_layers(accelerator, model, image.to(parameter.device, parameter.dtype), classes)
    if not isinstance(found, ClassLayers):
        raise StateError(
            f"the correction is a change of the classifier's bias, and {found}; build the model with a linear classifier "
            "that has a bias, wrap it with the classifier trainable (head=True), and train it"
        )
    return {name: module for name, module in model.named_modules() if module in found.layers}


@torch.no_grad()
def _write(model: nn.Module, record: Record, layers: Mapping[str, nn.Module], values: Mapping[str, Any]) -> None:
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
def _take_back(model: nn.Module, record: Record) -> None:
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
