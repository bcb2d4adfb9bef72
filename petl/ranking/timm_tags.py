"""timm's pretrained weights by their tags: what is known of them without a download, and a diverse choice of a few."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import timm

from petl.errors import PetlError, near
from petl.ranking.limits import Limits
from petl.ranking.published import Published, published
from petl.wrapping.licences import known_licence

MOST_PARAMS = 100e6
# one of each kind of network and of pretraining, all with an open licence; at a side of their own where theirs is large
LADDER: dict[str, int | None] = {
    "mobilenetv3_large_100.ra_in1k": None,
    "resnet50.a1_in1k": None,
    "convnext_tiny.in12k_ft_in1k": None,
    "vit_small_patch14_dinov2.lvd142m": 224,
    "vit_small_patch16_224.augreg_in21k": None,
    "vit_base_patch32_clip_224.laion2b": None,
    "deit3_small_patch16_224.fb_in22k_ft_in1k": None,
    "vit_base_patch16_siglip_224.webli": None,
}
# kinds of pretraining by the words of a tag; the first that fits
PRETRAININGS = {
    "images and texts": r"clip|laion|openai|webli|datacomp|dfn|siglip|merged2b|pali|cc12m|yfcc15m",
    "without labels": r"dino|lvd|mae|fcmae(?!_ft)|^mim(?!.*_ft)|eupe|ijepa|seer|franca",
    "many classes": r"in21k|in22k|in12k|jft|ig1b|instagram|goog|yfcc100m",
    "ImageNet-1k": r"",
}


@dataclass(frozen=True)
class Tag:
    """What is known of a tag: timm's results, licence, side of the input in pixels, whether it is fixed, pretraining, family."""

    name: str
    results: Published
    licence: str | None
    side: int
    fixed: bool
    pretraining: str
    family: str


def tag_of(name: str) -> Tag:
    """Returns what is known of "resnet50.a1_in1k", or of the tag that timm takes for "resnet50".

    Raises:
        PetlError: timm knows no such network, or no such tag of it.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise PetlError(f"timm has no model {name!r}{near(name, timm.list_models())}")
    try:
        cfg: Any = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = [known for known in timm.list_pretrained() if known.partition(".")[0] == architecture]
        raise PetlError(f"timm has no weights {name!r}{near(name, tags)}") from error
    whole = f"{architecture}.{cfg.tag}" if cfg.tag else name
    kind = next(kind for kind, words in PRETRAININGS.items() if re.search(words, cfg.tag or tag))
    family = timm.models.model_entrypoint(architecture).__module__.rpartition(".")[2]
    results, size = published().get(whole, Published()), (cfg.input_size[-1], bool(cfg.fixed_input_size))
    return Tag(whole, results, known_licence(cfg.license), *size, kind, family)


def has_weights(name: str) -> bool:
    """Returns whether timm knows where the weights of this name are; without, it would build a random network."""
    cfg: Any = timm.get_pretrained_cfg(name)
    return any(getattr(cfg, key, None) for key in ("url", "file", "state_dict", "hf_hub_id"))


def known_licences() -> list[str]:
    """Returns the licences of timm's weights, sorted."""
    found = {known_licence(timm.get_pretrained_cfg(name).license) for name in timm.list_pretrained()}  # type: ignore[union-attr]  # listed ones have one
    return sorted(licence for licence in found if licence)


def matching_tags(pattern: str, limits: Limits) -> list[Tag]:
    """Returns the pretrained tags of this pattern that are within the limits; of what is limited, they have to be known.

    Without a limit of parameters it is `MOST_PARAMS`, so that a pattern brings no download of gigabytes.
    """
    limits = replace(limits, params=limits.params or MOST_PARAMS)
    tags = [tag_of(name) for name in timm.list_pretrained(pattern)]
    return [tag for tag in tags if _is_within(tag, limits)]


def _is_within(tag: Tag, limits: Limits) -> bool:
    results = tag.results
    unknown = (limits.params is not None and results.params is None) or (
        limits.gmacs is not None and results.gmacs is None
    )
    unlicensed = limits.licences is not None and tag.licence is None
    return not (
        unknown or unlicensed or limits.forbids(tag.licence) or limits.excess(results.params, results.gmacs, tag.side)
    )


def diverse(tags: Sequence[Tag], most: int) -> list[Tag]:
    """Returns at most so many tags: those of the ladder, then in turn the best of each kind of pretraining, new families first.

    The best has the highest published accuracy; where none is published, the most parameters: on usual benchmarks, size alone
    orders backbones better than the scores do (arXiv:2510.06448).
    """
    chosen = [tag for name in LADDER for tag in tags if tag.name == name][:most]
    queues = [
        [tag for tag in _best_first(tags) if tag.pretraining == kind and tag not in chosen] for kind in PRETRAININGS
    ]
    while len(chosen) < most and any(queues):
        for queue in queues:
            used = {(tag.pretraining, tag.family) for tag in chosen}
            new = next((tag for tag in queue if (tag.pretraining, tag.family) not in used), None)
            if queue and len(chosen) < most:
                chosen.append(queue.pop(0 if new is None else queue.index(new)))
    return chosen


def _best_first(tags: Sequence[Tag]) -> list[Tag]:
    return sorted(tags, key=lambda tag: (tag.results.top1 or 0, tag.results.params or 0), reverse=True)
