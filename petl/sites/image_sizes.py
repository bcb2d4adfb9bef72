"""The images that a model may have been built for: candidates for their channels, height and width, in the order of trial."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from petl.graft.kinds import grafts
from petl.sites.meta import pretrained_cfg

DEFAULT_SIZE = (3, 224, 224)
USUAL_SIZES = (224, 256, 384, 512, 192, 160, 128, 112, 96, 64, 32)  # for models that say nothing, in the order of trial


def candidate_images(model: nn.Module, known: int | Sequence[int] | None) -> list[tuple[int, int, int]]:
    """Returns (channels, height, width) of the images to try; of each size, a wider image first.

    ``known`` is the side, or height and width, that the caller knows.
    """
    channels = _channels(model)
    return [(c, h, w) for h, width in _sizes(model, known) for c in channels for w in (width + 64, width)]


def _sizes(model: nn.Module, known: int | Sequence[int] | None) -> list[tuple[int, int]]:
    """Candidates for height and width: a changed ``img_size`` is known to the caller or to some part of the model."""
    built = [getattr(module, "img_size", None) for module in model.modules()]
    candidates = [known, *built, pretrained_cfg(model).get("input_size"), *USUAL_SIZES]
    kept = [c for c in candidates if isinstance(c, (int, tuple, list)) and c]
    pairs = [(c, c) if isinstance(c, int) else tuple(c[-2:]) for c in kept]
    return list(dict.fromkeys(pair for pair in pairs if len(pair) == 2))


def _channels(model: nn.Module) -> list[int]:
    """Candidates for the number of input channels: timm's config doesn't say what ``in_chans=`` was."""
    first = pretrained_cfg(model).get("first_conv") or ()
    names = [first] if isinstance(first, str) else list(first)
    stems = [m.in_channels for n, m in model.named_modules() if n in names and isinstance(m, nn.Conv2d)]
    grafted = [graft.in_chans for module in model.modules() for _, graft in grafts(module)]
    configured = (pretrained_cfg(model).get("input_size") or DEFAULT_SIZE)[0]
    candidates = [*grafted, configured, *stems, getattr(model, "in_chans", None), 3, 1]
    return list(dict.fromkeys(c for c in candidates if c))
