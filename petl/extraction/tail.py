"""The part of a model above a cut, to be trained alone on what goes into the cut.

It is the model's own forward with the modules below the cut stepped over. These return tensors without memory, full of NaN, so a
model that uses one of them after all can't do it unseen. That the upper part answers and trains as the whole model does is tried.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from petl.data.logits import logits, scores
from petl.errors import DataError, StateError
from petl.extraction.cut_points import Cut, Placeholder
from petl.wrapping.modes import in_eval

REFUSALS = (
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    AssertionError,
    AttributeError,
    DataError,
)  # of a model's own code, given NaN
TRIALS = 128  # points that are tried, from the deepest on; a trial costs little more than what runs above the point


@contextlib.contextmanager
def tapped(module: nn.Module) -> Iterator[list[Tensor]]:
    """Copies of the first input of each call of ``module`` inside (it may be overwritten); empty where it is no tensor."""
    seen: list[Tensor] = []

    def note(_: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0].detach().clone() if args and isinstance(args[0], Tensor) else torch.empty(0))

    handle = module.register_forward_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


class Upper(nn.Module):
    """The part of ``model`` from a cut on, as a net of what goes into the cut; it runs only inside ``skipping``."""

    def __init__(self, model: nn.Module, cut: Cut, images: Tensor):
        super().__init__()
        self.model, self.cut = model, cut
        self.image = Placeholder(tuple(images.shape), images.dtype, images.device, len(images))
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
            return tree_map(lambda leaf: leaf(images) if isinstance(leaf, Placeholder) else leaf, returned[call])

        return forward


def upper(model: nn.Module, points: list[Cut], images: Tensor) -> Upper | None:
    """The smallest upper part that gives the whole model's answer on these images, bit for bit, and trains as it does."""
    points = points[:TRIALS]
    given, answer = _inputs(model, points, images)
    nets = (Upper(model, cut, images) for cut in points)
    fit = (net for net, x in zip(nets, given, strict=True) if _answers(net, x, answer))
    whole = _tried(model, model, images) if points else None
    return next((net for net in fit if _trains_alike(net, images, whole)), None)


@torch.no_grad()
def _inputs(model: nn.Module, points: list[Cut], images: Tensor) -> tuple[list[Tensor], Any]:
    """What goes into each of the points, and the model's answer, in evaluation mode."""
    with in_eval(model), contextlib.ExitStack() as taps:
        seen = [taps.enter_context(tapped(cut.module)) for cut in points]
        answer = logits(model(images))
    return [each[0] for each in seen], answer


@torch.no_grad()
def _answers(net: Upper, x: Tensor, answer: Any) -> bool:
    """Whether the net makes the model's answer of ``x`` alone, bit for bit, in evaluation mode."""
    net.dtype, net.per_image = x.dtype, x.numel() * x.element_size() // max(len(x), 1)
    with contextlib.suppress(*REFUSALS), in_eval(net), net.skipping():
        found = logits(net(x.clone()))
        return found is not None and answer is not None and torch.equal(found, answer)
    return False


def _trains_alike(net: Upper, images: Tensor, whole: Any) -> bool:
    """Whether a training step of the net has answer and gradients of one of the whole model, up to rounding.

    In training, norms of the frozen part may be folded into its convolutions, so here the last bits may differ.
    """
    given, _ = _inputs(net.model, [net.cut], images)
    with contextlib.suppress(*REFUSALS), net.skipping():
        answer, grads = _tried(net.model, net, given[0])
        return _close(answer, whole[0]) and all(map(_close, grads, whole[1]))
    return False


def _close(one: Tensor | None, other: Tensor | None) -> bool:
    """Equal up to rounding; NaN is equal to nothing."""
    if one is None or other is None:
        return one is other
    return torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


def _tried(model: nn.Module, net: nn.Module, x: Tensor) -> tuple[Tensor, Sequence[Tensor | None]]:
    """Answer and gradients of one training step that changes nothing: not the statistics, not the random numbers."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    trainable = [p for p in model.parameters() if p.requires_grad]
    with in_eval(model), torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        model.train()
        answer = scores(net(x))
        loss = (answer.float() * torch.randn(answer.shape, device=answer.device)).sum()
        grads = list(torch.autograd.grad(loss, trainable, allow_unused=True))
    with torch.no_grad():
        for buffer, value in buffers:
            buffer.copy_(value)
    return answer.detach(), grads
