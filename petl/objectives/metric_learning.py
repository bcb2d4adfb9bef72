"""Features for retrieval: images of one class close together, those of others apart."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petl.data.bad_files import LEFT_OUT
from petl.data.loaders import Loader
from petl.data.logits import require_logits
from petl.data.pairs import Batch, images_and_labels
from petl.errors import DataError, PetlError
from petl.objectives.protocol import Aux, LossOptions, Objective, Setting, Task, refuse_choice, refuse_outside
from petl.objectives.retrieval_metrics import RETRIEVAL_NAMES, RetrievalMetrics, retrieval_metrics
from petl.objectives.targets import known_targets
from petl.sites.survey import classifier_names
from petl.wrapping.lookup import record


@dataclass(frozen=True, kw_only=True)
class MetricLearning(Task):
    """Features for retrieval: pass it as ``petl.fit(..., objective=petl.MetricLearning())``, or "metric".

    Targets are class numbers [N]. What trains are the features: the model's output where it has no classifier
    (``timm.create_model(name, num_classes=0)``, the way that is recommended), else the classifier's input. Such a classifier
    isn't trained, and is saved as it is. Features are compared by their cosine. Validation images may be of other classes.

    Args:
        loss: "triplet": the hardest positive and the hardest negative of each image in the batch (Hermans et al. 2017,
            arXiv:1703.07737); "nt-xent": the cross-entropy of finding the images of one's class among the batch (Khosla et al.
            2020, arXiv:2004.11362). Both need batches in which classes occur more than once: make ``batch_size`` a few times
            the number of classes.
        margin: of the triplet loss, in cosine distance (0 to 2).
        temperature: of nt-xent.

    >>> MetricLearning(loss="nt-xent", temperature=0.07).task
    'metric'
    """

    name: ClassVar[str] = "metric"
    task: ClassVar[str | None] = "metric"
    metrics: ClassVar[tuple[str, ...]] = RETRIEVAL_NAMES
    monitor: ClassVar[str] = "recall_at_1"
    label_per_output: ClassVar[bool] = False
    numbered: ClassVar[bool] = False

    loss: str = "triplet"
    margin: float = 0.2
    temperature: float = 0.1

    def __post_init__(self) -> None:
        refuse_choice("loss", self.loss, ("triplet", "nt-xent"))
        refuse_outside("margin", self.margin, 0, 2, "a number above 0 and below 2")
        refuse_outside("temperature", self.temperature, 0, torch.inf, "a number above 0")

    def create(self, setting: Setting) -> Objective:
        return FeatureDistances(self, setting)

    def refuse_losses(self, losses: LossOptions, aux: Aux) -> None:
        super().refuse_losses(losses, aux)
        if aux not in ("first", 0):
            raise PetlError(f"aux={aux!r} is for class scores, and the objective is metric; leave it out")


class FeatureDistances:
    """The objective of metric learning: targets are class numbers [N], the answer is features [N, D]."""

    def __init__(self, option: MetricLearning, setting: Setting) -> None:
        self.option, self.head = option, classifier_of(setting.model)
        if self.head is not None and setting.losses is not None:
            inside = {*self.head.parameters()}
            if not any(p.requires_grad and p not in inside for p in setting.model.parameters()):
                raise PetlError(
                    "only the classifier trains, and metric learning is about what comes before it; wrap the model with a "
                    "method that changes the features: petl.wrap(timm.create_model(name, num_classes=0), 'lora')"
                )

    def refuse_targets(self, loader: Loader, *, training: bool = False) -> None:
        numbers = known_targets(loader.dataset)
        if numbers is None or not training:
            return
        counts = torch.bincount(torch.from_numpy(numbers[numbers >= 0]).long())
        if int((counts > 0).sum()) < 2 or int(counts.max()) < 2:  # a pair of each kind
            raise DataError(
                f"{int(counts.sum())} training images of {int((counts > 0).sum())} classes, at most {int(counts.max())} of "
                "one; metric learning needs two classes or more, and two images or more of one"
            )

    def prepare(self, train: Loader, device: torch.device) -> None:
        """Needs to know nothing of the data."""

    def images_and_targets(self, batch: Any, model: nn.Module) -> Batch:
        images, targets = images_and_labels(batch, model)
        if bool(((targets < 0) & (targets != LEFT_OUT)).any()):
            raise DataError(f"label {int(targets.min())}; expected class numbers from 0")
        return images, targets

    def is_read(self, targets: Tensor) -> Tensor:
        return targets != LEFT_OUT

    def answer(self, net: Callable[[Tensor], Any], images: Tensor) -> Tensor:
        """Returns the features [N, D] of images: the classifier's input, or the output of a model without one."""
        return features_and_output(self.head, net, images)[0]

    def loss(self, net: Callable[[Tensor], Any], images: Tensor, targets: Tensor, batch: Any = None) -> Tensor:
        features, output = features_and_output(self.head, net, images)
        unit = F.normalize(features.float(), dim=1)
        if self.option.loss == "triplet":
            loss = triplet_loss(unit, targets, self.option.margin)
        else:
            loss = nt_xent_loss(unit, targets, self.option.temperature)
        # every tensor that trains takes part in the loss, which DistributedDataParallel waits for
        return loss if output is None else loss + 0.0 * output.float().sum()

    def per_image(self, output: Any, targets: Tensor) -> tuple[Tensor, ...]:
        return (output.float(),)

    def metrics(self, *columns: Tensor) -> RetrievalMetrics:
        return retrieval_metrics(*columns)  # type: ignore[arg-type]  # two columns


def classifier_of(model: nn.Module) -> nn.Module | None:
    """Returns the module whose input are the features, or None for a model without a classifier."""
    wrapped = record(model)
    names = (list(wrapped.head) if wrapped else []) or classifier_names(model) or []
    if getattr(model, "num_classes", None) == 0 or not names:
        return None
    return model.get_submodule(names[0])


def features_and_output(
    head: nn.Module | None, net: Callable[[Tensor], Any], images: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Returns the features [N, D] of images, and the net's output where it is something else; ``head`` is `classifier_of` it.

    Raises:
        DataError: the net doesn't call its classifier.
    """
    with _inputs_of(head) as seen:
        output = require_logits(net(images))
    if head is None:
        return output.flatten(1), None
    if not seen:
        raise DataError(
            "the model's classifier was not called; make it without one: timm.create_model(name, num_classes=0)"
        )
    return seen[0].flatten(1), output


@contextlib.contextmanager
def _inputs_of(module: nn.Module | None) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0])) if module is not None else None
    try:
        yield seen
    finally:
        if handle is not None:
            handle.remove()


def triplet_loss(unit: Tensor, targets: Tensor, margin: float) -> Tensor:
    """Returns the batch-hard triplet loss of features of length 1 [N, D] and class numbers [N], in cosine distance.

    Images without a positive or a negative in the batch don't count; where none counts, it is 0, with a graph.
    """
    far = 1 - unit @ unit.T
    same = targets[:, None] == targets
    others = same & ~torch.eye(len(targets), dtype=torch.bool, device=targets.device)
    hardest = far.masked_fill(~others, -torch.inf).amax(1)
    nearest = far.masked_fill(same, torch.inf).amin(1)
    counts = others.any(1) & ~same.all(1)
    gaps = torch.where(counts, hardest, 0.0) - torch.where(counts, nearest, 0.0)
    return (F.relu(gaps + margin) * counts).sum() / counts.sum().clamp(min=1) + 0.0 * far.sum()


def nt_xent_loss(unit: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Returns the supervised NT-Xent loss of features of length 1 [N, D] and class numbers [N].

    For each image, the mean over the other images of its class of -log softmax of the similarities to all other images.
    """
    if len(targets) == 1:
        return 0.0 * unit.sum()
    itself = torch.eye(len(targets), dtype=torch.bool, device=targets.device)
    scores = (unit @ unit.T / temperature).masked_fill(itself, -torch.inf)
    logs = (scores - scores.logsumexp(1, keepdim=True)).masked_fill(itself, 0.0)
    others = (targets[:, None] == targets) & ~itself
    each = -(logs * others).sum(1) / others.sum(1).clamp(min=1)
    return (each * others.any(1)).sum() / others.any(1).sum().clamp(min=1) + 0.0 * unit.sum()
