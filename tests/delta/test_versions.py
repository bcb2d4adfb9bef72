"""Files that only a newer petl reads: one error, with the version to install; what is merely unknown is no reason to refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import petl
from tests.support.delta_files import edit
from tests.support.small_delta import small

NEWER: dict[str, tuple[dict[str, Any], str]] = {
    "a format": ({"format": 3, "version": "7.1.0"}, 'format 3.*up to 2.*pip install -U "petl-vision>=7.1.0"'),
    "a format of an unknown version": ({"format": 99, "version": "x; rm -rf /"}, "pip install -U petl-vision$"),
    "a format of an older version": ({"format": 3, "version": "0.0.1"}, "pip install -U petl-vision$"),
    "a need": ({"needs": {"sparse": "0.9"}}, 'needs sparse.*pip install -U "petl-vision>=0.9"'),
    "needs": ({"needs": {"a": "0.9", "b": "0.10.1", "c": "0.2"}}, 'needs a, b, c.*"petl-vision>=0.10.1"'),
    "a need of no version": ({"needs": {"sparse": "../../x"}}, "needs sparse.*pip install -U petl-vision$"),
}


@pytest.mark.parametrize("what", NEWER)
def test_a_file_of_a_newer_petl_says_which_version_to_install(what: str, tmp_path: Path) -> None:
    values, said = NEWER[what]
    path = edit(petl.save(small(), tmp_path / "d.safetensors"), lambda header: values)
    for verb in (petl.read, petl.load):
        with pytest.raises(petl.DeltaError, match=said):
            verb(path)


def test_unknown_keys_alone_are_kept_and_ignored(tmp_path: Path) -> None:
    path = edit(petl.save(small(), tmp_path / "d.safetensors"), lambda header: {"colour": ["red"], "needs": {}})
    assert petl.read(path)["colour"] == ["red"]


@pytest.mark.parametrize("needs", [3, ["sparse"], {"sparse": 3}, "sparse"])
def test_needs_that_are_none_are_damage(needs: Any, tmp_path: Path) -> None:
    path = edit(petl.save(small(), tmp_path / "d.safetensors"), lambda header: {"needs": needs})
    with pytest.raises(petl.DeltaError, match=r"needs"):
        petl.read(path)
