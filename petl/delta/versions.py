"""The versions of the format: which one a file has, and which files are for a newer petl."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petl.errors import DeltaError, listing
from petl.version import __version__

FORMAT = 1  # of a file whose tensors are all there under their own names
PACKED_FORMAT = 2  # of a file with packed tensors, which petl 0.1.0 can't read
KNOWN_NEEDS: frozenset[str] = frozenset()  # what files may need beyond their format; a later petl may add some
VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){0,3}([a-z]{1,4}[0-9]{0,4})?")


def refuse_newer(path: Path | str, values: Mapping[str, Any]) -> None:
    """Raises a DeltaError for a file that only a newer petl reads; it says which version to install.

    Such a file has a higher ``format``, or ``needs`` something that this petl doesn't know: a table from what it needs to the
    first version of petl-vision that has it. What else is unknown in a header is no reason to refuse it.
    """
    number, needs = values["format"], values.get("needs")
    if number == PACKED_FORMAT and not values.get("packed"):
        raise DeltaError(
            f"{path}: its header has format {number} and doesn't say what is packed; it is damaged, or of a newer petl: upgrade "
            f"petl-vision: {_install(values.get('version'))}"
        )
    if type(number) is int and number > PACKED_FORMAT:
        raise DeltaError(
            f"{path} has format {number}, and petl {__version__} reads up to {PACKED_FORMAT}; upgrade petl-vision: "
            f"{_install(values.get('version'))}"
        )
    unknown = {key: needs[key] for key in needs if key not in KNOWN_NEEDS} if isinstance(needs, dict) else {}
    if unknown:
        raise DeltaError(
            f"{path} needs {listing(unknown)}, which petl {__version__} doesn't have; upgrade petl-vision: "
            f"{_install(*unknown.values())}"
        )


def _install(*versions: Any) -> str:
    """Returns the command that installs the newest of these versions, as far as they can be versions."""
    known = [text for text in versions if isinstance(text, str) and VERSION.fullmatch(text)]
    newest = max(known, key=_numbers, default=None)
    is_newer = newest is not None and _numbers(newest) > _numbers(__version__)
    return f'pip install -U "petl-vision>={newest}"' if is_newer else "pip install -U petl-vision"


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall("[0-9]+", version)]
