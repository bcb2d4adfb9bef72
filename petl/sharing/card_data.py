"""The part of a model card that the hub reads: the YAML at its top."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from petl.errors import printable
from petl.sharing.delta_facts import HUB_ID, HUB_LICENCES, DeltaFacts

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

PIPELINES = {  # the hub's kinds of models; it has none for numbers as outputs
    "classification": "image-classification",
    "multilabel": "image-classification",
    "ordinal": "image-classification",
    "metric": "image-feature-extraction",
}
UNNAMED = "images that the author has not named"


def card_data(facts: DeltaFacts, repo: str) -> ModelCardData:
    """Returns what the hub's search, its pages and its tables of results read."""
    from huggingface_hub import ModelCardData

    header = facts.header
    methods = list(dict.fromkeys(str(method["name"]) for method in header.methods))
    pipeline = PIPELINES.get(header.task or "")
    more: dict[str, Any] = {"base_model_relation": "adapter"} if facts.base.hub else {}
    named = facts.dataset if facts.dataset and HUB_ID.fullmatch(facts.dataset) else None
    return ModelCardData(
        library_name="petl",
        base_model=facts.base.hub,
        pipeline_tag=pipeline,
        tags=[
            "petl",
            "timm",
            "parameter-efficient-fine-tuning",
            *methods,
            *([] if pipeline else ["image-regression"][: header.task == "regression"]),
        ],
        datasets=[named] if named else None,
        metrics=[figure.name for figure in facts.figures[:1]] or None,
        model_name=repo.partition("/")[2],
        eval_results=eval_results(facts) or None,
        **licence_entries(facts),
        **more,
    )


def licence_entries(facts: DeltaFacts) -> dict[str, str]:
    """Returns the licence as the hub wants it: an id of the hub's, or "other" with a name and a link."""
    if facts.licence is None:
        return {}
    if facts.licence in HUB_LICENCES:
        return {"license": facts.licence}
    link = {"license_link": f"https://huggingface.co/{facts.base.hub}"} if facts.base.hub else {}
    return {"license": "other", "license_name": facts.licence, **link}


def eval_results(facts: DeltaFacts) -> list[EvalResult]:
    """Returns the figures for the hub's model-index, each with the number of images and its standard error."""
    from huggingface_hub import EvalResult

    name = printable(facts.dataset or UNNAMED)
    kind = PIPELINES.get(facts.header.task or "", "image-regression")
    slug = name if HUB_ID.fullmatch(name) else re.sub(r"\W+", "-", name.lower()).strip("-") or "unnamed"
    found = []
    for figure in facts.figures:
        about = {"n": facts.images, "standard_error": figure.error}
        found.append(
            EvalResult(
                task_type=kind,
                dataset_type=slug if facts.dataset else "unnamed",
                dataset_name=name,
                dataset_split="validation" if facts.chosen_by else None,
                metric_type=figure.name,
                metric_name=figure.name.replace("_", " "),
                metric_value=figure.value,
                metric_args={key: value for key, value in about.items() if value is not None} or None,
            )
        )
    return found
