"""What a card says of a delta: its header, its backbone's place and licence on the hub, its results, how it was trained."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from petl.delta.file import read_delta
from petl.delta.header import Header
from petl.delta.recorded_results import Figure, is_of_training, recorded_figures, recorded_images
from petl.errors import DeltaError, PetlError, shortened
from petl.format.backbone_values import is_remote
from petl.format.texts import parsed_json
from petl.objectives.measured import TaskMetrics
from petl.training.run_file import read_run_file
from petl.wrapping.licences import NON_COMMERCIAL, OPEN, known_licence, licence_warning

# licences by the names that the hub has for them; any other is "other" there, with a name and a link
HUB_LICENCES = {
    *OPEN,
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "apple-ascl",
    "apple-amlr",
    "gemma",
}
TOLD_SETTINGS = (
    "batch_size",
    "lr",
    "weight_decay",
    "optimizer",
    "schedule",
    "label_smoothing",
    "mixup",
    "cutmix",
    "seed",
)
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
MOST_TEXT = 60  # characters of a setting


@dataclass(frozen=True)
class BaseOnHub:
    """A backbone: timm's name, its repository on the hub, and its licence; each None where it isn't known."""

    name: str | None
    hub: str | None
    licence: str | None

    @property
    def warning(self) -> str:
        """Returns what has to be said of the licence, or ""."""
        return licence_warning(self.licence) if self.name else ""

    @property
    def is_non_commercial(self) -> bool:
        return any(mark in (self.licence or "") for mark in NON_COMMERCIAL)


@dataclass(frozen=True)
class DeltaFacts:
    """Everything that a card is made of."""

    header: Header
    base: BaseOnHub
    numbers: int
    bytes: int
    figures: list[Figure]
    images: int | None
    chosen_by: bool  # the figures are on the images by which the training chose its best epoch
    training: dict[str, str]
    dataset: str | None
    comparison: dict[str, Any] | None
    licence: str | None
    report: str | None = None
    notes: list[str] = field(default_factory=list)


def delta_facts_of(
    path: Path, *, dataset: str | None, results: Any, compare: Any, licence: str | None, report: str | None
) -> DeltaFacts:
    """Returns the facts of a delta, all of whose bytes are checked.

    Raises:
        DeltaError: the file isn't whole, or there is no comparison in what is given as one.
    """
    header, tensors = read_delta(path)
    known = results_given(results) if results is not None else header.results
    base = base_model_of(header.backbone)
    return DeltaFacts(
        header=header,
        base=base,
        numbers=sum(tensor.numel() for tensor in tensors.values()),
        bytes=path.stat().st_size,
        figures=recorded_figures(known),
        images=recorded_images(known),
        chosen_by=is_of_training(known),
        training=training_of(path),
        dataset=dataset,
        comparison=comparison_in(compare) if compare is not None else None,
        licence=known_licence(licence) or base.licence,
        report=report,
    )


def results_given(results: Any) -> Mapping[str, Any]:
    """Returns results as a mapping, also what `petl.evaluate` returned; raises a DeltaError for anything else."""
    if isinstance(results, TaskMetrics):
        return results.row
    if isinstance(results, Mapping):
        return results
    raise DeltaError(
        f"results={shortened(str(results), MOST_TEXT)}; expected what petl.evaluate returned, or a dict, such as "
        "{'accuracy': 0.91, 'accuracy_standard_error': 0.01, 'images': 600}"
    )


def base_model_of(backbone: Mapping[str, Any]) -> BaseOnHub:
    """Returns the backbone's place on the hub and its licence, from timm's own configuration of the weights.

    >>> base_model_of({"name": "resnet50.a1_in1k"})
    BaseOnHub(name='resnet50.a1_in1k', hub='timm/resnet50.a1_in1k', licence='apache-2.0')
    """
    import timm

    name = backbone.get("name")
    if not name or is_remote(backbone):
        is_hub = bool(name) and str(name).partition(":")[0] in ("hf-hub", "hf_hub")
        place = str(name).partition(":")[2].partition("@")[0]
        return BaseOnHub(name, place if is_hub and HUB_ID.fullmatch(place) else None, None)
    try:
        config = timm.get_pretrained_cfg(name)
    except (RuntimeError, KeyError, ValueError):  # another version of timm has other weights
        config = None
    place = getattr(config, "hf_hub_id", None)
    return BaseOnHub(
        name,
        f"{place}{name}" if place and place.endswith("/") else place,
        known_licence(getattr(config, "license", None)),
    )


def training_of(path: Path) -> dict[str, str]:
    """Returns how the delta was trained, as its ``.history.json`` says: settings as text, by name; {} where there is none."""
    try:
        run = read_run_file(path)
    except PetlError:
        return {}
    if run is None:
        return {}
    history = run.get("history")
    rows = history.get("rows") if isinstance(history, dict) else None
    settings, epochs = run["settings"], len(rows) if isinstance(rows, list) else 0
    plain = {key: settings.get(key) for key in TOLD_SETTINGS}
    told = {key: shortened(str(value), MOST_TEXT) for key, value in plain.items() if value not in (None, 0, 0.0, "")}
    return {**({"epochs": str(epochs)} if epochs else {}), **told}


def comparison_in(source: Any) -> dict[str, Any]:
    """Returns the comparison in what `petl.compare` found, or in a JSON file of petl's that has one.

    Raises:
        DeltaError: there is none.
    """
    if hasattr(source, "to_json"):
        source = source.to_json()
    if isinstance(source, (str, Path)):
        try:
            source = parsed_json(Path(source).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise DeltaError(f"compare={str(source)!r} can't be read: {shortened(str(error), 200)}") from None
    found = _comparison(source, 6)
    if found is None:
        kind = source.get("kind") if isinstance(source, Mapping) else type(source).__name__
        raise DeltaError(
            f"there is no comparison in what compare= names ({kind}); expected what petl.compare returned, or a file of it: "
            "comparison.json in the folder of petl compare, or PETS.json of petl start"
        )
    return found


def _comparison(value: Any, depth: int) -> dict[str, Any] | None:
    if isinstance(value, Mapping):
        rows, told = value.get("rows"), value.get("held_out")
        if value.get("kind") == "comparison" and isinstance(rows, list) and isinstance(told, Mapping):
            return dict(value)
        value = list(value.values())
    if isinstance(value, list) and depth:
        return next((found for item in value for found in [_comparison(item, depth - 1)] if found), None)
    return None
