"""The file beside a delta, such as pets.history.json: the settings and history of its training, and which images it held out."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petl.errors import StateError
from petl.format.atomic_files import open_atomically
from petl.format.texts import json_text, parsed_json
from petl.training.history import History
from petl.training.settings import Settings
from petl.version import __version__


def run_file_beside(delta: str | Path) -> Path:
    """Returns the path of the run's file: ``pets.history.json`` for ``pets.safetensors``.

    >>> run_file_beside("runs/pets.safetensors").name
    'pets.history.json'
    """
    return Path(delta).with_name(Path(delta).name.removesuffix(".safetensors") + ".history.json")


def write_run_file(delta: str | Path, settings: Settings, history: History, split: Mapping[str, Any] | None) -> None:
    """Writes the run's file, whole or not at all.

    Raises:
        DeltaError: it can't be written.
    """
    values = {**vars(history), "rows": history.rows, "best": history.best}
    text = json_text(
        {
            "petl": __version__,
            "delta": Path(delta).name,
            "settings": settings_as_json(settings),
            "split": split,
            "history": values,
        },
        indent=1,
        default=_as_json,
    )
    with open_atomically(run_file_beside(delta)) as file:
        file.write(text.encode() + b"\n")


def settings_as_json(settings: Settings) -> dict[str, Any]:
    """Returns all settings as values that JSON has, under the names of ``fit``'s keyword arguments."""
    folder = settings.run.checkpoint
    plain = {name: _as_json(value) for name, value in settings.keywords().items()}
    return {**plain, "checkpoint": os.path.abspath(folder) if folder else None}


def _as_json(value: Any) -> Any:
    """Returns a setting as a value that JSON has."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.tolist() if hasattr(value, "tolist") else _name(value)


def _name(value: Any) -> str:
    """Returns the name of a function or class, else that of the object's class: no address, and no optimizer's many lines."""
    function = value.func if isinstance(value, functools.partial) else value
    return getattr(function, "__name__", type(function).__name__)


def read_run_file(delta: str | Path) -> dict[str, Any] | None:
    """Returns the content of the run's file beside a delta, or None where there is none, or it is no such file.

    Raises:
        StateError: it can't be read.
    """
    place = run_file_beside(delta)
    try:
        content = parsed_json(place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise StateError(f"{place} can't be read ({error}); move it away, or say which images: --split") from error
    return content if isinstance(content, dict) and isinstance(content.get("settings"), dict) else None


def recorded_split(run: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Returns the split in a run's file, or None where no images were held out."""
    split = (run or {}).get("split")
    return split if isinstance(split, dict) and isinstance(split.get("files"), dict) and split["files"] else None


def split_beside(delta: str | Path) -> dict[str, Any] | None:
    """Returns which images were held out of a delta's training, by the run's file, else by what `petl.start` left; or None.

    Raises:
        StateError: the run's file can't be read.
    """
    if (run := read_run_file(delta)) is not None:
        return recorded_split(run)
    try:
        content = parsed_json(Path(delta).with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # any file may have this name
    started = content.get("start") if isinstance(content, dict) else None
    return recorded_split({"split": started.get("held_out")}) if isinstance(started, dict) else None
