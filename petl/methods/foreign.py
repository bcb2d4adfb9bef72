"""Methods of other libraries: what petl asks of them besides what it asks of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from petl.methods.method import Method


@dataclass(frozen=True, kw_only=True)
class ForeignMethod(Method):
    """A method whose layers are another library's.

    They read and write the base's own tensors, so petl compares and saves the base as it was before ``wrap``, and base_dtype
    is refused. Merging them is as exact as the other library is: equal up to rounding, not bit-equal.
    """

    @classmethod
    def from_text(cls, text: str, options: Mapping[str, Any]) -> Method:
        """Returns the method that the user named as ``name:text``, with these options."""
        raise NotImplementedError

    @classmethod
    def from_foreign(cls, item: Any) -> Method | None:
        """Returns the method for a configuration object of the other library; None where ``item`` is no such object."""
        raise NotImplementedError

    def merge(self, model: nn.Module) -> None:
        """Folds the other library's layers into the base's weights and puts the base's layers back, all or nothing."""
        raise NotImplementedError
