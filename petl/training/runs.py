"""What a training leaves beside its delta: its settings, its history, and which images were held out to measure it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petl.data.datasets import Images
from petl.data.sources import READERS, dataset
from petl.data.split_folders import held_out as apart
from petl.data.split_folders import splits
from petl.data.wrappers import innermost_datasets, locate, petl_datasets
from petl.errors import DataError, StateError
from petl.format.tensorfile import replacing
from petl.training.metrics import History
from petl.version import __version__

HELD, ALL = "held-out", "all"  # words for --split beside the names of splits
START = 4096  # bytes of an image that, with its size, tell whether it is still the same


def beside(delta: str | Path) -> Path:
    """The name of the run's file: ``pets.history.json`` for ``pets.safetensors``.

    >>> beside("runs/pets.safetensors").name
    'pets.history.json'
    """
    return Path(delta).with_name(Path(delta).name.removesuffix(".safetensors") + ".history.json")


def note_run(delta: str | Path, settings: Any, history: History, split: Mapping[str, Any] | None) -> None:
    """Write the run's file, whole or not at all.

    Raises:
        DeltaError: it can't be written.
    """
    story = {**vars(history), "rows": history.rows, "best": history.best}
    text = json.dumps(
        {
            "petl": __version__,
            "delta": Path(delta).name,
            "settings": _settings(settings),
            "split": split,
            "history": story,
        },
        indent=1,
        default=_plain,
    )
    with replacing(beside(delta)) as file:
        file.write(text.encode() + b"\n")


def _settings(settings: Any) -> dict[str, Any]:
    plain = {f.name: _plain(getattr(settings, f.name)) for f in dataclasses.fields(settings)}
    return {**plain, "checkpoint": os.path.abspath(settings.checkpoint) if settings.checkpoint else None}


def _plain(value: Any) -> Any:
    """A setting as JSON has it."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else getattr(value, "__name__", str(value))


def read_run(delta: str | Path) -> dict[str, Any] | None:
    """The run's file beside a delta, or None where there is none, or one that isn't this delta's.

    Raises:
        StateError: it can't be read.
    """
    place = beside(delta)
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise StateError(f"{place} can't be read ({error}); move it away, or say which images: --split") from error
    return found if isinstance(found, dict) and isinstance(found.get("settings"), dict) else None


def kept_apart(run: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The split that a run noted, where it held images out."""
    split = (run or {}).get("split")
    return split if isinstance(split, dict) and isinstance(split.get("files"), dict) and split["files"] else None


def held_out(train: Any, val: Any) -> dict[str, Any] | None:
    """Which images of one source were kept for validation; None where the validation images are another source's."""
    theirs, ours = petl_datasets(train), petl_datasets(val)
    known = all(isinstance(one, Images) and any(one.source is other.source for other in theirs) for one in ours)
    if not ours or not known or any(one not in ours for one in innermost_datasets(val)):
        return None
    if _numbers(train) & _numbers(val):
        return None  # it measures what it trains on
    marks = {name(*at): mark(*at) for at in _places(val)}
    files = {file: one for file, one in marks.items() if one}  # a broken link, say, isn't measured anyhow
    return {"held_out": len(files), "of": len(files) + len(train), "files": files}


def _places(data: Any) -> list[tuple[Images, int]]:
    return [locate(data, index) for index in range(len(data))]


def _numbers(data: Any) -> set[int]:
    """Of the images in their source; petl's own are all of one here."""
    return {int(images.indices[index]) for images, index in _places(data) if isinstance(images, Images)}


def name(images: Images, index: int) -> str:
    """An image's name under the folder (or in the archive) that it comes from; its number where it has none."""
    number = int(images.indices[index])
    inner = getattr(images.source, "filename", None)
    return Path(str(inner(number))).as_posix() if inner else str(number)


def _tail(path: str) -> str:
    """Class and file: what is before them depends on whether the folder or the split in it was named."""
    return "/".join(path.split("/")[-2:])


def mark(images: Images, index: int) -> str:
    """What tells an image from another of the same name: of a file its size and start, of anything else its numbers.

    "" for one that can't be read.
    """
    try:
        path = Path(images.filename(index))
        if path.is_file():
            with path.open("rb") as file:
                start = file.read(START)
                return f"{os.fstat(file.fileno()).st_size}-{_digest(start)}"
        picture = images.source[int(images.indices[index])][0]
        if hasattr(picture, "read"):
            with picture:
                return _digest(picture.read())
        return _digest(picture.tobytes() if hasattr(picture, "tobytes") else bytes(picture))
    except (OSError, DataError):
        return ""


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=6).hexdigest()


def same_images(images: Images, split: Mapping[str, Any]) -> list[int] | None:
    """The positions in ``images`` of those that the run held out; None where these are other images.

    Raises:
        StateError: some of them have changed or gone since.
    """
    files, there = split["files"], defaultdict(list)
    for index in range(len(images)):
        there[_tail(name(images, index))].append(index)
    found = {one: next((i for i in there[_tail(one)] if mark(images, i) == then), None) for one, then in files.items()}
    same = [index for index in found.values() if index is not None]
    if not same:
        return None
    if len(same) < len(files):
        raise StateError(
            f"only {len(same)} of the {len(files)} images that the training held out are there as they were; "
            f"--split {ALL} measures every image that is there"
        )
    return same


def to_measure(
    delta: str | Path, source: str, pipeline: Mapping[str, Any], *, split: str | None, **options: Any
) -> tuple[Any, str]:
    """The images of ``source`` that ``petl eval`` measures, and which these are, in words.

    ``split`` is a split's or folder's name, "held-out" (of the training) or "all"; None is ``val``, else those that the
    training held out, else ``test``, else all where the source has no splits.

    Raises:
        DataError, StateError: there are no such images, or it can't be known which are meant.
    """
    there = splits(source)
    if split is None and "val" not in there and _is_named(source):
        split = "val"
    if split in (None, HELD) and (split or "val" not in there) and (found := _held(delta, source, pipeline, options)):
        return found, f"the {len(found)} images of {source} that the training held out"
    if split == HELD:
        raise StateError(
            f"{source} has no images that the training held out, by what {beside(delta)} says (if it is there)"
        )
    if split in (None, ALL):
        split = (None if there else ".") if split == ALL else apart(source) or "."
    images = dataset(source, pipeline, split=split, **options)
    return images, f"all of {source}" if split in (None, ".") else str(there.get(split, f"{split} of {source}"))


def _is_named(source: str) -> bool:
    """Whether it is a name such as torch/cifar10, whose reader knows the splits."""
    return source.partition("/")[0].lower() in READERS and not Path(source).exists()


def _held(delta: str | Path, source: str, pipeline: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """The images that were held out of the training of ``delta``, if ``source`` is what it was trained on."""
    split = kept_apart(read_run(delta))
    there = splits(source)
    if split is None or (there and "train" not in there):
        return None
    images = dataset(source, pipeline, split="train", **options)
    positions = same_images(images, split) if isinstance(images, Images) else None
    return images.part(positions, training=False) if isinstance(images, Images) and positions else None
