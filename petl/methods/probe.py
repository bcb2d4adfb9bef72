"""Linear probe: the classifier alone."""

from __future__ import annotations

from dataclasses import dataclass

from petl.methods.method import Method
from petl.methods.registry import register
from petl.sites.sites import Sites
from petl.sites.survey import Survey


@register("probe")
@dataclass(frozen=True, kw_only=True)
class Probe(Method):
    """Linear probe: trains the classifier alone (Alain & Bengio 2016, arXiv:1610.01644).

    Nothing is added to the model. The backbone stays in evaluation mode, and autograd keeps no graph of it, because
    nothing in it trains. Best for few images that look like what the backbone was trained on.

    >>> import petl, timm
    >>> model = petl.wrap(timm.create_model("test_vit"), "probe", num_classes=5)
    >>> sorted(petl.trainable(model))
    ['head.bias', 'head.weight']
    """

    def plan(self, survey: Survey) -> Sites:
        """No sites: the head is ``wrap``'s own business."""
        return Sites()
