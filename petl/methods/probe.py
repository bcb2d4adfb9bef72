"""Linear probe: the classifier alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from petl.errors import MethodError
from petl.methods.method import Method
from petl.methods.registry import register
from petl.sites.sites import Sites
from petl.sites.survey import Survey

CLOSED_FORM = ("ridge", "lda", "prototypes")
SOLVERS = ("auto", *CLOSED_FORM, "sgd")


@register("probe")
@dataclass(frozen=True, kw_only=True)
class Probe(Method):
    """Linear probe: fits the classifier alone (Alain & Bengio 2016, arXiv:1610.01644), in closed form or by gradient.

    The backbone is not changed, stays in evaluation mode, and autograd keeps no graph of it. Best for few images that look like
    what the backbone was trained on.

    Options:
        solver: how `petl.fit` finds the classifier. ``"ridge"`` (regression), ``"lda"`` (linear discriminant analysis) and
            ``"prototypes"`` (class means) are computed from one pass over the images, without a learning rate, as ``"auto"``
            is: the best of these and of their means by leaving images out. ``"sgd"`` trains by gradient, and so does "auto"
            where ``fit`` gets ``lr=``, ``epochs=`` or another setting that only a gradient has. Beside other methods a solver
            gives the start of the classifier, and all train from there.

    >>> import petl, timm
    >>> model = petl.wrap(timm.create_model("test_vit"), "probe", num_classes=5)
    >>> sorted(petl.trainable(model))
    ['head.bias', 'head.weight']
    """

    solver: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.solver not in SOLVERS:
            raise MethodError(f"probe: solver={self.solver!r}; expected one of {', '.join(map(repr, SOLVERS))}")

    def plan(self, survey: Survey) -> Sites:
        """No sites: the head is ``wrap``'s own business."""
        return Sites()

    def to_json(self) -> dict[str, Any]:
        """Returns the method as plain JSON values, without the defaults of options that an older petl doesn't know."""
        values = super().to_json()
        return {key: value for key, value in values.items() if key != "solver" or value != "auto"}
