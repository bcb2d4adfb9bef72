"""Linear probe: the classifier alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from petl.errors import MethodError, SiteError
from petl.graft.graft import grow
from petl.methods.block_features import NAME, BlockReader, PooledOutput, PooledOutputs, pooled_parts
from petl.methods.method import Method
from petl.methods.registry import register
from petl.sites.roles import returning_site
from petl.sites.selection import select
from petl.sites.sites import Site, Sites
from petl.sites.survey import Survey

CLOSED_FORM = ("ridge", "lda", "prototypes")
SOLVERS = ("auto", *CLOSED_FORM, "sgd")
LAYERS = ("last", "all")
SURVEYED_IMAGES = 2  # of the batch that a survey runs on


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
        layers: what the classifier sees. ``"last"``: the model's own features. ``"all"``: also the output of every block,
            averaged over its positions (Head2Toe, Evci et al. 2022, arXiv:2201.03529), each block scaled to the same total
            variance, less those features that a ridge regression has no use for. One tensor more, ``layers.weight`` [classes,
            features of all blocks] beside the classifier. It can't be merged into a plain model. At five images a class it was
            4.1 +- .5 and 1.9 +- .4 points better than "last" (Lite0 at 96 px, Fashion-MNIST and Noto emoji, 24 draws).

    >>> import petl, timm
    >>> model = petl.wrap(timm.create_model("test_vit"), "probe", num_classes=5)
    >>> sorted(petl.trainable(model))
    ['head.bias', 'head.weight']
    """

    solver: str = "auto"
    layers: str = "last"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers not in LAYERS:
            raise MethodError(f"probe: layers={self.layers!r}; expected 'last' or 'all'")
        if self.solver not in SOLVERS:
            raise MethodError(f"probe: solver={self.solver!r}; expected one of {', '.join(map(repr, SOLVERS))}")

    def plan(self, survey: Survey) -> Sites:
        """No sites with ``layers="last"``: the head is ``wrap``'s own business. Else all blocks, and the classifier's layer."""
        if self.layers == "last":
            return Sites()
        if survey.failed:
            raise SiteError(
                f"probe: layers='all' needs the shapes that blocks return, but the model did not run: {survey.failed}"
            )
        blocks = dict.fromkeys(returning_site(survey, site) for site in select(survey, "block"))
        useful = [site for site in blocks if pooled_parts(site, SURVEYED_IMAGES)]
        if not useful:
            raise SiteError(f"probe: layers='all', but {type(survey.model).__name__} has no blocks; use layers='last'")
        return Sites([*useful, self._classifier(survey)])

    def _classifier(self, survey: Survey) -> Site:
        layers = [site for site in select(survey, "head") if is_class_layer(survey.modules[site.name])]
        layers = [site for site in layers if site.shape[0] == layers[-1].shape[0]]  # without hidden layers before
        if len(layers) != 1:
            raise SiteError(
                f"probe: layers='all' needs one linear classifier, and {type(survey.model).__name__} has "
                f"{len(layers)} ({', '.join(site.name for site in layers) or 'none'}); use layers='last'"
            )
        return layers[-1]

    def apply(self, model: nn.Module, sites: Sequence[Site]) -> None:
        if not sites:
            return
        *blocks, classifier = sites
        pooled, widths = PooledOutputs(), []
        for site in blocks:
            parts = pooled_parts(site, SURVEYED_IMAGES)
            outputs = [(len(widths) + i, number, axis) for i, (number, axis, _) in enumerate(parts)]
            widths += [width for *_, width in parts]
            grow(model.get_submodule(site.name), NAME, PooledOutput(outputs, pooled))
        layer = model.get_submodule(classifier.name)
        weight = next(layer.parameters())
        grow(layer, NAME, BlockReader(widths, weight.shape[0], weight, pooled))

    def to_json(self) -> dict[str, Any]:
        """Returns the method as plain JSON values, without the defaults of options that an older petl doesn't know."""
        values, defaults = super().to_json(), {"solver": "auto", "layers": "last"}
        return {key: value for key, value in values.items() if key not in defaults or value != defaults[key]}


def is_class_layer(module: nn.Module) -> bool:
    """Returns whether the module is a linear layer or a 1x1 convolution, as classifiers are."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))
