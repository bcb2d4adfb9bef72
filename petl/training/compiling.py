"""``compile=``: the model's forward, compiled by torch for the training alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from petl.errors import PetlError, listing, near

MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")  # torch.compile's


def refuse_compile(wish: Any) -> None:
    """Raises a PetlError for what is no mode and no backend of torch.compile."""
    if isinstance(wish, bool) or (isinstance(wish, str) and wish in MODES):
        return
    from torch._dynamo import list_backends

    backends = list_backends(exclude_tags=())
    if not isinstance(wish, str) or wish not in backends:
        hint = near(wish, [*MODES, *backends]) if isinstance(wish, str) else ""
        raise PetlError(
            f"compile={wish!r}; expected True, False, a mode ({', '.join(MODES)}) or a backend "
            f"({listing(backends, len(backends))}){hint}"
        )


def compile_net(net: nn.Module, wish: bool | str) -> None:
    """Lets a net run compiled from its next call on; names and state stay as they are. `restored_afterwards` undoes it."""
    if wish is not False:
        net.compile(**({} if wish is True else {"mode": wish} if wish in MODES else {"backend": wish}))


@contextlib.contextmanager
def compiler_errors(wish: bool | str) -> Iterator[None]:
    """Inside, an error of the compiler's becomes a PetlError that says so."""
    if wish is False:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        reason = (
            " ".join([line.strip() for line in str(error).splitlines() if line.strip()][:2]) or type(error).__name__
        )
        raise PetlError(
            f"compile={wish!r}: torch can't compile the model here ({reason}); compile='aot_eager' needs no compiler of C++ or "
            "CUDA, and compile=False runs it as it is"
        ) from error
