"""Makes datasets of a folder, a tar, a table, or a source that timm knows by name (``torch/cifar10``, ``hfds/...``)."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from timm.data.dataset_factory import create_dataset
from torch import Tensor
from torch.utils.data import IterableDataset

from petl.data.class_folders import ClassFrom
from petl.data.datasets import Images
from petl.data.decoding import open_file
from petl.data.readers import existing_path, make_reader
from petl.data.split_folders import splits
from petl.data.split_names import split_of
from petl.data.streams import Stream
from petl.data.table_sources import is_image_table, table_reader
from petl.data.transforms import Augment, Transform
from petl.errors import DataError, listing

READERS = ("torch", "hfds", "hfids", "tfds", "wds")
READER_ERRORS = (ImportError, AssertionError, RuntimeError, ValueError, TypeError, OSError, tarfile.TarError)


def dataset(
    source: Any,
    pipeline: Mapping[str, Any],
    *,
    split: str | None = "train",
    training: bool = False,
    classes: Sequence[str] | None = None,
    class_from: ClassFrom | None = None,
    root: str | Path | None = None,
    augment: Augment = None,
    transform: Callable[..., Any] | None = None,
    **options: Any,
) -> Images | Stream:
    """Returns a dataset of pairs (image float [k, H, W], target), with ``.classes``: names in the order of their numbers.

    Args:
        source: A folder of class folders (or of splits such as ``train`` and ``val`` with class folders in them), a ``.tar`` of
            the same, or a name as timm has them: ``torch/cifar10``, ``hfds/owner/name``, ``wds/name``. Or a table: a ``.csv``,
            ``.tsv``, ``.jsonl`` or ``.parquet`` file, a DataFrame, a list of pairs (path, label), of dicts, or of paths with
            ``labels=``, a Dataset or DatasetDict of Hugging Face.
        pipeline: From `petl.data.pipeline`; its number of channels decides how images are read.
        split: ``train``, ``val`` or ``test``, which find folders of any such name (``Training``, ``TEST``, ``val2017``,
            ``test_set``), or a sub-folder's path. None takes all splits that there are together; "." takes the folder as it
            is, every folder in it being a class, whatever its name.
        training: timm's random crops and flips rather than the evaluation crop.
        classes: Names that fix the numbers, such as the training set's; a class that isn't among them is an error.
        class_from: Which folder names the class, where there are folders in class folders: the "first" under the split, the
            whole "path" (``church/outdoor``), or the "last" (timm's reading). None is the first, unless ``classes`` says
            otherwise; where one name occurs in several class folders, it is an error that shows both readings.
        augment: Options for `timm.data.create_transform` in training, such as ``{"hflip": 0.0}``; False for none at all: training
            images are cropped as at evaluation.
        transform: A transform of one's own for these images, in place of timm's augmentation: torchvision's v2, albumentations,
            or any function of an image (PIL for 8 bits, else a float tensor of 0..1) that returns one (PIL, uint8, or floats of
            0..1). The model's resize and crop, if it has another size, and normalisation follow. `holdout` leaves it to the
            training images.
        root: Where relative paths in a table start (else the table's folder), and where named sources keep their files
            (``torch/...``: "data"; ``wds/...``: the folder of shards).
        options: For tables, which column is what: ``path``, and one of ``label`` (names or numbers of classes), ``labels`` (one
            column with several in a cell, split at ``separator``, or a list of columns of 0 and 1) and ``targets`` (numbers,
            for a regression); ``group``, ``weight``, ``split_column``, or all of them in a dict ``columns``; ``encoding``.
            Columns with usual names are found without. For lists of paths, ``labels``, ``targets``, ``group``, ``weight`` and
            ``split_column`` are the values themselves. For others, more for `timm.data.create_dataset`: ``download``,
            ``target_key``, ``num_samples`` ...; ``class_map`` and ``input_key`` for folders and tars.

    Hidden files and those that systems leave behind are skipped, every format that PIL opens is taken, and ``.npy``. What is
    left out is counted in a warning (logger ``petl``). For files that can't be read, and for what targets are, see `Images`.

    Raises:
        DataError: No such folder or split, no images, no class folders, unknown classes, folders that can be read in two ways;
            a table without the columns, with empty or odd cells, or files that aren't there; it says what was found.
    """
    prefix = str(source).partition("/")[0].lower() if isinstance(source, (str, Path)) else ""
    if is_image_table(source):
        read: Any = table_reader(source, split=split, classes=classes, root=root, options=options)
    elif not isinstance(source, (str, Path)):
        raise DataError(
            f"got a {type(source).__name__} to read images from; expected a folder, a table, or a list of images"
        )
    elif prefix in READERS and not Path(source).exists():
        read = _named_source(str(source), prefix, split, root, training=training, options=options)
    else:
        read = make_reader(
            existing_path(Path(source)), split=split, class_from=class_from, classes=classes, options=options
        )
    kind = Stream if isinstance(read, IterableDataset) else Images
    return kind(read, pipeline, training=training, classes=classes, augment=augment, transform=transform)


def _named_source(
    name: str, prefix: str, split: str | None, root: Any, *, training: bool, options: dict[str, Any]
) -> Any:
    """Returns a source that timm knows by name: a reader, a dataset of torchvision's, or a stream."""
    if prefix == "torch" and name.partition("/")[2].lower() in ("image_folder", "folder") and root is not None:
        root, options = _torch_folder(existing_path(Path(root)), split), {"search_split": False, **options}
    split = (
        {"val": "validation"}.get(split or "train", split or "train") if prefix.startswith("hf") else split or "train"
    )
    root = "data" if root is None and prefix == "torch" else root
    mode = "RGB" if prefix == "tfds" else ""  # "": keep the image's mode, which timm's tfds reader can't
    try:
        source = create_dataset(name, root=root, split=split, is_training=training, input_img_mode=mode, **options)
    except READER_ERRORS as error:
        raise DataError(f"{name} (split {split!r}, root {root}): {error}") from error
    return source if isinstance(source, IterableDataset) else getattr(source, "reader", source)


def _torch_folder(root: Path, split: str | None) -> Path:
    """Returns the split's folder for torchvision's ImageFolder, which would take splits for classes."""
    folders = splits(root)
    wanted = split_of(split or "train") or split
    if not folders or split == ".":
        return root
    if wanted not in folders:
        raise DataError(
            f"{root} has no folder for split {split!r}; its splits are {listing(p.name for p in folders.values())}"
        )
    return folders[wanted]


def image(path: str | Path, pipeline: Mapping[str, Any]) -> Tensor:
    """Returns one image file as the model takes it: a float tensor [k, H, W], after the evaluation transform.

    Raises:
        DataError: the file doesn't exist, can't be read, or has channels that don't fit; it names the file.
    """
    try:
        with open_file(path) as file:
            return Transform(pipeline)(file.read())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except DataError as error:
        raise type(error)(f"{path}: {error}") from error
