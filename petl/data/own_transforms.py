"""Transforms of the user's own: torchvision's v2, albumentations, or any function of an image.

What a transform takes is found out on the first image, and what it returns is checked on each one: petl normalises the image
afterwards, so a transform that has done so already is an error.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from petl.data.channels import Unfit, fit_channels, match_channels
from petl.data.random_state import seeded_rng
from petl.errors import DataError, shortened

Kind = Literal["a PIL image", "a tensor", "an array"]
KINDS: tuple[Kind, ...] = ("a PIL image", "a tensor", "an array")
LARGEST = {torch.uint8: 255.0, torch.uint16: 65535.0}
OVERSHOOT = 0.2  # by which bicubic resizing of floats may leave 0..1
EXPECTED_RESULT = "a PIL image, a tensor [k, H, W] or an array [H, W, k], of uint8 or of floats from 0 to 1"


class OwnTransform:
    """A transform of the user's own, as a function from an image with the model's channels to such an image.

    The image is a PIL image of 8 bits, or a float tensor [k, H, W]; so is the result, whose floats are of 0..1.
    """

    def __init__(self, function: Callable[..., Any], channels: int):
        if not callable(function):
            raise DataError(f"transform={shortened(repr(function), 80)}; expected a function of an image, or None")
        self.function, self.channels = function, channels
        self.name = getattr(function, "__name__", type(function).__name__)
        self.of_albumentations = any(
            cls.__module__.partition(".")[0].startswith("albumentations") for cls in type(function).__mro__
        )
        self.takes: Kind | None = "an array" if self.of_albumentations else None
        self.tried = False

    def __call__(self, image: Image.Image | Tensor) -> Image.Image | Tensor:
        """Returns the transformed image.

        Raises:
            DataError: the transform fails, or returns what is no image of the model's channels, or is normalised already.
        """
        if not self.tried:
            self._try(image)
        try:
            result = self._call(image, self.takes or "a PIL image")
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"transform {self.name} fails on this image: {type(error).__name__}: {error}") from error
        return self._checked(result, bounded=_is_bounded(image))

    def _try(self, image: Image.Image | Tensor) -> None:
        """Finds out what the transform takes, and looks at what it makes of black and white. Draws no random numbers."""
        if self.takes is None:
            self.takes = self._taken_kind(image)
        if _is_bounded(image):
            squares = None
            with seeded_rng(0), contextlib.suppress(Exception):  # a transform may want more of an image than squares
                squares = self._call(_squares_like(image), self.takes)
            self._refuse_normalised(_as_tensor(squares, self.channels))
        self.tried = True

    def _taken_kind(self, image: Image.Image | Tensor) -> Kind:
        errors = []
        for kind in KINDS:
            try:
                with seeded_rng(0):
                    self._call(image, kind)
            except Exception as error:
                errors.append(f"{kind}: {type(error).__name__}: {shortened(str(error).strip(), 120)}")
            else:
                return kind
        raise DataError(f"transform {self.name} takes none of these ({'; '.join(errors)})")

    def _call(self, image: Image.Image | Tensor, kind: Kind) -> Any:
        given = _as_kind(image, kind)
        if not self.of_albumentations:
            return self.function(given)
        seed = int(torch.randint(2**31, (), device="cpu"))  # albumentations draws from generators of its own
        self.function.set_random_state(np.random.default_rng(seed), random.Random(seed))  # type: ignore[attr-defined]
        result = self.function(image=given)["image"]
        return torch.from_numpy(np.moveaxis(_with_channels(result), -1, 0).copy()) if _is_array(result) else result

    def _checked(self, result: Any, *, bounded: bool) -> Image.Image | Tensor:
        if isinstance(result, Image.Image) and 0 not in result.size:
            image = self._fitted(result)
        else:
            image = self._scaled(_as_tensor(result, self.channels), result)
        if bounded and isinstance(image, Tensor):
            self._refuse_normalised(image)
            image = image.clamp(0, 1)
        return image

    def _scaled(self, tensor: Tensor | None, result: Any) -> Tensor:
        good = tensor is not None and tensor.ndim == 3 and 0 not in tensor.shape
        if tensor is None or not good or not (tensor.dtype in LARGEST or tensor.is_floating_point()):
            raise DataError(f"transform {self.name} returned {_describe(result)}; expected {EXPECTED_RESULT}")
        image = tensor.float() / LARGEST.get(tensor.dtype, 1.0)
        if not torch.isfinite(image).all():
            raise DataError(f"transform {self.name} returned NaN or infinite values; expected {EXPECTED_RESULT}")
        try:
            return match_channels(image, self.channels)
        except Unfit:
            raise self._other_channels_error(result) from None

    def _fitted(self, image: Image.Image) -> Image.Image | Tensor:
        try:
            return fit_channels(image, self.channels)
        except Unfit:
            raise self._other_channels_error(image) from None

    def _other_channels_error(self, result: Any) -> DataError:
        return DataError(
            f"transform {self.name} returned {_describe(result)} for {self.channels} channels; expected {EXPECTED_RESULT}"
        )

    def _refuse_normalised(self, result: Any) -> None:
        if not isinstance(result, Tensor) or not result.is_floating_point():
            return
        least, largest = float(result.min()), float(result.max())
        if least < -OVERSHOOT or largest > 1 + OVERSHOOT:
            raise DataError(
                f"transform {self.name} returned values from {least:.3g} to {largest:.3g}; expected {EXPECTED_RESULT}: leave out "
                "its normalisation (the model's is applied afterwards), and divide values of 0..255 by 255"
            )


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray)


def _is_bounded(image: Image.Image | Tensor) -> bool:
    """Returns whether the values of an image lie in 0..1; those of float files may be anything."""
    return isinstance(image, Image.Image) or bool(image.min() >= 0 and image.max() <= 1)


def _as_kind(image: Image.Image | Tensor, kind: Kind) -> Any:
    """Returns a copy of the image for the transform; what has more than 8 bits is never a PIL image."""
    if isinstance(image, Tensor):
        return np.ascontiguousarray(np.moveaxis(image.numpy(), 0, -1)) if kind == "an array" else image.clone()
    if kind == "a PIL image":
        return image.copy()
    array = _with_channels(np.array(image))
    return torch.from_numpy(array).movedim(-1, 0).contiguous().float() / 255 if kind == "a tensor" else array


def _with_channels(array: np.ndarray) -> np.ndarray:
    return array[..., None] if array.ndim == 2 else array


def _as_tensor(result: Any, channels: int) -> Tensor | None:
    """Returns what a transform returned as a tensor [k, H, W]; None for what is neither tensor nor array."""
    if _is_array(result) and result.dtype.kind in "uf":
        array = _with_channels(result)
        if array.ndim == 3 and array.shape[-1] in (channels, 1, 3):
            array = np.moveaxis(array, -1, 0)
        return torch.from_numpy(np.ascontiguousarray(array))
    if not isinstance(result, Tensor):
        return None
    tensor = result.detach().as_subclass(Tensor).cpu()
    if tensor.ndim == 4 and len(tensor) == 1:  # a batch of one, as of kornia
        return tensor[0]
    return tensor[None] if tensor.ndim == 2 else tensor


def _squares_like(image: Image.Image | Tensor) -> Image.Image | Tensor:
    """Returns an image of the same kind and size with black and white squares."""
    height, width = (image.height, image.width) if isinstance(image, Image.Image) else image.shape[1:]
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    white = (rows[:, None] + columns) % 2
    if isinstance(image, Image.Image):
        return Image.fromarray((white * 255).astype(np.uint8)).convert(image.mode)
    return torch.from_numpy(white.astype(np.float32)).expand(image.shape).clone()


def _describe(value: Any) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{type(value).__name__} [{', '.join(map(str, value.shape))}] of {value.dtype}"
    if isinstance(value, Image.Image):
        return f"a PIL image of {value.width} x {value.height} pixels in mode {value.mode}"
    keys = f" with {', '.join(map(repr, value))}" if isinstance(value, Mapping) else ""
    return f"{type(value).__name__}{keys}"
