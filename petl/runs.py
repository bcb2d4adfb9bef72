"""What a training leaves beside its delta: its settings, its history, and which images were held out to measure it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from petl.data import Images, dataset, splits
from petl.errors import DataError, StateError
from petl.metrics import History
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
    """Write the run's file, whole or not at all."""
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
    with whole(beside(delta)) as part:
        Path(part).write_text(text + "\n", encoding="utf-8")


@contextlib.contextmanager
def whole(path: Path) -> Iterator[str]:
    """A name beside ``path`` to write to: what is written takes the place of ``path`` at the end, or never."""
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=".petl-", suffix=".part")
    os.close(handle)
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(part, path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
        os.replace(part, path)
    finally:
        Path(part).unlink(missing_ok=True)


def _settings(settings: Any) -> dict[str, Any]:
    plain = {f.name: _plain(getattr(settings, f.name)) for f in dataclasses.fields(settings)}
    return {**plain, "checkpoint": os.path.abspath(settings.checkpoint) if settings.checkpoint else None}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


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
    if getattr(train, "source", None) is None or getattr(val, "source", None) is not train.source:
        return None
    files = {name: mark(path) for name, path in names(val).items()}
    return {"held_out": len(files), "of": len(train) + len(val), "files": files}


def names(images: Any) -> dict[str, Path]:
    """The images' names under the folder (or in the archive) that they come from, with their paths, in order."""
    inner = getattr(images.source, "filename", None)
    found = {}
    for position, place in enumerate(images.indices.tolist()):
        path = images.filename(position)
        found[Path(str(inner(place))).as_posix() if inner else path] = Path(path)
    return found


def mark(path: Path) -> str | None:
    """What tells a file from another of the same name; None for what is no file of its own."""
    try:
        with path.open("rb") as file:
            start = file.read(START)
            return f"{os.fstat(file.fileno()).st_size}-{hashlib.blake2b(start, digest_size=6).hexdigest()}"
    except OSError:
        return None


def same_images(images: Any, split: Mapping[str, Any]) -> list[int] | None:
    """The positions in ``images`` of those that the run held out; None where these are other images.

    Raises:
        StateError: some of them have changed or gone since.
    """
    there, files = names(images), split["files"]
    same = [name for name, then in files.items() if name in there and mark(there[name]) == then]
    if not same:
        return None
    if len(same) < len(files):
        raise StateError(
            f"{len(files) - len(same)} of the {len(files)} images that the training held out have changed or gone since; "
            "--split all measures every image that is there"
        )
    places = {name: position for position, name in enumerate(there)}
    return [places[name] for name in same]


def to_measure(
    delta: str | Path, source: str, pipeline: Mapping[str, Any], *, split: str | None, **options: Any
) -> tuple[Any, str]:
    """The images of ``source`` that ``petl eval`` measures, and which these are, in words.

    ``split`` is a split's or folder's name, "held-out" (of the training) or "all"; None is ``val``, else those that the
    training held out, else all where the source has no splits.

    Raises:
        DataError, StateError: there are no such images, or it can't be known which are meant.
    """
    if split not in (None, HELD, ALL):
        return dataset(source, pipeline, split=split, **options), f"split {split} of {source}"
    there = splits(source)
    if split is None and "val" in there:
        return dataset(source, pipeline, split="val", **options), f"{there['val']}"
    if split != ALL and (found := _held(delta, source, pipeline, options)):
        return found, f"the {len(found)} images of {source} that the training held out"
    if split == HELD:
        raise StateError(
            f"no image of {source} was held out of the training, by what {beside(delta)} says (if it is there)"
        )
    if split is None and there:
        raise DataError(f"{source} has {' and '.join(there)}; say which to measure, such as --split {[*there][-1]}")
    return dataset(source, pipeline, split=None, **options), f"all of {source}"


def _held(delta: str | Path, source: str, pipeline: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """The images that were held out of the training of ``delta``, if ``source`` is what it was trained on."""
    split = kept_apart(read_run(delta))
    if split is None:
        return None
    images = dataset(source, pipeline, split="train", **options)
    positions = same_images(images, split) if isinstance(images, Images) else None
    return images.part(positions, training=False) if isinstance(images, Images) and positions else None
