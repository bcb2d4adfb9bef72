"""Which images a training held out for validation: noted when it starts, found again by ``petl eval``."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petl.data.datasets import Images
from petl.data.sources import READERS, dataset
from petl.data.split_folders import held_out as apart
from petl.data.split_folders import splits
from petl.data.table_sources import is_image_table
from petl.data.wrappers import innermost_datasets, locate, petl_datasets
from petl.errors import DataError, StateError
from petl.training.run_file import run_file_beside, split_beside

HELD_OUT, ALL_IMAGES = "held-out", "all"  # words for --split beside the names of splits
FIRST_BYTES = 4096  # bytes of an image that, with its size, tell whether it is still the same


def held_out_files(train: Any, val: Any) -> dict[str, Any] | None:
    """Returns which images of the training's source were held out, or None if the validation images are of another source.

    ``{"held_out": 20, "of": 100, "files": {name: checksum}}``.
    """
    of_train, of_val = petl_datasets(train), petl_datasets(val)
    known = all(isinstance(one, Images) and any(one.source is other.source for other in of_train) for one in of_val)
    if not of_val or not known or any(one not in of_val for one in innermost_datasets(val)):
        return None
    if _source_numbers(train) & _source_numbers(val):
        return None  # it measures what it trains on
    marks = {image_name(*at): image_checksum(*at) for at in _places(val)}
    files = {file: one for file, one in marks.items() if one}  # a broken link, say, isn't measured anyhow
    return {"held_out": len(files), "of": len(files) + len(train), "files": files}


def _places(data: Any) -> list[tuple[Images, int]]:
    return [locate(data, index) for index in range(len(data))]


def _source_numbers(data: Any) -> set[int]:
    """Returns the numbers of the images in their source, which is one and the same here."""
    return {int(images.indices[index]) for images, index in _places(data) if isinstance(images, Images)}


def image_name(images: Images, index: int) -> str:
    """Returns an image's name under the folder (or in the archive) that it comes from, or its number where it has no name."""
    number = int(images.indices[index])
    inner = getattr(images.source, "filename", None)
    return Path(str(inner(number))).as_posix() if inner else str(number)


def _class_and_file(path: str) -> str:
    """Returns the last two parts of a path: those before them depend on whether the folder or the split in it was named."""
    return "/".join(path.split("/")[-2:])


def image_checksum(images: Images, index: int) -> str:
    """Returns what tells an image from another of the same name: of a file its size and start, of anything else its numbers.

    It is "" for an image that can't be read.
    """
    try:
        path = Path(images.filename(index))
        if path.is_file():
            with path.open("rb") as file:
                start = file.read(FIRST_BYTES)
                return f"{os.fstat(file.fileno()).st_size}-{_digest(start)}"
        image = images.source[int(images.indices[index])][0]
        if hasattr(image, "read"):
            with image as file:
                image = file.read()
        return _digest(image.tobytes() if hasattr(image, "tobytes") else bytes(image))
    except (OSError, DataError):
        return ""


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=6).hexdigest()


def find_held_out(images: Images, split: Mapping[str, Any]) -> list[int] | None:
    """Returns the positions in ``images`` of those that the run held out, or None where none of them is there.

    Raises:
        StateError: some of them have changed or gone since.
    """
    files, there = split["files"], defaultdict(list)
    for index in range(len(images)):
        there[_class_and_file(image_name(images, index))].append(index)
    found = {
        one: next((i for i in there[_class_and_file(one)] if image_checksum(images, i) == then), None)
        for one, then in files.items()
    }
    same = [index for index in found.values() if index is not None]
    if not same:
        return None
    if len(same) < len(files):
        raise StateError(
            f"only {len(same)} of the {len(files)} images that the training held out are there as they were; "
            f"--split {ALL_IMAGES} measures every image that is there"
        )
    return same


def images_to_measure(
    delta: str | Path, source: str, pipeline: Mapping[str, Any], *, split: str | None, **options: Any
) -> tuple[Any, str]:
    """Returns the images of ``source`` that ``petl eval`` measures, and a description of them.

    ``split`` is a split's or folder's name, "held-out" (of the training) or "all"; None is ``val``, else those that the
    training held out, else ``test``, else all where the source has no splits.

    Raises:
        DataError, StateError: there are no such images, or it can't be known which are meant.
    """
    try:
        there = {} if split == "." else splits(source, **options)
    except DataError:  # classes may be called like splits; those that a training held out are known by their names
        found = _held_out_of_training(delta, source, pipeline, options, ".") if split in (None, HELD_OUT) else None
        if found is None:
            raise
        return found, f"the {len(found)} images of {source} that the training held out"
    return _measured(delta, source, pipeline, split, there, options)


def _measured(
    delta: str | Path,
    source: str,
    pipeline: Mapping[str, Any],
    split: str | None,
    there: Mapping[str, Path],
    options: Mapping[str, Any],
) -> tuple[Any, str]:
    """Returns the images that `images_to_measure` does, of a source whose splits are known."""
    if split is None and "val" not in there and _has_reader(source):
        split = "val"
    if (
        split in (None, HELD_OUT)
        and (split or "val" not in there)
        and (found := _held_out_of_training(delta, source, pipeline, options))
    ):
        return found, f"the {len(found)} images of {source} that the training held out"
    if split == HELD_OUT:
        raise StateError(
            f"{source} has no images that the training held out, by what {run_file_beside(delta)} says (if it is there)"
        )
    if split in (None, ALL_IMAGES):
        split = (None if there else ".") if split == ALL_IMAGES else apart(source, **options) or "."
    images = dataset(source, pipeline, split=split, **options)
    if split in (None, "."):
        return images, f"all of {source}"
    return images, f"{split} of {source}" if is_image_table(source) else str(there.get(split, f"{split} of {source}"))


def _has_reader(source: str) -> bool:
    """Returns whether the source is a name such as torch/cifar10, whose reader knows the splits."""
    return source.partition("/")[0].lower() in READERS and not Path(source).exists()


def _held_out_of_training(
    delta: str | Path, source: str, pipeline: Mapping[str, Any], options: Mapping[str, Any], taken: str = "train"
) -> Any:
    """Returns the images that were held out of the training of ``delta``, or None if it was trained on another source.

    ``taken`` is the split that is looked through: "." is the folder as it is.
    """
    split = split_beside(delta)
    there = {} if taken == "." else splits(source, **options)
    if split is None or (there and "train" not in there):
        return None
    images = dataset(source, pipeline, split=taken, **options)
    positions = find_held_out(images, split) if isinstance(images, Images) else None
    return images.part(positions, training=False) if isinstance(images, Images) and positions else None
