"""Which parts of a dict are the images and the labels, by their usual names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

IMAGES = {*["image", "images", "img", "imgs", "pixel_values", "pixels", "x", "input", "inputs"]}
LABELS = {
    *["label", "labels", "target", "targets", "y", "class", "classes", "class_id", "class_idx", "label_id", "label_ids"]
}


def usual_keys(item: Mapping[Any, Any]) -> tuple[Any, Any] | None:
    """Returns the keys of the image and the label in an item or a batch; None where none or several may be meant.

    >>> import torch
    >>> usual_keys({"path": "1.png", "pixel_values": torch.zeros(3, 8, 8), "label": 1})
    ('pixel_values', 'label')
    >>> usual_keys({"image": torch.zeros(3, 8, 8), "fine_label": 1, "coarse_label": 0}) is None
    True
    """
    images = [key for key in item if str(key).lower() in IMAGES and _holds_image(item[key])]
    labels = [key for key in item if str(key).lower() in LABELS]
    return (images[0], labels[0]) if len(images) == len(labels) == 1 else None


def _holds_image(value: Any) -> bool:
    return len(getattr(value, "shape", ())) in (3, 4) or type(value).__module__.startswith("PIL.")
