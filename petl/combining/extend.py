"""`extend` teaches a classifier more classes and images without the old images and without forgetting any."""

from __future__ import annotations

import copy
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from petl.combining.extended import Extended
from petl.combining.refitted import linear_classifier
from petl.combining.regrown import with_classifier
from petl.combining.ridge_statistics import RidgeStatistics, statistics_beside
from petl.data.class_labels import dataset_classes
from petl.data.own_parts import own_parts
from petl.data.pipelines import pipeline
from petl.delta.file import Paths, as_path
from petl.delta.load import load
from petl.delta.tensors import delta_checksum, delta_tensors
from petl.errors import DataError, StateError, listing
from petl.extraction.features import features
from petl.training.head_start import unaugmented
from petl.wrapping.fingerprints import checksums
from petl.wrapping.lookup import require_record
from petl.wrapping.own_tensors import state_tensors
from petl.wrapping.record import Record


@torch.inference_mode(False)
def extend(
    model: nn.Module | Paths,
    data: Any,
    *,
    base: nn.Module | None = None,
    trust_remote: bool = False,
    statistics: RidgeStatistics | Paths | None = None,
    again: bool = False,
    images: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    workers: int = 0,
    progress: bool = True,
) -> Extended:
    """Adds classes, or images of known ones, to a model's classifier: the same one as of all images at once.

    The classifier is ridge regression on the model's features. It is computed from sums over the images (`RidgeStatistics`), to
    which the new images are added; the old ones aren't needed, and the order makes no difference. The backbone and its delta
    stay as they are.

    Args:
        model: A wrapped model, or a delta file. The first time, it has a new classifier (its classes are then those of ``data``),
            or ``data`` has all of its classes: they are learned anew. It isn't changed.
        data: Labelled images: a folder (its ``train`` where it has splits), a table, a Dataset. Classes are known by their names;
            in a Dataset without names, by their numbers among the model's outputs.
        base, trust_remote: For a delta file: the backbone, which isn't changed either, and whether the header may name one
            outside timm, as for `petl.load`.
        statistics: What an earlier call returned, or its file. None: those that the model has from `petl.extend`, or the file
            beside the delta.
        again: Whether images may be added that were added before, which are refused else.
        images: At most so many, each class in its share. None: all.

    Returns:
        The result with the new model. Its ``save(path)`` writes the delta, and beside it the statistics, to
        ``NAME.ridge.safetensors``: 4 D (D + 1) bytes for D features. `petl.save` writes the delta alone.

    Raises:
        StateError: there are no statistics of the old classes, or they are of another model; the classifier isn't one linear
            layer. DataError: images without classes, or that were added before.

    >>> import petl, timm
    >>> model = petl.wrap(timm.create_model("test_vit"), "probe", num_classes=2)
    >>> drawn = lambda: torch.randn(8, 3, 64, 64)
    >>> first = petl.extend(model, torch.utils.data.TensorDataset(drawn(), torch.arange(8) % 2), progress=False)
    >>> second = petl.extend(first.model, torch.utils.data.TensorDataset(drawn(), torch.full((8,), 2)), progress=False)
    >>> second.classes, second.model.num_classes
    (['0', '1', '2'], 3)
    """
    net, given = _opened_model(model, base, trust_remote, statistics)
    plain, record = require_record(net)
    if record.task not in (None, "classification"):
        raise StateError(f"the model's outputs are of the task {record.task!r}; petl.extend is for classes")
    linear_classifier(plain, _outputs(record, plain))
    own = own_parts(data, pipeline(net))
    named = dataset_classes(own.train)
    options: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "workers": workers, "progress": progress}
    found = features(net, unaugmented(own.train), labels=named, images=images, cache=False, **options)
    x, y = found.x, _class_numbers(found.y)
    trunk = trunk_mark(net)
    known, notes = _known(given, plain, record, trunk, x.shape[1])
    labels = known.classes if known else _labels(record, plain)
    names = named or [*labels, *(str(number) for number in range(len(labels), int(y.max()) + 1))]
    if known is None:
        known = _started(plain, record, trunk, x.shape[1], {names[number] for number in y.tolist()})
    new = known.plus(x, y, names, again=again)
    return _result(net, known, new, notes)


def _opened_model(
    model: Any, base: nn.Module | None, trust_remote: bool, statistics: Any
) -> tuple[nn.Module, RidgeStatistics | None]:
    """Returns the model, and the statistics that were given or that lie beside its file."""
    given = statistics
    if not isinstance(model, nn.Module):
        path = as_path(model)
        beside = statistics_beside(path)
        if given is None and beside.is_file():
            given = beside
        model = load(path, copy.deepcopy(base), trust_remote=trust_remote)
    if given is not None and not isinstance(given, RidgeStatistics):
        given = RidgeStatistics.load(as_path(given))
    return model, given


def _outputs(record: Record, model: nn.Module) -> int:
    return int(getattr(model, "num_classes", 0) or record.backbone.get("num_classes") or len(record.labels or ()))


def _labels(record: Record, model: nn.Module) -> list[str]:
    """Returns the names of the model's classes; [] where its classifier is new, so that its outputs mean nothing yet."""
    if _is_new(record, model):
        return []
    labels = record.labels or []
    if len({*labels}) < len(labels):
        name = Counter(labels).most_common(1)[0][0]
        raise StateError(
            f"several of the model's classes have the name {name!r:.60}, and images go to classes by their names; save it with "
            f"others: petl.save(model, path, labels=names)"
        )
    return [*labels] if labels else [str(number) for number in range(_outputs(record, model))]


def _is_new(record: Record, model: nn.Module) -> bool:
    """Returns whether the classifier has the random values that ``petl.wrap`` gave it."""
    if not record.new_head:
        return False
    now = {key: tensor for key, _, _, tensor in state_tensors(model) if key in record.new_head}
    return dict(zip(now, checksums(now.values()), strict=True)) == record.new_head


def _class_numbers(y: Tensor | None) -> Tensor:
    if y is None or y.is_floating_point() or y.ndim > 1:
        raise DataError("extend needs one class for each image; give a folder for each class, a table, or a Dataset")
    return y


def trunk_mark(model: nn.Module) -> str:
    """Returns a checksum of what features depend on: the base, its delta without the classifier, and the input pipeline."""
    plain, record = require_record(model)
    heads = {*record.head_tensors}
    tensors = {key: tensor for key, tensor in delta_tensors(plain, record)[0].items() if key not in heads}
    recipe = json.dumps([[m.to_json() for m in record.methods], record.sites, str(record.base_dtype)], sort_keys=True)
    images = json.dumps(pipeline(model), sort_keys=True, default=str)
    return hashlib.sha256(f"{record.digest}{delta_checksum(tensors)}{recipe}{images}".encode()).hexdigest()


def _known(
    given: RidgeStatistics | None, model: nn.Module, record: Record, trunk: str, width: int
) -> tuple[RidgeStatistics | None, list[str]]:
    """Returns the statistics of the images so far, and notes.

    Raises:
        StateError: they are of another backbone or delta, or of other classes than the model's.
    """
    known: RidgeStatistics | None = given if given is not None else record.ridge
    if known is None:
        return None, []
    if known.trunk != trunk or known.width != width:
        raise StateError(
            "the statistics are of another backbone, delta or input pipeline than this model's, whose features are others; "
            "extend the model that they came from, or start anew with all images: petl.extend(model, data) without them"
        )
    labels = _labels(record, model)
    if labels and labels != known.classes:
        raise StateError(
            f"the statistics are of the classes {listing(known.classes)}, and the model's are {listing(labels)}; pass "
            f"those that were saved with it: statistics="
        )
    layer = linear_classifier(model, _outputs(record, model))
    same = bool(labels) and torch.allclose(
        layer._parameters["weight"].detach().flatten(1).double().cpu(), known.head().weight, rtol=1e-3, atol=1e-4  # type: ignore[union-attr]  # it is linear
    )  # fmt: skip
    changed = "The classifier was not the one of the statistics (it was trained or corrected since): it is replaced."
    return known, [] if same else [changed]


def _started(model: nn.Module, record: Record, trunk: str, width: int, there: set[str]) -> RidgeStatistics:
    """Returns empty statistics for the classes that the model has now.

    Raises:
        StateError: the model has learned classes that the images lack, of which nothing is known any more.
    """
    labels = _labels(record, model)
    if lacking := [name for name in labels if name not in there]:
        raise StateError(
            f"there are no statistics of the model's classes, and the images have none of {listing(lacking)}: these would be "
            f"forgotten. Extend it once with images of all its classes, and save by the result's save method, which keeps the "
            f"statistics beside the delta; or pass statistics="
        )
    return RidgeStatistics.empty(width, trunk, labels)


def _result(model: nn.Module, known: RidgeStatistics, new: RidgeStatistics, notes: Sequence[str]) -> Extended:
    head = new.head()
    result = with_classifier(model, head.weight, head.bias, new.classes)
    require_record(result)[1].ridge = new
    before = dict(zip(known.classes, known.counts.tolist(), strict=True))
    now = dict(zip(new.classes, new.counts.tolist(), strict=True))
    added = {name: count - before.get(name, 0) for name, count in now.items() if count > before.get(name, 0)}
    fresh = [name for name in new.classes if not before.get(name)]
    return Extended(result, new, new.classes, fresh, added, now, head.penalty, head.error, new.width, [*notes])
