"""The part of a model above a cut, to be trained alone on what goes into the cut.

It is the model's own forward with the modules below the cut stepped over. These return tensors without memory, full of NaN, so a
model that uses one of them after all can't do it unseen. That the upper part answers and trains as the whole model does is tried.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from petl.errors import DataError, StateError
from petl.extraction.cut_points import CutPoint, Empty

MODEL_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    AssertionError,
    AttributeError,
    DataError,
)  # of a model's own code, given NaN


@contextlib.contextmanager
def captured_inputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """Copies of the first input of each call of ``module`` inside (it may be overwritten); empty where it is no tensor."""
    seen: list[Tensor] = []

    def note(_: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0].detach().clone() if args and isinstance(args[0], Tensor) else torch.empty(0))

    handle = module.register_forward_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


class Tail(nn.Module):
    """The part of ``model`` from a cut on, as a net of what goes into the cut; it runs only inside ``skipping``."""

    def __init__(self, model: nn.Module, cut: CutPoint, images: Tensor):
        super().__init__()
        self.model, self.cut = model, cut
        self.image = Empty(tuple(images.shape), images.dtype, images.device, len(images))
        self.dtype: torch.dtype | None = None  # of what goes into the cut
        self.per_image = 0  # bytes of it; both are known once it was seen
        self._frozen = [p for name, p in model.named_parameters() if cut.needs(name) and not p.requires_grad]
        self._given: Tensor | None = None
        self._calls: dict[nn.Module, int] = {}

    def forward(self, features: Tensor) -> Any:
        if any(p.requires_grad for p in self._frozen):
            raise StateError(
                f"something below {self.cut.name} has begun to train, where nothing runs any more: its features were computed "
                "before; pass cache=False to unfreeze layers during a training"
            )
        self._given, self._calls = features.to(self.dtype or features.dtype), {}
        return self.model(self.image(len(features)))

    @contextlib.contextmanager
    def skipping(self) -> Iterator[None]:
        """Inside, the modules below the cut are stepped over: for forwards of this net, and their backwards."""
        below = list(dict.fromkeys(visit.module for visit in self.cut.before))
        own = [(vars(module), vars(module).get("forward")) for module in below]
        hook = self.cut.module.register_forward_pre_hook(self._feed, with_kwargs=True)
        for module in below:
            vars(module)["forward"] = self._stepping_over(module)
        try:
            yield
        finally:
            hook.remove()
            self._given = None
            for attributes, before in own:
                attributes.pop("forward")
                attributes.update({} if before is None else {"forward": before})

    def _feed(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return (self._given, *args[1:]), kwargs

    def _stepping_over(self, module: nn.Module) -> Callable[..., Any]:
        """A forward that returns what the module returned below the cut, without values; later calls are its own."""
        returned = [visit.returned for visit in self.cut.before if visit.module is module]
        real = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            call = self._calls.get(module, 0)
            self._calls[module] = call + 1
            if call >= len(returned) or self._given is None:
                return real(*args, **kwargs)
            images = len(self._given)
            return tree_map(lambda leaf: leaf(images) if isinstance(leaf, Empty) else leaf, returned[call])

        return forward
