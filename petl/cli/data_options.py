"""``--data KEY=VALUE`` of a command line: how images are read, for `petl.data.pipeline` and `petl.data.dataset`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from petl.cli.key_values import check_types, parse_pairs
from petl.errors import MethodError

if TYPE_CHECKING:  # torch takes seconds, which `petl --help` needn't
    from petl.data.datasets import Images
    from petl.data.streams import Stream

Numbers = float | Sequence[float]
PIPELINE: dict[str, Any] = {
    "size": int | Sequence[float],
    "crop_pct": float,
    "crop_mode": Literal["center", "squash", "border"],
    "interpolation": Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos", "random"],
    "mean": Numbers,
    "std": Numbers,
    "statistics": str,
    "window": Literal["file", "full"] | Sequence[float],
    "frame": int | Literal["middle"],
    "tiff": Literal["tifffile", "rasterio"],
}
DATASET: dict[str, Any] = {
    "class_from": Literal["first", "path", "last"],
    "root": str,
    "class_map": str,
    "input_key": str,
    "target_key": str,
    "download": bool,
}
TABLE: dict[str, Any] = {
    "path": str,
    "label": str,
    "labels": str | Sequence[str],
    "targets": str | Sequence[str],
    "group": str | None,
    "weight": str | None,
    "split_column": str | None,
    "separator": str,
    "encoding": str,
}
DATASET |= TABLE
LISTED = {key: TABLE[key] for key in ("path", "encoding")}  # of a table of images without targets
SPLIT: dict[str, Any] = {"split": str | None}
TRAINING: dict[str, Any] = {"augment": bool | Mapping, **SPLIT}
AUGMENT = "augment."  # --data augment.hflip=0: one of its options


@dataclass(frozen=True)
class DataKeywords:
    """Keyword arguments for `petl.data.pipeline`, for every `petl.data.dataset`, and for the training images' alone."""

    pipeline: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


def data_keywords(words: Sequence[str] | None, *, known: Mapping[str, Any]) -> DataKeywords:
    """Sorts the words by the function that takes them; ``known`` has the keys that the command takes.

    Raises:
        MethodError: An unknown key, or a value that it can't have.

    >>> data_keywords(["crop_pct=1", "augment.hflip=0", "class_from=path"], known=PIPELINE | DATASET | TRAINING)
    DataKeywords(pipeline={'crop_pct': 1}, dataset={'class_from': 'path'}, training={'augment': {'hflip': 0}})
    """
    values = _gather_augment({**parse_pairs(words), **_names_as_text(words)})
    if "augment" not in known and "augment" in values:
        raise MethodError("augment is of training alone; here images are read as at evaluation")
    check_types("--data", known, values)
    if values.get("augment") is True:
        del values["augment"]  # timm's own, as without a word
    for key in ("labels", "targets"):  # columns may be called 1, 2 ...
        if isinstance(values.get(key), list):
            values[key] = [str(name) for name in values[key]]
    if isinstance(values.get("size"), list):
        values["size"] = _sides(values["size"])
    return DataKeywords(*({k: v for k, v in values.items() if k in keys} for keys in (PIPELINE, DATASET, TRAINING)))


def _names_as_text(words: Sequence[str] | None) -> dict[str, str]:
    """Returns the values that are names, of folders for instance, as text: in ``split=2024`` there is no number."""
    split = [word.partition("=") for word in words or ()]
    names = {key for key, hint in (PIPELINE | DATASET | TRAINING).items() if hint in (str, str | None)}
    return {key: text for key, _, text in split if key in names and text != "null"}


def _gather_augment(values: Mapping[str, Any]) -> dict[str, Any]:
    """Collects ``augment.KEY=VALUE`` words in one dict."""
    inner = {key.removeprefix(AUGMENT): value for key, value in values.items() if key.startswith(AUGMENT)}
    rest = {key: value for key, value in values.items() if not key.startswith(AUGMENT)}
    if not inner:
        return rest
    whole = rest.get("augment", {})
    if whole is not True and not isinstance(whole, dict):
        raise MethodError(f"got augment={whole!r} and {AUGMENT}{next(iter(inner))}; expected one of them")
    return {**rest, "augment": {**(whole if isinstance(whole, dict) else {}), **inner}}


def refuse_two_sizes(size: int | None, said: DataKeywords) -> None:
    """Raises a MethodError where ``--size`` and ``--data size=`` are both given."""
    if size and "size" in said.pipeline:
        raise MethodError(f"got --size {size} and --data size={said.pipeline['size']}; expected one of them")


def _sides(sides: list[Any]) -> tuple[int, int]:
    if len(sides) != 2 or not all(type(side) is int for side in sides):
        raise MethodError(f"size={sides}; expected a whole number of pixels, or two: height,width")
    return sides[0], sides[1]


def training_and_validation(
    source: str, val: str | None, pipeline: Mapping[str, Any], said: DataKeywords, *, classes: Sequence[str], seed: int
) -> tuple[Images | Stream, Images | Stream]:
    """Returns the images to train on, and those to measure on: ``val``, else the ``val`` in ``source``, else a fifth held out.

    A folder that is taken as it is (split=".") or whole (split=null) has no split left to measure on. Images of one group in a
    table are held out together.
    """
    from petl import data

    training = data.dataset(source, pipeline, training=True, classes=classes, **said.dataset, **said.training)
    whole = said.training.get("split", "train") in (".", None)
    if val:
        options = _options_for(val, source, said.dataset)
        as_it_is = said.training.get("split") == "."  # classes may be called train or val, here as there
        split = "." if as_it_is else data.held_out(val, **options) or "."
        return training, data.dataset(val, pipeline, split=split, classes=classes, **options)
    if not whole and data.has_split(source, "val", **said.dataset):
        return training, data.dataset(source, pipeline, split="val", classes=classes, **said.dataset)
    return data.holdout(training, seed=seed)  # type: ignore[arg-type,return-value]  # it says what it can't split


def _options_for(val: str, source: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options for the validation images: beside a table, a folder has no columns, and the other way round."""
    from petl.data.table_files import is_table_file

    if is_table_file(val) == is_table_file(source):
        return dict(options)
    return {key: value for key, value in options.items() if (key in TABLE) == is_table_file(val) and key != "root"}
