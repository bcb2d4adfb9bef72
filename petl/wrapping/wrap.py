"""wrap: applies methods to a model, in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from petl.errors import MethodError
from petl.memory.base_dtype import BaseDtype, low_precision_dtype
from petl.memory.modes import Memory
from petl.methods.default import methods_for, refuse_asked
from petl.wrapping.backbone import warn_unrecorded
from petl.wrapping.head import class_count, head_option
from petl.wrapping.install import carry_out
from petl.wrapping.lookup import Model
from petl.wrapping.preconditions import memory_setting


@torch.inference_mode(False)
def wrap(
    model: Model,
    methods: Any = None,
    *,
    num_classes: int | None = None,
    head: bool | str | Sequence[str] = True,
    create_args: dict[str, Any] | None = None,
    fused: bool = True,
    memory: Memory = "lean",
    base_dtype: BaseDtype | None = None,
    **options: Any,
) -> Model:
    """Applies methods to ``model``, in place, and freezes the rest.

    Args:
        model: any timm model, or another ``nn.Module`` that takes a batch of images.
        methods: a name, a Method, a peft config, or a list of these. None, or "best" (also in a list): the best recipe that is
            known for a model of this kind (`petl.methods.default`), by now norms and LoRA; the record names its methods.
        num_classes: classes of the new task; if the model has another number, its classifier is replaced.
        head: train the classifier (True), leave it alone (False), or the names of its modules where the model isn't timm's.
        create_args: further ``timm.create_model`` arguments of this model (``img_size`` ...), for the delta's header.
        fused: False runs the plain layers in training too: the same gradients up to rounding, more time and memory.
        memory: of training steps. "fast" trains low-rank changes without a gradient of the whole weight and folds frozen
            BatchNorms into the convolution before them; "lean" also recomputes outputs of norms and activations instead
            of keeping them; "min" also runs whole blocks a second time. Evaluation is the same in all.
        base_dtype: ``torch.bfloat16`` or ``torch.float16`` keeps the frozen matrices and kernels of layers in that type,
            rounded, and casts them up wherever they are used; everything else, activations too, keeps its dtype. The originals
            stay in main memory for ``unwrap`` and the digest: this saves memory of a GPU, and none on a CPU.
        options: options of the method, if ``methods`` is a single name: ``rank=16``; of "best" each method takes its own.

    Returns:
        The same object, with the same class, names, ``state_dict`` keys and hooks; ``requires_grad`` is True for what trains.
        Norm layers whose statistics no method tunes stay in evaluation mode, also under ``model.train()``.

    Raises:
        MethodError, SiteError, StateError: the arguments don't fit the model, or each other; the model is unchanged.

    >>> import petl, timm
    >>> model = petl.wrap(timm.create_model("test_vit"), "lora", rank=4, num_classes=10)
    >>> sum(p.numel() for p in model.parameters() if p.requires_grad)
    25482
    """
    training = {"memory": memory_setting(memory, fused), "base_dtype": low_precision_dtype(base_dtype)}
    refuse_asked(methods, options)
    num_classes, head = class_count(num_classes), head_option(head)
    if num_classes is not None and num_classes < 1:
        raise MethodError(f"num_classes={num_classes}; a classifier has at least one class")
    record = carry_out(
        model,
        lambda survey: [(method, method.plan(survey)) for method in methods_for(survey.model, methods, options)],
        image_size=_image_size(create_args),
        head=head,
        num_classes=num_classes,
        create_args=create_args,
        **training,
    )
    warn_unrecorded(record.backbone)
    return model


def _image_size(create_args: Any) -> Any:
    """Returns the size of images that the model was created for, where ``create_args`` has it, else None."""
    if create_args is None or isinstance(create_args, dict):
        return (create_args or {}).get("img_size")
    raise MethodError(
        f"create_args={create_args!r:.60}; expected a dict of timm.create_model's arguments, such as {{'img_size': 64}}"
    )
