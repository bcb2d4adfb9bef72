"""Pictures and their classes through timm's own readers, with the backbone's own transform.

Folders of classes first (``train`` and ``val`` inside, by the names that timm knows), and what the readers give for
free: a tar, ``torch/cifar10``, ``hfds/...``, ``wds/...``. Gray, 16-bit and many-channel pictures: `petl.images`.
"""

from __future__ import annotations

import collections
import contextlib
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from timm.data.config import resolve_model_data_config
from timm.data.dataset_factory import create_dataset
from timm.data.readers.img_extensions import add_img_extensions, get_img_extensions, set_img_extensions
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from petl.batches import loader, set_epoch
from petl.datasets import Images, Stream, holdout, names_of
from petl.errors import DataError, listing, near
from petl.images import EXTENSIONS, KEYS, Transform
from petl.record import bare, record
from petl.wrap import in_chans

__all__ = ["Images", "Stream", "dataset", "holdout", "image", "loader", "pipeline", "set_epoch", "splits"]

SPLITS = {  # timm's synonyms, and test
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "eval", "evaluation"),
    "test": ("test", "testing"),
}
READERS = ("torch", "hfds", "hfids", "tfds", "wds")
REFUSALS = (ImportError, AssertionError, RuntimeError, ValueError, TypeError, OSError, tarfile.TarError)  # of readers


def pipeline(model: nn.Module, *, size: int | tuple[int, int] | None = None) -> dict[str, Any]:
    """What the model's input looks like: input_size (k, H, W), interpolation, mean, std, crop_pct, crop_mode.

    It is what a loaded delta was trained with, else timm's `resolve_model_data_config` at the image size that the model
    was built for (``img_size=``) or ``size``. Mean and std have one value per channel, for pictures of 0..1 (integers
    are scaled to that): more than three channels keep RGB's for the first three and their average for the others; one
    or two channels take the average.

    Example:
        >>> import timm
        >>> pipeline(timm.create_model("test_vit", in_chans=1))["mean"]
        (0.5,)
    """
    known = record(model)
    inner = bare(model)
    stored = known.pipeline if known is not None else None
    config = {key: _fixed(value) for key, value in (stored or resolve_model_data_config(inner)).items() if key in KEYS}
    built = getattr(getattr(inner, "patch_embed", None), "img_size", None)  # timm's config doesn't know of img_size=
    height, width = _pair(size or (None if stored else built) or config["input_size"][1:])
    k = in_chans(model)
    statistics = {key: _per_channel(config[key], k) for key in ("mean", "std")}
    return {**config, **statistics, "input_size": (k, height, width)}


def _fixed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # JSON has no tuples


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _per_channel(values: Sequence[float], k: int) -> tuple[float, ...]:
    if len(values) == k:
        return tuple(values)
    average = sum(values) / len(values)
    return (*(values if k > 3 and len(values) == 3 else ()), *[average] * k)[:k]


def dataset(
    source: str | Path,
    pipeline: Mapping[str, Any],
    *,
    split: str | None = "train",
    training: bool = False,
    classes: Sequence[str] | None = None,
    root: str | Path | None = None,
    augment: Mapping[str, Any] | None = None,
    **options: Any,
) -> Images | Stream:
    """Pairs of (image float [k, H, W], class number), with ``.classes``: the names in the order of their numbers.

    Args:
        source: A folder of class folders (or of ``train`` and ``val`` with class folders in them), a ``.tar`` of class
            folders, or a name as timm has them: ``torch/cifar10``, ``hfds/owner/name``, ``wds/name``.
        pipeline: From `petl.data.pipeline`; its number of channels decides how pictures are read.
        split: ``train``, ``val``, ``test`` or a sub-folder's name; None takes the folder as it is. Tars have no splits.
        training: timm's random crops and flips rather than the evaluation crop; unreadable files are stepped over.
        classes: Names that fix the numbers, such as the training set's; a class that isn't among them is an error.
        root: Where named sources keep their files (``torch/...``: "data"; ``wds/...``: the folder of shards).
        augment: Options for `timm.data.create_transform` in training, such as ``{"hflip": 0.0}``.
        options: More for `timm.data.create_dataset`: ``download``, ``target_key``, ``num_samples`` ...

    Raises:
        DataError: No such folder or split, no images, no class folders, unknown classes; it says what was found.
    """
    prefix = str(source).partition("/")[0].lower()
    if prefix in READERS and not Path(source).exists():
        found = _named(str(source), prefix, split, root, training=training, options=options)
    else:
        found = _local(Path(source), split, options)
    kind = Stream if isinstance(found, IterableDataset) else Images
    return kind(found, pipeline, training=training, classes=classes, augment=augment)


def _named(name: str, prefix: str, split: str | None, root: Any, *, training: bool, options: dict[str, Any]) -> Any:
    """A source that timm knows by name: a reader, a torchvision dataset, or a stream."""
    split = (
        {"val": "validation"}.get(split or "train", split or "train") if prefix.startswith("hf") else split or "train"
    )
    root = "data" if root is None and prefix == "torch" else root
    mode = "RGB" if prefix == "tfds" else ""  # "": leave the picture's mode alone, which timm's tfds reader can't
    try:
        made = create_dataset(name, root=root, split=split, is_training=training, input_img_mode=mode, **options)
    except REFUSALS as error:
        raise DataError(f"{name} (split {split!r}, root {root}): {error}") from error
    return made if isinstance(made, IterableDataset) else getattr(made, "reader", made)


def _local(path: Path, split: str | None, options: dict[str, Any]) -> Any:
    """timm's reader for a folder or a tar."""
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = near(path.name, siblings) or f"; {path.parent} holds {listing(sorted(siblings)) or 'nothing'}"
        raise DataError(f"no such folder or file: {path}{hint}")
    folder = _split_folder(path, split) if path.is_dir() else path
    if path.is_file():
        options = {"cache_tarfiles": False, **options}  # an open tar can't be shared with worker processes
    try:
        with _all_extensions():
            made: Any = create_dataset("", root=str(folder), search_split=False, **options)
    except REFUSALS as error:
        raise DataError(f"{folder} has no images ({' '.join(EXTENSIONS)}) to read: {_contents(folder)}") from error
    if "" in names_of(made.reader):
        raise DataError(f"{folder} has images outside of class folders: {_contents(folder)}; one sub-folder per class")
    return made.reader


@contextlib.contextmanager
def _all_extensions() -> Iterator[None]:
    """timm's readers also take TIFF, .npy and the like inside, without a change for the rest of the program."""
    before = get_img_extensions()
    add_img_extensions(EXTENSIONS)
    try:
        yield
    finally:
        set_img_extensions(before)


def splits(source: str | Path) -> dict[str, Path]:
    """The folders in ``source`` that hold a split: of train, val and test those that are there.

    Example:
        >>> splits("no/such/folder")
        {}
    """
    places = {split: [Path(source) / name for name in names] for split, names in SPLITS.items()}
    return {split: next(filter(Path.is_dir, there)) for split, there in places.items() if any(map(Path.is_dir, there))}


def _split_folder(root: Path, split: str | None) -> Path:
    """The split's folder, by timm's order of names; the root itself for None, or to train on where it has no splits."""
    if split is None:
        return root
    names = (split, *next((names for names in SPLITS.values() if split in names), ()))
    if found := next((root / name for name in names if (root / name).is_dir()), None):
        return found
    if split in SPLITS["train"] and not splits(root):
        return root
    raise DataError(
        f"{root} has no folder for split {split!r} (looked for {', '.join(dict.fromkeys(names))}): {_contents(root)}; "
        "make one, or pass split=None for the whole folder, or split the training images with petl.data.holdout"
    )


def _contents(path: Path) -> str:
    """What is there instead, for error messages: ``found 2 folders (cats, dogs) and 12 files (10 .gif, 2 .txt)``."""
    if path.is_file():
        return f"found a file of {path.stat().st_size} bytes" + ("" if path.suffix == ".tar" else ", not a .tar")
    folders = sorted(p.name for p in path.iterdir() if p.is_dir())
    kinds = collections.Counter(p.suffix.lower() or "without ending" for p in path.rglob("*") if p.is_file())
    files = listing(f"{count} {kind}" for kind, count in kinds.most_common())
    there = f" ({listing(folders)})" if folders else ""
    return f"found {len(folders)} folders{there} and {kinds.total()} files{f' ({files})' if files else ''}"


def image(path: str | Path, pipeline: Mapping[str, Any]) -> Tensor:
    """One file as the model takes it: float tensor [k, H, W] under the evaluation transform.

    Raises:
        DataError: The file doesn't exist, can't be read, or has channels that don't fit; it names the file.
    """
    try:
        return Transform(pipeline)(Path(path).read_bytes())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except DataError as error:
        raise type(error)(f"{path}: {error}") from error
