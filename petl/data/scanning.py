"""Lists the files of a folder or a tar, without reading the images. DICOMs without a suffix are found by their first bytes."""

from __future__ import annotations

import contextlib
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from petl.data.decoding import open_file
from petl.data.dicoms import MAGIC_AT, is_dicom
from petl.data.tree import Names, Tree, suffix
from petl.errors import DataError


def scan(path: Path) -> tuple[Tree, Mapping[Names, Any]]:
    """Returns the tree of a folder or tar, and, for a tar, where each file is in it: {file: (name, first byte, bytes)}."""
    if path.is_file():
        places = _tar_files(path)
        with open(path, "rb") as archive:
            return Tree.of(
                str(path), places, is_image=lambda file: _is_dicom_in_tar(archive, file, places[file])
            ), places
    listed = list(_walk(path))
    files = [(*folder, name) for folder, names in listed for name in names]
    folders = (folder for folder, _ in listed if folder)
    return Tree.of(str(path), files, folders, is_image=lambda file: _is_dicom_file(path, file)), {}


def _may_be_dicom(file: Names) -> bool:
    """Returns whether a name has no suffix, or ends as the numbers that scanners give do: ``IM001``, ``1.2.840.113619.17``."""
    ending = suffix(file)[1:]
    return (not ending or ending.isdigit() or ending == "ima") and file[-1].upper() != "DICOMDIR"


def _is_dicom_file(root: Path, file: Names) -> bool:
    if not _may_be_dicom(file):
        return False
    with contextlib.suppress(OSError, DataError), open_file(root.joinpath(*file)) as opened:
        return is_dicom(opened.read(MAGIC_AT + 4))
    return False


def _is_dicom_in_tar(archive: BinaryIO, file: Names, place: tuple[str, int, int]) -> bool:
    if not _may_be_dicom(file):
        return False
    archive.seek(place[1])
    return is_dicom(archive.read(min(place[2], MAGIC_AT + 4)))


def _walk(root: Path) -> Iterator[tuple[Names, list[str]]]:
    """Yields (folder, names of its files) for every folder; links are followed unless they lead to a folder above."""

    def failed(error: OSError) -> None:
        raise DataError(f"{error.filename} can't be listed: {error.strerror}; its images would be missing") from error

    for place, folders, files in os.walk(root, followlinks=True, onerror=failed):
        here = Path(place)
        folders[:] = [f for f in sorted(folders) if not (here / f).is_symlink() or not _leads_up(here, here / f)]
        yield here.relative_to(root).parts, files


def _leads_up(here: Path, link: Path) -> bool:
    there = link.resolve()
    return there == here.resolve() or there in here.resolve().parents


def _tar_files(path: Path) -> dict[Names, tuple[str, int, int]]:
    """Returns {file: (name, first byte, bytes)} for a tar and the tars inside of it.

    Raises:
        DataError: the file is no tar, or a compressed one, in which a file can't be read without all that is before it.
    """
    places: dict[Names, tuple[str, int, int]] = {}
    try:
        with open(path, "rb") as file:
            _scan_tar(file, 0, (), places)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        size = path.stat().st_size
        kind = "" if path.suffix.lower() == ".tar" else ", not a .tar"
        raise DataError(
            f"{path} has no images to read: found a file of {size} bytes{kind} ({error}); expected a folder, or a tar "
            "without compression"
        ) from error
    return places


def _scan_tar(file: Any, offset: int, above: Names, places: dict[Names, tuple[str, int, int]]) -> None:
    """Adds the files of a tar that begins at byte ``offset`` of the outermost one, and lies in the folder ``above``."""
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            names = (*above, *(part for part in member.name.split("/") if part not in ("", ".")))
            if not (member.isreg() or member.islnk()) or member.issparse():
                continue
            source = archive._find_link_target(member) if member.islnk() else member  # type: ignore[attr-defined]  # as tarfile does
            if names[-1].lower().endswith(".tar") and member.isreg():
                inner = archive.extractfile(member)
                _scan_tar(inner, offset + source.offset_data, (*names[:-1], names[-1][:-4]), places)
            else:
                places[names] = ("/".join(names), offset + source.offset_data, source.size)
