"""wrap, unwrap, merge: put methods onto a model in place, take them off again, or fold them in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from petl.classifier import prepare_head
from petl.digest import fingerprints, own_tensor, owned
from petl.errors import SiteError, StateError, listing
from petl.graft import WeightGraft, fold, grafts, hold, is_grafted, prune
from petl.method import Method, resolve
from petl.record import RECORD, Record, Snapshot, bare, record, wrapped
from petl.sites import Sites, has_statistics, within
from petl.survey import Survey, config, survey

Plan = tuple[Method, Sites]


def wrap(
    model: nn.Module,
    methods: Any,
    *,
    num_classes: int | None = None,
    head: bool | str | Sequence[str] = True,
    create_args: dict[str, Any] | None = None,
    fused: bool = True,
    **options: Any,
) -> nn.Module:
    """Put methods onto ``model``, in place, and freeze the rest.

    Args:
        model: any timm model, or another ``nn.Module`` that takes a batch of images.
        methods: a name, a Method, a peft config, or a list of these.
        num_classes: classes of the new task; if the model has another number, its classifier is replaced.
        head: train the classifier (True), leave it alone (False), or the names of its modules where the model isn't timm's.
        create_args: further ``timm.create_model`` arguments of this model (``img_size`` ...), for the delta's header.
        fused: train low-rank changes through kernels that compute no gradient of the whole weight; False is the plain way,
            with the same forward, and gradients equal up to rounding.
        options: options of the method, if it is a single name: ``rank=16``.

    Returns:
        The same object. It stays what it was (class, names, ``state_dict`` keys, hooks); ``requires_grad`` says what trains.
        Norm layers whose statistics no method tunes stay in evaluation mode, also under ``model.train()``.

    Raises:
        MethodError, SiteError, StateError: what was asked for can't be done; the model is as it was.

    >>> import petl, timm
    >>> model = petl.wrap(timm.create_model("test_vit"), "lora", rank=4, num_classes=10)
    >>> sum(p.numel() for p in model.parameters() if p.requires_grad)
    37642
    """
    chosen = resolve(methods, options)
    found = look(model)
    plans = [(method, method.plan(found)) for method in chosen]
    option = head if isinstance(head, (bool, str)) else tuple(head)
    asked = Record(tuple(chosen), [[s.name for s in sites] for _, sites in plans], option)
    install(found, plans, asked, num_classes=num_classes, create_args=create_args)
    for module in model.modules():
        if isinstance(module, WeightGraft):
            module.fuse = fused
    return model


def look(model: nn.Module) -> Survey:
    """Survey a model that is not wrapped yet."""
    if not isinstance(model, nn.Module):
        raise StateError(f"got {type(model).__name__}; petl takes a model (nn.Module), such as timm.create_model gives")
    if bare(model) is not model:
        raise StateError(f"got the model inside {type(model).__name__}; wrap it first, then compile or distribute it")
    if record(model) is not None:
        raise StateError(
            "this model is wrapped already; petl.unwrap(model) takes that off, or name all methods in one wrap"
        )
    return survey(model)


def install(
    found: Survey,
    plans: Sequence[Plan],
    made: Record,
    *,
    num_classes: int | None = None,
    create_args: dict[str, Any] | None = None,
) -> nn.Module:
    """Carry out plans and keep the record; on any error the model is as it was."""
    model = found.model
    made.flags = {name: p.requires_grad for name, p in model.named_parameters()}
    made.modes = {name: module.training for name, module in model.named_modules()}
    originals = {id(own_tensor(owner, leaf)) for _, owner, leaf in owned(model)}
    with _undone_on_error(model, made) as before:
        made.head = tuple(prepare_head(found, made.head_option, num_classes))
        made.backbone = backbone(found, create_args)
        _remember(model, plans, made, originals)
        _adapt(model, plans, made)
        _set_flags(model, made)
        _hold_still(model, made)
        made.changes = before.changes()
    vars(model)[RECORD] = made
    return model


def unwrap(model: nn.Module) -> nn.Module:
    """Give the model back as it was before ``wrap``: classes, keys, flags, modes and every bit.

    Raises:
        StateError: the model isn't wrapped, or frozen tensors have been changed from outside, so the bits are lost.

    >>> import petl, timm
    >>> model = petl.wrap(timm.create_model("test_vit"), "lora")
    >>> any("lora" in key for key in petl.unwrap(model).state_dict())
    False
    """
    plain, made = wrapped(model)
    _prove_frozen(made, "unwrap can't give the base back")
    _undo(plain, made, made.changes)
    del vars(plain)[RECORD]
    return model


def merge(model: nn.Module) -> nn.Module:
    """Fold everything into the base's own tensors: a plain model with timm's own keys and bit-equal outputs. All or nothing.

    Raises:
        StateError: a method adds layers that can't be folded (adapters, some input adapters); the model is as it was.

    >>> import petl, timm, torch
    >>> model = petl.wrap(timm.create_model("test_vit"), "lora").eval()
    >>> x = torch.randn(1, 3, 160, 160)
    >>> before = model(x)
    >>> torch.equal(petl.merge(model)(x), before)
    True
    """
    plain, made = wrapped(model)
    stuck = unfoldable(plain)
    if stuck:
        reasons = "; ".join(
            f"{kind}: {why}" for kind, why in sorted({(n.rpartition(".")[2], w) for n, w in stuck.items()})
        )
        raise StateError(
            f"can't merge {listing(stuck)} into a weight ({reasons}); use the wrapped model as it is, or petl.unwrap it"
        )
    for method in made.methods:
        method.merge(plain)
    for module in [m for m in plain.modules() if is_grafted(m)]:
        fold(module)
    for name, parameter in plain.named_parameters():
        parameter.requires_grad_(made.flags.get(name, True))
    del vars(plain)[RECORD]
    plain.train(plain.training)
    return model


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that train, by name: those with ``requires_grad``, which is the only truth.

    >>> import petl, timm
    >>> len(petl.trainable(petl.wrap(timm.create_model("test_vit"), "probe")))
    2
    """
    return {name: p for name, p in bare(model).named_parameters() if p.requires_grad}


def in_chans(model: nn.Module) -> int:
    """How many channels the images for this model have: what an input adapter takes, else what the model was built for.

    >>> import petl, timm
    >>> petl.in_chans(petl.wrap(timm.create_model("test_resnet"), "input", in_chans=4))
    4
    """
    plain = bare(model)
    taken = [graft.in_chans for module in plain.modules() for _, graft in grafts(module) if graft.in_chans]
    made = record(plain)
    return taken[0] if taken else made.backbone["in_chans"] if made else survey(plain).image[0]


def unfoldable(model: nn.Module) -> dict[str, str]:
    """The grafts on ``model`` that ``merge`` can't fold, by name, with the reason."""
    return {
        f"{name}.{child}".lstrip("."): graft.why_stuck
        for name, module in model.named_modules()
        for child, graft in grafts(module)
        if not isinstance(graft, WeightGraft)
    }


def backbone(found: Survey, create_args: dict[str, Any] | None = None) -> dict[str, Any]:
    """How to build the base again: timm's name with tag, classes, channels, and further ``create_model`` arguments."""
    cfg, model = config(found.model), found.model
    name = ".".join(part for part in (cfg.get("architecture"), cfg.get("tag")) if part) or None
    args = dict(create_args or {})
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if size and tuple(size) != tuple(cfg.get("input_size", (0, *size))[1:]):
        args.setdefault("img_size", list(size))
    return {"name": name, "num_classes": getattr(model, "num_classes", None), "in_chans": found.image[0], "args": args}


@contextlib.contextmanager
def _undone_on_error(model: nn.Module, made: Record) -> Iterator[Snapshot]:
    before = Snapshot(model)
    try:
        yield before
    except BaseException:
        _undo(model, made, before.changes())
        raise


def _undo(model: nn.Module, made: Record, changes: Sequence[Any]) -> None:
    """Put structure, values, flags and modes back; a classifier that was set aside comes back to the model's device."""
    place = next(model.parameters(), torch.empty(0)).device
    for module in list(model.modules()):
        prune(module)
    for change in changes:
        change.undo()
    for key, owner, leaf in owned(model):
        if key in made.backup:
            cast(Tensor, own_tensor(owner, leaf)).detach().copy_(made.backup[key])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(made.flags.get(name, True))
        parameter.grad = None
    for name, module in model.named_modules():
        module.training = made.modes.get(name, module.training)
    if any(p.device != place for p in model.parameters()):
        model.to(place)


def _remember(model: nn.Module, plans: Sequence[Plan], made: Record, originals: set[int]) -> None:
    """Note which base tensors train in place, copy those that were there before, and fingerprint all others."""
    made.tensors = [_in_place(model, method, sites) for method, sites in plans]
    entries = [(key, owner, leaf, cast(Tensor, own_tensor(owner, leaf))) for key, owner, leaf in owned(model)]
    made.head_tensors = [key for key, *_ in entries if within(key, made.head)]
    planned = made.planned
    made.backup = {k: t.detach().to("cpu", copy=True) for k, _, _, t in entries if k in planned and id(t) in originals}
    still = [entry for entry in entries if entry[0] not in planned]
    prints = fingerprints(tensor for *_, tensor in still)
    made.frozen = {key: (owner, leaf, found) for (key, owner, leaf, _), found in zip(still, prints, strict=True)}


def _in_place(model: nn.Module, method: Method, sites: Sites) -> list[str]:
    """State-dict keys of the base tensors that the method trains in place."""
    found = [(site, leaf) for site in sites for leaf in method.trains(model.get_submodule(site.name), site)]
    return [f"{site.name}.{leaf}".lstrip(".") for site, leaf in found]


def _adapt(model: nn.Module, plans: Sequence[Plan], made: Record) -> None:
    """Let each method grow its grafts, and note which new tensors are whose."""
    for (method, sites), keys in zip(plans, made.tensors, strict=True):
        known = {id(own_tensor(owner, leaf)) for _, owner, leaf in owned(model)}
        method.apply(model, sites)
        new = [(key, own_tensor(owner, leaf)) for key, owner, leaf in owned(model)]
        keys += [key for key, tensor in new if id(tensor) not in known]


def _set_flags(model: nn.Module, made: Record) -> None:
    """Train exactly what methods and head own."""
    planned = made.planned
    for name, parameter in model.named_parameters():
        frozen_by_design = name in planned and name not in made.flags and not parameter.requires_grad
        parameter.requires_grad_(name in planned and parameter.is_floating_point() and not frozen_by_design)
    if not planned:
        raise SiteError(
            f"{', '.join(m.name for m in made.methods)} with head={made.head_option} leaves nothing to train on "
            f"{type(model).__name__}; give num_classes= for a new classifier, or another method"
        )


def _hold_still(model: nn.Module, made: Record) -> None:
    """Keep norms with running statistics that nobody tunes in evaluation mode; where the head alone trains, all but it."""
    planned = made.planned
    if all(within(key, made.head) for key in planned):
        return _hold_all_but(model, "", made.head)
    for name, module in model.named_modules():
        moving = any(f"{name}.{leaf}".lstrip(".") in planned for leaf in ("running_mean", "running_var"))
        if has_statistics(module) and not moving:
            hold(module)


def _hold_all_but(module: nn.Module, name: str, head: Sequence[str]) -> None:
    for leaf, child in module.named_children():
        path = f"{name}.{leaf}".lstrip(".")
        if any(within(top, [path]) for top in head) and not within(path, head):
            _hold_all_but(child, path, head)
        elif not within(path, head):
            hold(child)


def _prove_frozen(made: Record, what: str) -> None:
    moved = made.moved()
    if moved:
        raise StateError(
            f"{what}: {listing(moved)} changed since wrap although frozen (unfrozen by hand, cast, or written to); "
            f"name them in a method so that petl keeps their values, or build the backbone anew"
        )
