"""The rules that turn readings into a shortlist of methods: priors, from publications and petl's own trainings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from petl.advice.distance import EARLY, Profile
from petl.advice.readings import VERY_SURE, Readings, Verdict
from petl.errors import PetlError
from petl.methods.adapter import Adapter
from petl.methods.default import best_methods
from petl.methods.full import Full
from petl.methods.input import Input
from petl.methods.method import Method
from petl.methods.norm import Norm
from petl.methods.partial import Partial
from petl.methods.probe import Probe
from petl.sites.meta import on_meta
from petl.wrapping.backbone import outline_backbone
from petl.wrapping.lookup import record
from petl.wrapping.rates import rated_tensors, started_head_rate
from petl.wrapping.wrap import wrap

VERY_FEW, QUITE_FEW, MANY_IMAGES = (
    5,
    50,
    1000,
)  # images of a class, at most: a head and norms; small methods; all but full fine-tuning
ENOUGH_FOR_STATISTICS = 1000  # images of a class below which moving BatchNorm statistics are noise
FULL_DECAY = 0.75  # of full fine-tuning, from block to block
PRIOR = "a prior, not measured on these images"


@dataclass(frozen=True)
class Distance:
    """Whether the images are "near" to those that the model was trained on, or "far", with the reasons for it.

    ``level`` is where they differ most by BatchNorm's statistics: "input", "middle", "output", or "" where nothing tells.
    """

    verdict: Literal["near", "far"]
    level: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Suggestion:
    """A row of the shortlist.

    Attributes:
        methods: What `petl.wrap` takes, in a list.
        code: The same as Python writes it.
        reason: Why, in a sentence; ``basis`` says that it is a prior.
        rates: The learning rates that `petl.fit` uses by default, for each method and the classifier; {} for a classifier in
            closed form, None where they aren't known. ``lr`` is the argument of `petl.fit` for them: None.
        options: More arguments for `petl.fit`.
    """

    methods: tuple[Method, ...]
    code: str
    reason: str
    rates: dict[str, float] | None
    lr: None = None
    options: dict[str, Any] = field(default_factory=dict)
    basis: str = PRIOR

    def to_json(self) -> dict[str, Any]:
        """Returns the row as plain values."""
        plain = {key.name: getattr(self, key.name) for key in dataclasses.fields(self)}
        return {**plain, "methods": [method.to_json() for method in self.methods]}


def distance_of(readings: Readings, verdict: Verdict, profile: Profile) -> Distance:
    """Returns whether images are near or far: far where pretraining doesn't clearly help, or an earlier block knows more.

    The BatchNorm gap alone decides nothing: it says where the images differ.
    """
    reasons = []
    if verdict.transfer != "positive":
        reasons.append(f"the pretrained network isn't shown to read them better than {verdict.comparison.second}")
    if readings.earlier is not None and readings.earlier.p < VERY_SURE:
        reasons.append(f"block {readings.best_block} reads them better than the last one")
    if not reasons:
        reasons.append(f"the pretrained network reads them better than {verdict.comparison.second}")
        reasons.append("no earlier block reads them better than the last one")
        return Distance("near", _level(profile), tuple(reasons))
    return Distance("far", _level(profile), tuple(reasons))


def _level(profile: Profile) -> str:
    """Returns the third of the network whose statistics differ most, if it is by more than `EARLY`."""
    if not profile.applicable or max(profile.first, profile.middle, profile.last) < EARLY:
        return ""
    named = {"input": profile.first, "middle": profile.middle, "output": profile.last}
    return max(named, key=lambda name: named[name])


def shortlist(
    model: nn.Module, each: float, distance: Distance, channels: int | None, wanted: tuple[int, Any]
) -> list[Suggestion]:
    """Returns the methods to try, the likeliest first.

    Args:
        model: The user's model, wrapped or not; methods that have nothing to do in its backbone are left out.
        each: Images of a class in the training part, the median.
        channels: Of the images where the backbone takes another number; else None.
        wanted: How many classes there are, and ``head=`` of `petl.wrap`.
    """
    found, before = [], () if channels is None else (Input(in_chans=channels),)
    for methods, reason, options in _candidates(model, each, distance):
        whole = (*before, *methods)
        rates = _default_rates(model, whole, *wanted)
        if rates == "unfit":
            continue
        said = f"{reason}; the images have {channels} channels" if before else reason
        found.append(Suggestion(whole, _code(whole), said, rates, options=options))
    return found


Proposal = tuple[tuple[Method, ...], str, dict[str, Any]]


def _candidates(model: nn.Module, each: float, distance: Distance) -> Iterator[Proposal]:
    recipe, far = tuple(best_methods(model)), distance.verdict == "far"
    if each <= VERY_FEW:
        yield (
            (Probe(),),
            f"with {VERY_FEW} images of a class or fewer, a classifier in closed form overfits least",
            {},
        )
        yield (Probe(layers="all"),), "the outputs of all blocks gave 2 to 4 points more at 5 images of a class", {}
        yield (Norm(),), "norms are the few numbers that such few images can move", {}
        return
    if not far:
        yield (Probe(),), "the features fit already, and it takes seconds", {}
    yield recipe, "petl's best recipe: as good as full fine-tuning at 30 images of a class", {}
    yield (Norm(),), "norms alone are a strong few-shot baseline", {}
    if far:
        yield from _for_far_images(distance)
    if each > QUITE_FEW:
        yield (Adapter(),), f"with more than {QUITE_FEW} images of a class, new layers can be learnt", {}
        yield (Partial(last=1),), f"with more than {QUITE_FEW} images of a class, whole blocks can train", {}
    if each > MANY_IMAGES:
        why = f"with more than {MANY_IMAGES} images of a class, all weights can train, early ones slowly"
        yield (Full(),), why, {"layer_decay": FULL_DECAY}


def _for_far_images(distance: Distance) -> Iterator[Proposal]:
    where = " and their statistics differ most there" if distance.level == "input" else ""
    yield (Partial(first=1, last=0),), f"the images look different: the first block meets what is new{where}", {}
    yield (Probe(layers="all"),), "earlier blocks may know what the last one has lost", {}


def _default_rates(model: nn.Module, methods: Sequence[Method], classes: int, head: Any) -> Any:
    """Returns the default rates of methods on this backbone; None where it can't be built, "unfit" where they don't fit it."""
    outline = _outline(model)
    if outline is None:
        return None
    try:
        wrap(outline, list(methods), num_classes=classes if head is True else None, head=head)
    except PetlError:
        return "unfit"
    if all(isinstance(method, Probe) for method in methods):
        return {}
    rates: dict[str, float] = {}
    for _, group, rate in rated_tensors(outline):
        rates[group] = max(rate, rates.get(group, 0.0))
    if "head" in rates:  # fit computes the classifier first
        rates["head"] = started_head_rate(outline)
    return rates


def _outline(model: nn.Module) -> nn.Module | None:
    """Returns the plain backbone of a model on the meta device; None where nobody can build it."""
    wrapped = record(model)
    if wrapped is None:
        return on_meta(model)
    try:
        return outline_backbone(wrapped.backbone)
    except PetlError:
        return None


def _code(methods: Sequence[Method]) -> str:
    """Returns methods as Python writes them, with the options that aren't the default's.

    >>> _code([Norm(), Partial(first=1, last=0)])
    '[petl.Norm(), petl.Partial(last=0, first=1)]'
    """
    texts = []
    for method in methods:
        own = [
            (f.name, getattr(method, f.name))
            for f in dataclasses.fields(method)
            if getattr(method, f.name) != f.default
        ]
        texts.append(f"petl.{type(method).__name__}({', '.join(f'{name}={value!r}' for name, value in own)})")
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
