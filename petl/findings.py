"""`Findings`: what petl's guidance returns. It prints as sentences with numbers; `to_json` gives them all as plain values."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from petl.errors import printable
from petl.version import __version__


class Findings(ABC):
    """The base of frozen dataclasses that hold what was found, every number of it, and say it in about ten lines.

    A subclass is declared ``@dataclass(frozen=True, repr=False)``; its fields hold plain values, other dataclasses, or tensors.

    >>> @dataclasses.dataclass(frozen=True, repr=False)
    ... class Size(Findings):
    ...     images: int
    ...     def sentences(self):
    ...         return [f"There are {self.images} images."]
    >>> print(Size(3))
    There are 3 images.
    >>> Size(3).to_json()["images"]
    3
    """

    @abstractmethod
    def sentences(self) -> list[str]:
        """Returns what was found as lines of text."""

    def __repr__(self) -> str:
        return printable("\n".join(self.sentences()), keep="\n")

    def to_json(self) -> dict[str, Any]:
        """Returns every field as plain values that `json.dumps` takes, with ``kind`` and the version of petl."""
        fields = {field.name: json_value(getattr(self, field.name)) for field in dataclasses.fields(self)}  # type: ignore[arg-type]  # a subclass is a dataclass
        return {"kind": type(self).__name__.lower(), "petl": __version__, **fields}


def json_value(value: Any) -> Any:
    """Returns a value as JSON has it: dataclasses and mappings as objects, tensors as lists, what is not finite as None.

    >>> json_value({"a": (1, float("nan")), 2: np.float32(0.5)})
    {'a': [1, None], '2': 0.5}
    """
    if isinstance(value, Findings):
        return value.to_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: json_value(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):  # tensors, arrays and their scalars
        return json_value(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return [json_value(item) for item in value] if isinstance(value, Sequence) else str(value)


def as_text(findings: Findings | Mapping[str, Any]) -> str:
    """Returns findings, or what their ``to_json`` gave, as indented JSON text that ends with a line break.

    Control characters, hidden ones and bytes of names that are no UTF-8 stand there as JSON's escapes: the text can be printed,
    and written as UTF-8.

    >>> print(as_text({"class": "b\\x7f\\udcff\\u202e"}))
    {
     "class": "b\\u007f\\udcff\\u202e"
    }
    <BLANKLINE>
    """
    text = json.dumps(json_value(findings), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return re.sub(r"[^\n -~]", lambda found: _escaped(found.group()), text)


def _escaped(character: str) -> str:
    """Returns the character, or what stands for it in JSON's strings if `printable` spells it out."""
    if printable(character) == character:
        return character
    return "\\u007f" if character == "\x7f" else json.dumps(character)[1:-1]
