"""Checks the files that a command will write before its work: nothing is replaced unasked, and the disk takes them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from petl.errors import PetlError, StateError
from petl.format.atomic_files import open_atomically
from petl.training.checkpoints import newest_checkpoint
from petl.training.run_file import read_run_file, run_file_beside


def destination(name: str, *, inputs: Sequence[str | Path] = (), overwrite: bool = False) -> Path:
    """Returns the file to write, or raises an error: for an address, a folder, an input under any name, an existing file."""
    from petl.addresses.local_file import file_to_write

    path = file_to_write(name)
    if name.endswith(("/", os.sep)) or _ask_file_system(path.is_dir):
        raise StateError(f"{name!r} is a folder's name; give a file's, such as {path / 'delta.safetensors'}")
    if same := next((other for other in inputs if _is_same_file(path, Path(other))), None):
        raise StateError(f"{name} and {same} are one file; the input stays as it is: name another file for the output")
    if not _ask_file_system(lambda: os.path.lexists(path)):
        if above := next((folder for folder in path.parents if folder.exists() and not folder.is_dir()), None):
            raise StateError(f"{name}: {above} is a file, no folder; name another place")
        return path
    if path.exists() and not path.is_file():
        raise StateError(f"{name} is no ordinary file; name one")
    if not overwrite:
        raise StateError(f"{name} exists; name another file, or pass --overwrite to replace it")
    return path


def _ask_file_system(question: Callable[[], bool]) -> bool:
    """Returns what the file system says about a name, or raises a StateError for one that no file can have (with a NUL, say)."""
    try:
        return question()
    except (OSError, ValueError) as error:
        raise StateError(f"no file can have this name: {error}") from error


def _is_same_file(one: Path, other: Path) -> bool:
    """Returns whether both names lead to one file: through links of either kind, ``./``, or another case."""
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return False


def try_writing(path: Path, write: Callable[[Path], object]) -> None:
    """Writes to a temporary folder beside ``path``: a full disk or a folder without permission is noticed before the work."""
    make_parent(path)
    with _as_state_error(path), tempfile.TemporaryDirectory(dir=path.parent, prefix=".petl-") as trial:
        place = Path(trial) / path.name
        try:
            write(place)
        except PetlError as error:
            raise type(error)(str(error).replace(str(place), str(path))) from error


def new_file(name: str, *, inputs: Sequence[str | Path] = (), overwrite: bool = False) -> Path:
    """Returns the file to write, as `destination` does, after the place has taken an empty one."""
    path = destination(name, inputs=inputs, overwrite=overwrite)
    try_writing(path, Path.touch)
    return path


def write_text(path: Path, text: str) -> None:
    """Writes what was found to a file, whole or not at all; one of this name that nobody may change gives way to it."""
    with _as_state_error(path), open_atomically(path) as file:
        file.write(text.encode())


def make_parent(path: Path) -> None:
    """Creates the folder that ``path`` is in."""
    with _as_state_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def _as_state_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # its reason alone: it names a file of ours
        raise StateError(f"can't write {path}: {error.strerror or error}") from error


def training_output(name: str, options: Mapping[str, Any], *, inputs: Sequence[str | Path], overwrite: bool) -> Path:
    """Returns the delta to write, or raises a StateError if it, its history or a checkpoint would replace another run's."""
    resumed = _resumed_folder(options)
    again = overwrite or (resumed is not None and _of_that_run(name, resumed))
    path = destination(name, inputs=inputs, overwrite=again)
    destination(str(run_file_beside(path)), overwrite=again)
    if place := options.get("checkpoint"):
        found = newest_checkpoint(Path(place))
        if found and not overwrite and not (resumed and _is_same_file(Path(place), resumed)):
            raise StateError(
                f"{found} is an earlier run's: --fit resume=true goes on from it, --overwrite starts again, and another "
                "folder keeps both"
            )
        try_writing(Path(place) / "trial", Path.touch)
    return path


def _resumed_folder(options: Mapping[str, Any]) -> Path | None:
    """Returns the folder whose checkpoint this training resumes, if there is one."""
    resume = options.get("resume")
    place = options.get("checkpoint") if resume is True else resume
    return Path(place) if place and newest_checkpoint(Path(place)) else None


def _of_that_run(delta: str, resumed: Path) -> bool:
    """Returns whether the existing delta comes from the run with these checkpoints."""
    try:
        then = (read_run_file(delta) or {"settings": {}})["settings"].get("checkpoint")
    except StateError:
        return False
    return bool(then) and _is_same_file(Path(then), resumed)
