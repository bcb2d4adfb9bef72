"""`correct` fits a classifier to new class frequencies by its bias, and takes that back bit for bit."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from petl.errors import DataError, StateError, listing
from petl.extraction.accelerator import private_accelerator
from petl.format.calibration_values import is_temperature
from petl.format.outputs import label_texts
from petl.format.texts import is_finite_number, parsed_json
from petl.graft.sharded import is_sharded_model
from petl.shifts.corrected_bias import take_back, write_correction
from petl.shifts.readings import NO_SOFTMAX
from petl.shifts.shift_findings import Shift
from petl.sites.survey import survey_model
from petl.training.head_layers import ClassLayers, class_layers
from petl.wrapping.lookup import Model, require_record
from petl.wrapping.record import Record

log = logging.getLogger(__name__)

FEWEST_SHARE = 1e-6  # of a class that the target seems not to have: its bias stays finite
ROUNDING = 0.01  # how far frequencies that someone wrote with two digits may sum from 1
DOUBTS = {  # of verdicts under which a correction may do harm
    "none": "nothing differs beyond chance, so there is nothing to gain, and what little this correction changes follows noise",
    "appearance": "the shift is of appearance, where class frequencies are uncertain",
    "unknown": "the kind of shift isn't known, and class frequencies are uncertain",
}


def correct(model: Model, shift: Shift | Mapping[str, Any] | str | Path | None) -> Model:
    """Fits a wrapped model's classifier to the class frequencies that `petl.shift` found; None takes the correction back.

    The classifier's bias gets ``(b + ln(q / p)) / a``: q and p are the frequencies of target and source, and ``softmax(a z + b)``
    calibrates the class scores z. q is nearer to p than the estimate, as far as chance explains the difference. With it goes the
    temperature 1 / a, so that `petl.predict` answers with ``softmax(a z + b + ln(q / p))``. Nothing else changes: the correction
    is in the delta when it is saved, loaded or merged, and `petl.record` and ``petl inspect`` show it. Taken back, each bias has
    the very bits from before. A second correction takes the place of the first. A later `petl.fit` trains on from the corrected
    classifier and forgets both numbers.

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
        take_back(plain, record)
        return model
    if record.task in NO_SOFTMAX:
        raise StateError(
            f"the model was trained for {record.task!r}; class frequencies correct classifiers that give each image one class"
        )
    values = _values(shift)
    order = _order(record, values["classes"])
    source, target, bias = (
        torch.tensor(values[key], dtype=torch.float64)[order] for key in ("source", "target", "bias")
    )
    layers = _layers(plain, len(source))
    if record.correction is not None:
        take_back(plain, record)
    offset = offsets(source, target, values["scale"], bias)
    write_correction(record, layers, {"source": source, "target": target, "scale": values["scale"], "offset": offset})
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
    if (doubt := DOUBTS.get(str(found.get("verdict")))) is not None:
        log.warning("%s; petl.correct(model, None) undoes it", doubt)
    return _checked(values, label_texts(found["classes"]) or [])


def _checked(values: Any, classes: list[str]) -> dict[str, Any]:
    """Returns the values with the classes, or raises a DataError where there isn't a sane number for each class."""
    if not isinstance(values, Mapping):
        raise DataError(
            f"the shift's 'correction' is a {type(values).__name__}; expected an object, as petl.shift returns"
        )
    for key in ("source", "target", "bias"):
        if (fault := _fault(values.get(key), len(classes), shares=key != "bias")) is not None:
            raise DataError(f"'{key}' of the shift's correction {fault}; run petl.shift again")
    if not is_temperature(values.get("scale")):
        raise DataError(
            f"'scale' of the shift's correction is {values.get('scale')!r:.40}; expected a number above 0: run petl.shift again"
        )
    return {"classes": classes, **{key: values[key] for key in ("source", "target", "bias", "scale")}}


def _fault(numbers: Any, classes: int, *, shares: bool) -> str | None:
    """Returns what is wrong with one number for each class, or None; ``shares`` are 0 or more and sum to 1."""
    if not isinstance(numbers, Sequence) or isinstance(numbers, str) or len(numbers) != classes or classes < 2:
        count = f"{len(numbers)} values" if isinstance(numbers, (list, tuple)) else f"a {type(numbers).__name__}"
        return f"is {count} for {classes} classes; expected a number for each class, of two or more"
    odd = [one for one in numbers if not is_finite_number(one) or (shares and one < 0)]
    if odd:
        return f"has {odd[0]!r:.40}; expected a number for each class{', each 0 or more' if shares else ''}"
    total = math.fsum(numbers) if shares else 1.0
    if abs(total - 1) > ROUNDING:
        return f"sums to {total:.4g}; expected frequencies, which sum to 1"
    return None


def _read(path: str | Path) -> Any:
    try:
        return parsed_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
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
        if (name := _without_bias(model, classes)) is not None:
            raise StateError(
                f"{name} has no bias, and the correction is a change of the classifier's bias. A delta holds the tensors that "
                f"its model had when it was wrapped, so give the layer one before petl.wrap, and train: "
                f"model.get_submodule({name!r}).bias = torch.nn.Parameter(torch.zeros({classes}))"
            )
        raise StateError(
            f"the correction is a change of the classifier's bias, and {found}; build the model with a linear classifier "
            "that has a bias, wrap it with the classifier trainable (head=True), and train it"
        )
    return {name: module for name, module in model.named_modules() if module in found.layers}


def _without_bias(model: nn.Module, classes: int) -> str | None:
    """Returns the name of a linear layer of so many outputs that trains and has no bias, or None."""
    for name, module in model.named_modules():
        outputs = getattr(module, "out_features", None) or getattr(module, "out_channels", None)
        own = module._parameters
        no_bias = "bias" in own and own["bias"] is None and own.get("weight") is not None
        if name and outputs == classes and no_bias and own["weight"].requires_grad:  # type: ignore[union-attr]  # is there
            return name
    return None
