"""wrap, unwrap, merge: put methods onto a model in place, take them off again, or fold them in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from petl.errors import MethodError, PetlError, StateError, listing
from petl.graft.classes import is_grafted
from petl.graft.folding import adapted_values, fold, turned_nonfinite
from petl.graft.kinds import WeightGraft, grafts
from petl.graft.sharded import is_sharded_model
from petl.memory.base_dtype import BaseDtype, narrow_dtype
from petl.memory.modes import MEMORY, Memory
from petl.methods.foreign import ForeignMethod
from petl.methods.method import Method
from petl.methods.registry import resolve
from petl.sites.survey import Survey, survey_model
from petl.wrapping.backbone import takes_channels, warn_unrecorded
from petl.wrapping.frozen_base import prove_frozen
from petl.wrapping.head import Option, head_option, whole_classes
from petl.wrapping.install import install, undo
from petl.wrapping.interrupts import uninterrupted
from petl.wrapping.record import RECORD, Record, Whole, bare, record, wrapped, wrapped_inside

Model = TypeVar("Model", bound=nn.Module)


@torch.inference_mode(False)
def wrap(
    model: Model,
    methods: Any,
    *,
    num_classes: int | None = None,
    head: bool | str | Sequence[str] = True,
    create_args: dict[str, Any] | None = None,
    fused: bool = True,
    memory: Memory = "lean",
    base_dtype: BaseDtype | None = None,
    **options: Any,
) -> Model:
    """Put methods onto ``model``, in place, and freeze the rest.

    Args:
        model: any timm model, or another ``nn.Module`` that takes a batch of images.
        methods: a name, a Method, a peft config, or a list of these.
        num_classes: classes of the new task; if the model has another number, its classifier is replaced.
        head: train the classifier (True), leave it alone (False), or the names of its modules where the model isn't timm's.
        create_args: further ``timm.create_model`` arguments of this model (``img_size`` ...), for the delta's header.
        fused: False runs the plain layers in training too: the same gradients up to rounding, more time and memory.
        memory: of training steps. "fast" trains low-rank changes without a gradient of the whole weight and folds frozen
            BatchNorms into the convolution before them; "lean" also recomputes outputs of norms and activations instead
            of keeping them; "min" also runs whole blocks a second time. Evaluation is the same in all.
        base_dtype: ``torch.bfloat16`` or ``torch.float16`` keeps the frozen matrices and kernels of layers in that type,
            rounded, and casts them up wherever they are used; everything else, activations too, keeps its type. The originals
            stay in main memory for ``unwrap`` and the digest: this saves a GPU's memory, on a CPU it saves none.
        options: options of the method, if it is a single name: ``rank=16``.

    Returns:
        The same object. It stays what it was (class, names, ``state_dict`` keys, hooks); ``requires_grad`` says what trains.
        Norm layers whose statistics no method tunes stay in evaluation mode, also under ``model.train()``.

    Raises:
        MethodError, SiteError, StateError: what was asked for can't be done; the model is as it was.

    >>> import petl, timm
    >>> model = petl.wrap(timm.create_model("test_vit"), "lora", rank=4, num_classes=10)
    >>> sum(p.numel() for p in model.parameters() if p.requires_grad)
    25482
    """
    saving, narrow, chosen = steps_memory(memory, fused), narrow_dtype(base_dtype), resolve(methods, options)
    refuse_narrow(narrow, chosen)
    num_classes = whole_classes(num_classes)
    if num_classes is not None and num_classes < 1:
        raise MethodError(f"num_classes={num_classes}; a classifier has at least one class")
    option = head_option(head)
    found = look(model, option, _size(create_args))
    plans = [(method, method.plan(found)) for method in chosen]
    names = [[site.name for site in sites] for _, sites in plans]
    asked = Record(tuple(chosen), names, option, memory=saving, base_dtype=narrow)
    install(found, plans, asked, num_classes=num_classes, create_args=create_args)
    warn_unrecorded(asked.backbone)
    return model


def _size(create_args: Any) -> Any:
    """The size of the images that the model was created for, where ``create_args`` says it."""
    if create_args is None or isinstance(create_args, dict):
        return (create_args or {}).get("img_size")
    raise MethodError(
        f"create_args={create_args!r:.60}; expected a dict of timm.create_model's arguments, such as {{'img_size': 64}}"
    )


def steps_memory(memory: str, fused: bool) -> str | None:
    """How training steps save memory, None where the plain layers run; a MethodError where there is no such setting."""
    if memory not in MEMORY:
        raise MethodError(f"memory={memory!r}; expected one of {', '.join(MEMORY)}")
    return memory if fused else None


def refuse_narrow(dtype: torch.dtype | None, methods: Sequence[Method]) -> None:
    """A MethodError where a method can't go onto a base in low precision."""
    raw = [method.name for method in methods if isinstance(method, ForeignMethod)]
    if dtype is not None and raw:
        raise MethodError(
            f"base_dtype={dtype} with {listing(raw)}, which reads and writes the base's own tensors; use petl's own methods, "
            f"such as 'lora', or leave out base_dtype"
        )


def look(model: nn.Module, head: Option = True, size: Any = None) -> Survey:
    """Survey a model that is not wrapped yet.

    ``head`` may name the classifier; ``size`` is that of the images, where the model was built for others than usual.
    """
    if not isinstance(model, nn.Module):
        raise StateError(f"got {type(model).__name__}; petl takes a model (nn.Module), such as timm.create_model gives")
    _refuse_unfit(model)
    if bare(model) is not model:
        raise StateError(f"got the model inside {type(model).__name__}; wrap it first, then compile or distribute it")
    if inside := wrapped_inside(model):
        what = "this model" if "" in inside else f"{listing(inside)} inside this {type(model).__name__}"
        raise StateError(
            f"{what} is wrapped already; petl.unwrap(model) takes that off, or name all methods in one wrap"
        )
    if is_sharded_model(model):
        raise StateError(
            f"FSDP has sharded this {type(model).__name__} already, and what petl adds would be outside of the shards; "
            f"petl.wrap or petl.load first, then shard"
        )
    found = survey_model(model, size)
    if not isinstance(head, bool):
        found.head = [head] if isinstance(head, str) else list(head)
    return found


def _refuse_unfit(model: nn.Module) -> None:
    """A StateError for models whose code or tensors nobody can change."""
    scripted = [name or "it" for name, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule)]
    if scripted:
        raise StateError(
            f"{listing(scripted)} of this {type(model).__name__} is scripted or traced, so its layers can't be changed; "
            f"wrap the model as Python built it, and script petl.merge(model) afterwards"
        )
    tensors = [*model.named_parameters(), *model.named_buffers()]
    lazy = [name for name, tensor in tensors if nn.parameter.is_lazy(tensor)]
    if lazy:
        raise StateError(f"{listing(lazy)} has no shape yet (a lazy layer); run one batch first: model(batch)")
    made = [name for name, tensor in tensors if tensor.is_inference()]
    if made:
        raise StateError(
            f"{listing(made)} was made under torch.inference_mode, so no gradient can go through it; build the model outside, "
            f"or outside of it take model = copy.deepcopy(model)"
        )


@torch.inference_mode(False)
def unwrap(model: Model) -> Model:
    """Give the model back as it was before ``wrap``: classes, keys, flags, modes and every bit.

    Raises:
        StateError: the model isn't wrapped, or frozen tensors have been changed from outside, so the bits are lost.

    >>> import petl, timm
    >>> model = petl.wrap(timm.create_model("test_vit"), "lora")
    >>> any("lora" in key for key in petl.unwrap(model).state_dict())
    False
    """
    plain, made = wrapped(model)
    prove_frozen(plain, "unwrap can't give the base back")
    try:
        undo(plain, made, made.changes)
        del vars(plain)[RECORD]
    except PetlError:  # before anything was done
        raise
    except BaseException:  # Ctrl-C: what is done may be done again
        with uninterrupted():
            undo(plain, made, made.changes)
            vars(plain).pop(RECORD, None)
        raise
    return model


@torch.inference_mode(False)
def merge(model: Model) -> Model:
    """Fold everything into the base's own tensors: a plain model with timm's own keys and bit-equal outputs. All or nothing.

    After ``base_dtype`` the tensors have the types from before ``wrap`` again, and the values that the layers used: the rounded
    base's, with the change added to them unrounded.

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
    _refuse_stuck(plain)
    channels = in_chans(plain)
    before = Whole(plain, copies=any(isinstance(method, ForeignMethod) for method in made.methods))
    try:
        values = _all_values(plain)
        for method in made.methods:
            if isinstance(method, ForeignMethod):
                method.merge(plain)
        for module, found in values:
            fold(module, found)
        for name, parameter in plain.named_parameters():
            parameter.requires_grad_(made.flags.get(name, True))
        if channels != made.backbone["in_chans"]:
            takes_channels(plain, channels)
        plain.train(plain.training)
        del vars(plain)[RECORD]
    except BaseException:
        with uninterrupted():
            before.restore()
        raise
    return model


def _refuse_stuck(model: nn.Module) -> None:
    stuck = unfoldable(model)
    if stuck:
        reasons = "; ".join(
            f"{kind}: {why}" for kind, why in sorted({(n.rpartition(".")[2], w) for n, w in stuck.items()})
        )
        raise StateError(
            f"can't merge {listing(stuck)} into a weight ({reasons}); use the wrapped model as it is, or petl.unwrap it"
        )


def _all_values(model: nn.Module) -> list[tuple[nn.Module, dict[str, Tensor]]]:
    """Every module that petl has changed with the values to write into it, all of them computed and checked."""
    named = [(name, module, adapted_values(module)) for name, module in model.named_modules() if is_grafted(module)]
    bad = [
        f"{name}.{param}".lstrip(".") for name, module, values in named for param in turned_nonfinite(module, values)
    ]
    if bad:
        raise StateError(
            f"not merged: {listing(bad)} would get numbers that are infinite or not a number, which the base hasn't; the model "
            f"is as it was. petl.unwrap(model) gives the base back, petl.load(path, model) puts an earlier delta onto it"
        )
    return [(module, values) for _, module, values in named]


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
    return taken[0] if taken else made.backbone["in_chans"] if made else survey_model(plain).image[0]


def unfoldable(model: nn.Module) -> dict[str, str]:
    """The grafts on ``model`` that ``merge`` can't fold, by name, with the reason."""
    return {
        f"{name}.{child}".lstrip("."): graft.why_stuck
        for name, module in model.named_modules()
        for child, graft in grafts(module)
        if not isinstance(graft, WeightGraft)
    }
