"""Entries of the feature cache: damaged ones are computed anew, full disks are told, other runs and other people's files stay."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from petl.errors import DataError, StateError
from petl.extraction.entry import ENTRY_FILES
from petl.extraction.npy_writer import StorageError
from petl.extraction.store import Store
from tests.support.disk import small_files

COUNT = 6
WANTED = torch.arange(COUNT * 5).reshape(COUNT, 5).float(), torch.tensor([0, 1, 2, 3, 0, 1])


def parts() -> Iterator[tuple[Tensor, Tensor]]:
    yield WANTED[0][:4], WANTED[1][:4]
    yield WANTED[0][4:], WANTED[1][4:]


def never() -> Iterator[tuple[Tensor, Tensor]]:
    raise AssertionError("computed although it is there")
    yield


def made(folder: Path) -> Path:
    Store(folder, 1e6).get_or_compute({"k": 1}, COUNT, parts())
    return next(path for path in folder.iterdir() if path.name[0] != ".")


def whole(found: tuple[Tensor, Tensor]) -> bool:
    return torch.equal(found[0], WANTED[0]) and torch.equal(found[1], WANTED[1])


def flipped(name: str, at: int) -> Callable[[Path], Any]:
    def spoil(place: Path) -> None:
        data = bytearray((place / name).read_bytes())
        data[at] ^= 1
        (place / name).write_bytes(data)

    return spoil


def about(**fields: Any) -> Callable[[Path], Any]:
    def spoil(place: Path) -> None:
        text = (place / "about.json").read_text()
        (place / "about.json").write_text(json.dumps({**json.loads(text), **fields}))

    return spoil


def texts(data: bytes) -> Callable[[Path], Any]:
    return lambda place: (place / "about.json").write_bytes(data)


def array(values: Any, name: str = "features.npy", **options: Any) -> Callable[[Path], Any]:
    return lambda place: np.save(place / name, values, **options)


def instead(make: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def spoil(place: Path) -> None:
        (place / "features.npy").unlink()
        make(place / "features.npy")

    return spoil


DAMAGE: dict[str, Callable[[Path], Any]] = {
    **{f"bit {at} of {name}": flipped(name, at) for name in ENTRY_FILES for at in (0, 9, 60, -1)},
    **{f"end of {n}": lambda place, n=n: os.truncate(place / n, (place / n).stat().st_size - 3) for n in ENTRY_FILES},
    **{f"more in {n}": lambda place, n=n: (place / n).open("ab").write(b"xx") for n in ENTRY_FILES},
    **{f"nothing in {n}": lambda place, n=n: os.truncate(place / n, 0) for n in ENTRY_FILES},
    **{
        f"zeros in {n}": lambda place, n=n: (place / n).write_bytes(bytes((place / n).stat().st_size))
        for n in ENTRY_FILES
    },
    **{f"no {n}": lambda place, n=n: (place / n).unlink() for n in ENTRY_FILES},
    "type int32": about(dtype="int32"),
    "type load": about(dtype="load"),
    "type 5": about(dtype=5),
    "no sums": about(sums=None),
    "a list": texts(b"[1]"),
    "null": texts(b"null"),
    "deep": texts(b"[" * 100_000),
    "no text": texts(b"\xff\xfe\x00"),
    "another shape": array(np.zeros((5, 6), np.float32)),
    "another order": array(np.zeros((6, 5), np.float32, order="F")),
    "another type": array(np.zeros((6, 5), np.float64)),
    "objects": array(np.array([{}] * 6, dtype=object), allow_pickle=True),
    "other labels": array(np.zeros(6, np.int64), "targets.npy"),
    "fewer labels": array(np.zeros(5, np.int64), "targets.npy"),
    "a pipe": instead(os.mkfifo),
    "a folder": instead(Path.mkdir),
    "a link to itself": instead(lambda path: path.symlink_to(path.name)),
    "a link elsewhere": instead(lambda path: path.symlink_to("/dev/zero")),
    "an empty folder": lambda place: [path.unlink() for path in place.iterdir()],
}


@pytest.mark.parametrize("spoil", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_computed_anew_and_kept_again(spoil: Callable[[Path], Any], tmp_path: Path) -> None:
    spoil(made(tmp_path))
    store = Store(tmp_path, 1e6)
    assert whole(store.get_or_compute({"k": 1}, COUNT, parts()))
    assert store.reused == 0
    again = Store(tmp_path, 1e6)
    assert whole(again.get_or_compute({"k": 1}, COUNT, never()))
    assert len([*tmp_path.iterdir()]) == 1


def test_what_the_model_no_longer_gives_is_computed_anew(tmp_path: Path) -> None:
    made(tmp_path)
    store = Store(tmp_path, 1e6)
    other = [(WANTED[0] + 1, WANTED[1])]
    assert torch.equal(store.get_or_compute({"k": 1}, COUNT, other, is_valid=lambda found: False)[0], WANTED[0] + 1)
    assert torch.equal(
        Store(tmp_path, 1e6).get_or_compute({"k": 1}, COUNT, never(), is_valid=lambda found: True)[0], WANTED[0] + 1
    )


def test_other_peoples_files_stay(tmp_path: Path) -> None:
    """In an entry, in a folder with an entry's name, in one that looks unfinished; also where room has to be made."""
    place = made(tmp_path)
    (place / "thesis.txt").write_text("years")
    (tmp_path / ("0" * 32)).mkdir()
    (tmp_path / ("0" * 32) / "about.json").write_text("{}")
    (tmp_path / ("1" * 32)).write_text("a file")
    (tmp_path / ".part-12345678").mkdir()
    (tmp_path / ".part-12345678" / "mine.npy").write_text("mine")
    before = {
        path: path.read_text() for path in tmp_path.rglob("*") if path.is_file() and path.name not in ENTRY_FILES[1:]
    }
    (place / "targets.npy").write_bytes(b"")
    assert whole(Store(tmp_path, 1e6).get_or_compute({"k": 1}, COUNT, parts()))
    assert whole(Store(tmp_path, 1e6).get_or_compute({"k": 1}, COUNT, never()))
    Store(tmp_path, 1000).evict(1000)
    assert not (place / "features.npy").exists()
    del before[place / "about.json"]
    assert {path: path.read_text() for path in before} == before


def test_what_is_no_folder_is_in_the_way(tmp_path: Path) -> None:
    place = made(tmp_path)
    shutil.rmtree(place)
    for make in (lambda: place.write_text("mine"), lambda: place.symlink_to("nowhere")):
        make()
        with pytest.raises(StateError, match="is no folder, and has the name of an entry"):
            Store(tmp_path, 1e6).get_or_compute({"k": 1}, COUNT, never())
        assert os.path.lexists(place)
        place.unlink()


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "file/x", "file"], ids=["long", "nul", "in a file", "a file"])
def test_folders_that_cannot_be(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="features can't be kept in"):
        Store(tmp_path / name, 1e6)


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Inside, the process may do what anybody may: root may do everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_closed_folders(mode: int) -> None:
    with tempfile.TemporaryDirectory() as outer:
        os.chmod(outer, 0o755)
        place = Path(outer) / "closed"
        made(place)
        place.chmod(mode)
        with nobody(), pytest.raises(StorageError, match="Permission denied"):
            Store(place, 1e6).get_or_compute({"k": 2}, COUNT, parts(), needed=100)
        place.chmod(0o755)
        assert len([*place.iterdir()]) == 1


@pytest.mark.parametrize("allocates", [True, False])
@pytest.mark.parametrize("kept", [True, False])
def test_a_full_disk(kept: bool, allocates: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With place taken before, nothing is computed after the first batch; without, a write fails; nowhere is a signal."""
    if not allocates:
        monkeypatch.delattr(os, "posix_fallocate")
    computed = []

    def rows() -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(4):
            computed.append(1)
            yield torch.zeros(1, 40), torch.zeros(1, dtype=torch.int64)

    wanted = "can't be written.* cache= a folder on a disk with more room"
    # inside the test: pytest's own output may be a longer file
    with small_files(400), pytest.raises(StorageError, match=wanted):
        Store(tmp_path if kept else None, 1e6).get_or_compute({}, 4, rows())
    assert len(computed) == (1 if allocates else 2)
    assert not [*tmp_path.iterdir()]


def test_another_number_of_images(tmp_path: Path) -> None:
    for count in (5, 7):
        with pytest.raises(DataError, match="images, "):
            Store(tmp_path, 1e6).get_or_compute({}, count, parts())
    assert not [*tmp_path.iterdir()]


def test_two_runs_at_one_entry(tmp_path: Path) -> None:
    """Both compute it; the second finds the first one's there, and neither takes the other's away."""
    place = None

    def slow() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal place
        yield WANTED[0][:4], WANTED[1][:4]
        place = made(tmp_path) if place is None else place
        yield WANTED[0][4:], WANTED[1][4:]

    assert whole(Store(tmp_path, 1e6).get_or_compute({"k": 1}, COUNT, slow()))
    assert place is not None
    inode = (place / "features.npy").stat().st_ino
    assert whole(Store(tmp_path, 1e6).get_or_compute({"k": 1}, COUNT, never()))
    assert (place / "features.npy").stat().st_ino == inode


def test_many_runs_that_make_room_for_themselves(tmp_path: Path) -> None:
    def run(number: int) -> bool:
        for key in range(8):
            store = Store(tmp_path, 2000)
            rows = WANTED[0] + (key + number) % 4
            found = store.get_or_compute({"k": (key + number) % 4}, COUNT, [(rows, WANTED[1])], needed=600)
            if not torch.equal(found[0], rows):
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(4)))


KILLED = f"""
    import os, signal, sys, torch
    from {Store.__module__} import {Store.__name__} as Store
    def parts():
        yield torch.zeros(4, 5), torch.zeros(4, dtype=torch.int64)
        os.kill(os.getpid(), signal.SIGKILL)
    Store(sys.argv[1] or None, 1e6).get_or_compute({{}}, 6, parts())
"""


@pytest.mark.deep
@pytest.mark.parametrize("kept", [True, False])
def test_a_killed_run_leaves_nothing_for_ever(kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run removes its part; those of runs that live stay. Temporary features have no names from the beginning."""
    folder = str(tmp_path) if kept else ""
    command = [sys.executable, "-c", textwrap.dedent(KILLED), folder]
    done = subprocess.run(command, env={**os.environ, "TMPDIR": str(tmp_path)}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len([*tmp_path.iterdir()]) == 1
    assert kept or not [path for path in tmp_path.rglob("*") if path.is_file()]
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def looking() -> Iterator[tuple[Tensor, Tensor]]:
        yield WANTED[0][:4], WANTED[1][:4]
        Store(folder or None, 1e6).close()
        assert len([*tmp_path.iterdir()]) == 1  # this one's own
        yield WANTED[0][4:], WANTED[1][4:]

    store = Store(folder or None, 1e6)
    assert whole(store.get_or_compute({"k": 1}, COUNT, looking()))
    store.close()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".part-", "petl-"))]
