"""The transform of a pipeline: from an image of any depth and number of channels to the tensor that the model takes.

Ordinary 8-bit images go through timm's transforms as PIL images, exactly as timm does it. Everything else (16-bit
files, float files, ``.npy`` arrays, pages of a TIFF, any number of channels but 1 and 3) becomes a float tensor first,
and the same transforms then run on the tensor, without those that only know colours of 8 bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torchvision.transforms.functional import normalize, to_tensor

from petl.data.channels import fit_channels
from petl.data.decoding import RawImage, decode, load_pixels
from petl.data.own_transforms import OwnTransform
from petl.data.reading import Reading
from petl.errors import DataError, near

Augment = Mapping[str, Any] | Literal[False] | None

PIPELINE_KEYS = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
COLOUR_ONLY = {"auto_augment", "color_jitter", "grayscale_prob", "gaussian_blur_prob"}
# options of timm's create_transform that are no augmentation
PIPELINE_OPTIONS = {"input_size", "mean", "std", "is_training", "use_prefetcher", "normalize", "separate"}


class Transform:
    """Turns the bytes of a file, a PIL image or an array into the float tensor [k, H, W] that a model with this pipeline takes.

    Args:
        pipeline: See `petl.data.pipeline`; ``input_size[0]`` is the number of channels k.
        training: Random crops and flips (timm's defaults) rather than the evaluation crop.
        augment: Options for `timm.data.create_transform`, such as ``{"hflip": 0.0, "scale": (0.5, 1.0)}``.
        own: A transform of the user's own, in place of timm's augmentation: a function of a PIL image (of a float tensor, for
            what has more than 8 bits). Its result is resized and cropped as at evaluation if it has another size, and normalised.

    Raises:
        DataError: `Unfit`, the image doesn't fit the pipeline's channels; `Unreadable`, it can't be decoded; or ``augment`` has
            an option that timm doesn't know, or that this image can't take.
    """

    def __init__(
        self,
        pipeline: Mapping[str, Any],
        training: bool = False,
        augment: Mapping[str, Any] | None = None,
        own: Callable[..., Any] | None = None,
    ):
        _refuse_pipeline_options(augment or {})
        if own is not None and augment:
            raise DataError(
                "got transform= and augment=; the transform takes the place of timm's augmentation: pass one of them"
            )
        self.channels = int(pipeline["input_size"][0])
        self.augment = dict(augment or {}) if training else {}
        self.config = {key: pipeline[key] for key in PIPELINE_KEYS if key in pipeline}
        self.config.update(input_size=tuple(pipeline["input_size"]), is_training=training and own is None)
        self.reading = Reading.of(pipeline)
        self.own = None if own is None else OwnTransform(own, self.channels)
        self.on_images = _timm_transform(self.config, self.augment)

    def untransformed(self, source: bytes | RawImage) -> Image.Image | Tensor:
        """Returns the whole image with the model's channels, before the transform."""
        raw = decode(source, self.reading) if isinstance(source, bytes) else load_pixels(source)
        return fit_channels(raw, self.channels, self.config.get("mean", (0.0,)))

    def __call__(self, source: bytes | RawImage) -> Tensor:
        image = self.untransformed(source)
        if self.own is not None:
            image = self.own(image)
            size = tuple(image.shape[1:]) if isinstance(image, Tensor) else (image.height, image.width)
            if size == self.config["input_size"][1:]:
                return self._normalised(image)
        return (self.on_tensors if isinstance(image, Tensor) else self.on_images)(image)

    def _normalised(self, image: Image.Image | Tensor) -> Tensor:
        tensor = image if isinstance(image, Tensor) else to_tensor(image)
        mean, std = (
            list(self.config.get(key, default))
            for key, default in (("mean", IMAGENET_DEFAULT_MEAN), ("std", IMAGENET_DEFAULT_STD))
        )
        return normalize(tensor, mean, std)

    @functools.cached_property
    def on_tensors(self) -> Any:
        """timm's transform for tensors, without what torchvision refuses on k channels or 16 bits."""
        asked = sorted(name for name in COLOUR_ONLY & set(self.augment) if self.augment[name])
        if asked or self.config.get("crop_mode") == "border":
            what = ", ".join(asked) or 'crop_mode="border"'
            raise DataError(f"{what} works on 8-bit images with 1 or 3 channels only; leave it out for this data")
        nearest = {"lanczos": "bicubic", "hamming": "bilinear", "box": "bilinear"}  # torch doesn't have these of PIL's
        name = self.config.get("interpolation", "bilinear")
        config = {**self.config, "interpolation": nearest.get(name, name)}
        return _timm_transform(config, {**self.augment, "color_jitter": None})


def make_transform(
    pipeline: Mapping[str, Any], training: bool, augment: Augment, own: Callable[..., Any] | None = None
) -> Transform:
    """Returns the transform for training or evaluation; with ``augment=False``, both have the evaluation crop."""
    return Transform(pipeline, training and augment is not False, augment or None, own)


def _refuse_pipeline_options(augment: Mapping[str, Any]) -> None:
    """Raises a DataError for what evaluation must share with training: ``augment`` would change it in training alone."""
    odd = sorted(PIPELINE_OPTIONS & set(augment))
    if odd:
        raise DataError(
            f"augment is for training alone and can't change {', '.join(odd)}: that belongs in the pipeline"
        )


def _timm_transform(config: Mapping[str, Any], augment: Mapping[str, Any]) -> Any:
    try:
        return create_transform(**{**config, **augment})
    except TypeError as error:
        known = create_transform.__code__.co_varnames[: create_transform.__code__.co_argcount]
        odd = [name for name in augment if name not in known]
        hints = "".join(f"{name!r}{near(name, known)}" for name in odd[:1]) or str(error)
        raise DataError(f"augment takes the options of timm.data.create_transform, not {hints}") from error
