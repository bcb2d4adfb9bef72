"""The frozen base of a wrapped model: what has moved since ``wrap`` and why, what can be put back, and other values for it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from petl.errors import StateError, listing
from petl.graft.sharded import gathered, is_shard
from petl.methods.statistics import STATISTICS
from petl.wrapping.fingerprints import combined, held, mark, marks, own_tensor, owned, whole
from petl.wrapping.record import Record, live, wrapped

Model = TypeVar("Model", bound=nn.Module)
SAMPLE = 64  # numbers of each tensor that are kept, to tell averaging's rounding from another change
BACK = "petl.rebase(model, base) with a fresh backbone puts the old values back"
TAKE = "petl.rebase(model) takes the values as they are now for the base"

# cause -> what happened, what to do
CAUSES = {
    "cast": ("{were} now {are} (cast in parts, or to a smaller type and on)", f"cast the whole model at once; {TAKE}"),
    "gone": (
        "gone, or of another shape (set_input_size, another layer in their place)",
        f"do that before petl.wrap; {TAKE}",
    ),
    "statistics": (
        "statistics of norms that petl holds still: something let them move (sync-BN, a part's .train(), update_bn)",
        f"petl.BN(stats='adapt') trains them; {BACK}",
    ),
    "averaged": (
        "moved by very little, as averages over all weights do (ModelEmaV2, AveragedModel), and no model that is still there has "
        "the old bits",
        BACK,
    ),
    "loaded": ("most of the base: other base weights were loaded, or all of it was unfrozen", f"{TAKE}; {BACK}"),
    "written": (
        "written to: loaded, or unfrozen by hand, trained and frozen again",
        f"what still has requires_grad=True is saved; {TAKE}; {BACK}",
    ),
}


def remember(model: nn.Module, made: Record) -> None:
    """Keep what tells later how a frozen tensor has moved: the statistics of norms, and a few numbers of every tensor."""
    tensors = {key: own_tensor(owner, leaf) for key, (owner, leaf, _) in made.frozen.items()}
    still = {key: tensor for key, tensor in tensors.items() if tensor is not None and not tensor.is_meta}
    statistics = {key: t for key, t in still.items() if key.rpartition(".")[2] in STATISTICS}
    made.statistics = {key: t.detach().clone() for key, t in statistics.items()}
    made.samples = {key: _sample(t) for key, t in still.items()}


def prove_frozen(model: nn.Module, what: str) -> None:
    """Nothing frozen has moved, or a StateError that names what has, why, and what to do.

    What has moved by rounding alone, as in averages over all weights, is put back where a model that is still there has the
    bits, with a warning.
    """
    plain, made = wrapped(model)
    with gathered(model):
        refresh(plain, made)
        prove(made, what)


def prove(made: Record, what: str) -> None:
    """``prove_frozen`` of a record that is up to date."""
    moved = made.moved()
    back = [key for key in moved if _put_back(made, key)]
    if back:
        warnings.warn(
            f"{listing(back, 3)} had moved by rounding, as frozen tensors do where averages are taken over all weights; petl "
            f"put the old bits back",
            stacklevel=4,
        )
    left = [key for key in moved if key not in back]
    if left:
        raise StateError(f"{what}: changed since wrap although frozen: {explained(made, left)}")


def explained(made: Record, moved: Sequence[str]) -> str:
    """Which tensors moved, for which reason, and what to do, cause by cause."""
    groups: dict[str, list[str]] = {}
    for key in moved:
        groups.setdefault(_cause(made, key, many=2 * len(moved) > len(made.frozen)), []).append(key)
    parts = []
    for cause, keys in groups.items():
        happened, remedy = CAUSES[cause]
        parts.append(f"{listing(keys)}: {happened.format(**_types(made, keys[0]))}; {remedy}")
    return ". ".join(parts)


def refresh(model: nn.Module, made: Record) -> None:
    """Follow layers that were exchanged since ``wrap``: the tensors that now have the name have to be what the old ones were.

    Not where the new layer trains, which ``save`` keeps, and where the classifier was taken away, which the header says.
    """
    there = set(model.modules())
    gone = {key: entry for key, entry in made.frozen.items() if entry[0] not in there}
    now = {key: (owner, leaf) for key, owner, leaf in owned(model)} if gone else {}
    reset = getattr(model, "num_classes", None) != made.backbone.get("num_classes")
    for key, (old, leaf, then) in gone.items():
        if key not in now and not reset and leaf != "num_batches_tracked":
            made.frozen[key] = (nn.Module(), leaf, then)
        elif key in now and (_is_same(old, leaf, now[key][0]) or not _trains(now[key][0])):
            made.frozen[key] = (*now[key], then)


def _is_same(old: nn.Module, leaf: str, new: nn.Module) -> bool:
    return own_tensor(old, leaf) is own_tensor(new, leaf)


def _trains(layer: nn.Module) -> bool:
    return any(p.requires_grad for p in layer.parameters(recurse=False))


def names_of(made: Record) -> dict[str, Any]:
    """How many frozen tensors there are, and one fingerprint of their names: for the header."""
    return {"tensors": len(made.frozen), "names": combined(dict.fromkeys(made.frozen, ""))}


def other_base(header: Mapping[str, Any], made: Record) -> str:
    """Why a base isn't the one that a delta was made on, and what to do."""
    then, now = header["backbone"].get("dtype", "float32"), made.backbone["dtype"]
    if then != now:
        return f"the delta's base was in torch.{then}, this one is in torch.{now}. Before petl.load, call model.to(torch.{then})"
    known = header.get("frozen") or names_of(made)
    if known["names"] != names_of(made)["names"]:
        return (
            f"it has other frozen tensors ({len(made.frozen)}, not {known['tensors']}), as after timm.utils.freeze, which "
            f"exchanges norms. Load onto the model as it was built"
        )
    return "other weights. Load the weights that it was made on"


def near(value: Tensor, true: Tensor) -> bool:
    """Whether each number differs by rounding at most: relative to itself, as sums of weighted copies of it do.

    Averages with decay d drift by up to an ulp over 1 - d; one step of an optimizer moves small numbers by far more than that.
    """
    if value.dtype != true.dtype or value.shape != true.shape:
        return False
    if not true.is_floating_point():  # counters; averages cut off what is behind the point
        return not true.dtype.is_complex and bool(((value.double() - true.double()).abs() <= 1).all())
    eps = torch.finfo(true.dtype).eps
    bound = true.abs() * (4096 * eps if eps < 1e-4 else 4 * eps)
    return bool(((value == true) | ((value - true).abs() <= bound) | (value.isnan() & true.isnan())).all())


def rebase(model: Model, base: nn.Module | Mapping[str, Tensor] | None = None) -> Model:
    """Give a wrapped model another base: the frozen values that it has now, or those of ``base``; what trains stays.

    Args:
        model: wrapped; changed in place.
        base: a plain model, or its ``state_dict``, with the same names and shapes: its values become the frozen ones. None: the
            values that ``model`` has now do, for base weights that were loaded after ``wrap`` by a way that petl can't see.

    Returns:
        The same object. Deltas saved from now on belong to the new base, and ``unwrap`` gives that one back; tensors that train
        in place, and a classifier that was replaced, get their values from before ``wrap`` again.

    Raises:
        StateError: the model isn't wrapped, or ``base`` lacks a tensor or has another shape; nothing has changed.

    >>> import petl, timm, torch
    >>> model = petl.wrap(timm.create_model("test_vit"), "lora", num_classes=3)
    >>> pretrained = timm.create_model("test_vit")
    >>> _ = petl.rebase(model, pretrained)
    >>> torch.equal(model.patch_embed.proj.weight, pretrained.patch_embed.proj.weight)
    True
    """
    plain, made = wrapped(model)
    refresh(plain, made)
    if base is not None:
        _take(made, base.state_dict() if isinstance(base, nn.Module) else base)
    elif made.narrow:
        _widen_originals(made)
    there = {key: entry for key, entry in made.frozen.items() if own_tensor(entry[0], entry[1]) is not None}
    seen = marks(own_tensor(owner, leaf) for owner, leaf, _ in there.values())  # type: ignore[misc]  # none is None
    made.frozen = {key: (owner, leaf, now) for (key, (owner, leaf, _)), now in zip(there.items(), seen, strict=True)}
    made.first.clear()
    remember(plain, made)
    return model


def adopt(made: Record, key: str, value: Tensor) -> None:
    """Note that the frozen tensor ``key`` is about to get this value, as part of another base."""
    owner, leaf, _ = made.frozen[key]
    own = own_tensor(owner, leaf)
    if key in made.narrow:
        made.backup[key] = value.detach().to("cpu", made.backup[key].dtype, copy=True)
    seen = value.detach() if own is None else value.detach().to(own.dtype)
    made.frozen[key] = (owner, leaf, mark(seen))
    made.samples[key] = _sample(seen)
    if key in made.statistics:
        made.statistics[key] = seen.clone()


def _take(made: Record, values: Mapping[str, Tensor]) -> None:
    """Write these values into the frozen tensors, once all are known to fit."""
    own = {key: own_tensor(owner, leaf) for key, (owner, leaf, _) in made.frozen.items()}
    wrong = [key for key, t in own.items() if t is None or key not in values or values[key].shape != t.shape]
    if wrong:
        raise StateError(
            f"the base that rebase got lacks {listing(wrong)} in the model's shape; build it as the wrapped model was built"
        )
    for key, tensor in own.items():
        if key in made.narrow:
            made.backup[key] = values[key].detach().to("cpu", made.backup[key].dtype, copy=True)
        if tensor is not None:
            tensor.detach().copy_(values[key].detach())


def _widen_originals(made: Record) -> None:
    """Where a narrow tensor has got other numbers, these are the original's now."""
    for key in made.narrow:
        owner, leaf, then = made.frozen[key]
        own = own_tensor(owner, leaf)
        if own is not None and not held(then, mark(own)):
            made.backup[key] = own.detach().to("cpu", made.backup[key].dtype, copy=True)


def _put_back(made: Record, key: str) -> bool:
    """Give a frozen tensor that moved by rounding its old bits, if anybody has them."""
    owner, leaf, then = made.frozen[key]
    own = own_tensor(owner, leaf)
    if own is None or own.is_meta or is_shard(own):
        return False
    for other in _candidates(made, key, then):
        there = other.detach().to(own.device)
        if other is not own and near(own.detach(), there) and mark(there) == then:
            own.detach().copy_(there)
            return True
    return False


def _candidates(made: Record, key: str, then: str) -> list[Tensor]:
    """Tensors that may still have the bits: copies of statistics, and those of models that were copied from, or to, this one."""
    kept = [made.statistics[key]] if key in made.statistics else []
    same = [record.frozen[key] for record in live() if key in record.frozen and record.frozen[key][2] == then]
    found = [own_tensor(owner, leaf) for owner, leaf, _ in same]
    return [*kept, *(t for t in found if t is not None and not t.is_meta and not is_shard(t))]


def _cause(made: Record, key: str, *, many: bool) -> str:
    owner, leaf, then = made.frozen[key]
    own, sample = own_tensor(owner, leaf), made.samples.get(key)
    if own is None or str(tuple(own.shape)) not in then:
        return "gone"
    if not then.startswith(f"{own.dtype} ") or made.first:
        return "cast"
    if sample is not None and not own.is_meta and near(now := _sample(own), sample) and not torch.equal(now, sample):
        return "averaged"
    if leaf in STATISTICS:
        return "statistics"
    return "loaded" if many else "written"


def _types(made: Record, key: str) -> dict[str, Any]:
    owner, leaf, then = made.frozen[key]
    own = own_tensor(owner, leaf)
    return {"were": f"were {made.first.get(key, then).partition(' ')[0]},", "are": "" if own is None else own.dtype}


def _sample(tensor: Tensor) -> Tensor:
    """At most ``SAMPLE`` numbers from all over the tensor, in main memory."""
    flat = whole(tensor.detach()).reshape(-1)
    return flat[:: max(1, -(-flat.numel() // SAMPLE))].to("cpu", copy=True)
