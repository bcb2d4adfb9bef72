"""``unfreeze=``: which tensors train from which stage on, and what can't be unfrozen in stages."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from petl.errors import PetlError, StateError, listing
from petl.training.length import default_epochs
from petl.training.optimizer_settings import STALL, OptimizerSettings
from petl.wrapping.block_depths import block_depths
from petl.wrapping.lookup import bare
from petl.wrapping.rates import HEAD, rated_tensors


@dataclass(frozen=True)
class StagePlan:
    """What opens in which stage.

    Args:
        opening: For each stage the tensors by name that train from it on: the classifier and the last block first.
        modules: For each stage the outermost modules of which nothing trains until then; they run as at evaluation.
    """

    opening: list[dict[str, nn.Parameter]]
    modules: list[list[nn.Module]]

    def __len__(self) -> int:
        return len(self.opening)

    def stage_of(self) -> dict[nn.Parameter, int]:
        """Returns the stage of each tensor, from 1."""
        return {p: number for number, part in enumerate(self.opening, 1) for p in part.values()}

    def describe(self, number: int) -> str:
        """Returns what a stage opens in words: ``blocks.4 (12 tensors, 1,234 numbers)``."""
        part = self.opening[number - 1]
        shown = listing(_blocks_of(part), 4)
        tensors = f"{len(part)} tensor{'s' * (len(part) > 1)}"
        return f"{shown} ({tensors}, {sum(p.numel() for p in part.values()):,} numbers)"


def stage_plan(model: nn.Module) -> StagePlan:
    """Returns what of a model's trainable tensors opens when: first what lies behind all blocks, with the last block.

    Only blocks in which something trains count. What lies before the first block opens last.

    Raises:
        StateError: what trains lies in no block or in one alone, so there is nothing to unfreeze; or no blocks can be found.
    """
    plain = bare(model)
    depths = block_depths(plain)
    if not depths:
        raise StateError(
            f"unfreeze=: no blocks are found in this {type(plain).__name__}, so they can't open one by one; leave unfreeze out"
        )
    top = max(depths.values())
    heads = {one.tensor for one in rated_tensors(plain) if one.group == HEAD}
    depths |= {name: top for name, p in plain.named_parameters() if p in heads}
    trains = {name: p for name, p in plain.named_parameters() if p.requires_grad}
    order = sorted({depths.get(name, top) for name in trains} - {top}, reverse=True)
    if len(order) < 2:
        where = f"the classifier and {'one block' if order else 'what stands beside it'} alone"
        raise StateError(
            f"unfreeze=: what trains lies in {where}, so there is nothing to open later; leave unfreeze out, or wrap the model "
            f"with a method that reaches more blocks, such as 'lora' or 'full'"
        )
    stages = {top: 1} | {depth: number for number, depth in enumerate(order, 1)}
    opening: list[dict[str, nn.Parameter]] = [{} for _ in order]
    for name, p in trains.items():
        opening[stages[depths.get(name, top)] - 1][name] = p
    return StagePlan(opening, _closed_modules(plain, depths, order))


def _closed_modules(model: nn.Module, depths: Mapping[str, int], order: list[int]) -> list[list[nn.Module]]:
    """Returns for each stage the outermost modules that lie wholly in front of its predecessor's blocks, for the first none.

    A block in which nothing trains has the stage of the block behind it: it stays as it is wrapped.
    """
    modules: list[list[nn.Module]] = [[] for _ in order]

    def visit(module: nn.Module, prefix: str) -> None:
        found = {depths.get(f"{prefix}{name}") for name, _ in module.named_parameters()}
        stages = {order.index(depth) if depth in order else 0 for depth in found}
        if len(stages) == 1 and (number := stages.pop()):
            modules[number].append(module)
            return
        for name, child in module.named_children():
            visit(child, f"{prefix}{name}.")

    visit(model, "")
    return modules


def _blocks_of(names: Iterable[str]) -> list[str]:
    """Returns the modules that hold these tensors: of those in one child of the model, the innermost that holds them all."""
    children: dict[str, list[list[str]]] = {}
    for name in names:
        path = name.split(".")[:-1] or [name]
        children.setdefault(path[0], []).append(path)
    shared = (
        itertools.takewhile(lambda parts: len({*parts}) == 1, zip(*paths, strict=False)) for paths in children.values()
    )
    return [".".join(parts[0] for parts in path) for path in shared]


def cut_by_stage(model: nn.Module, groups: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the parameter groups cut so that each is of one stage, those of the first stage first."""
    stages = stage_plan(model).stage_of()
    cut: dict[tuple[int, int], dict[str, Any]] = {}
    for number, group in enumerate(groups):
        for p in group["params"]:
            cut.setdefault((stages[p], number), {**group, "params": []})["params"].append(p)
    return [cut[key] for key in sorted(cut)]


def refuse_mixed_groups(plan: StagePlan, optimizer: Any) -> None:
    """Raises a PetlError for an optimizer of one's own whose groups hold tensors of several stages."""
    stages = plan.stage_of()
    for group in optimizer.param_groups:
        if len({stages[p] for p in group["params"] if p in stages}) > 1:
            raise PetlError(
                "unfreeze= gives each stage's tensors a warm-up of their own, and this optimizer has tensors of several stages "
                "in one group; make it of the groups that the function gets: optimizer=lambda groups: torch.optim.AdamW(groups)"
            )


def refuse_stages(model: nn.Module, settings: Any) -> None:
    """Raises a PetlError for stages that can't be: of this model, or beside these settings of `fit`."""
    if settings.optim.unfreeze == STALL and settings.run.patience is None:
        raise PetlError(
            "unfreeze='stall' opens a block when patience epochs were no better; pass patience=, such as patience=2"
        )
    if settings.features.views:
        raise PetlError(
            f"views={settings.features.views} with unfreeze=: views are for a classifier that trains alone; leave one of them out"
        )
    stage_plan(model)


def for_several_ranks() -> dict[str, Any]:
    """Returns the argument of accelerate's Accelerator that lets ranks train a model of which parts get no gradient."""
    from accelerate.utils import DistributedDataParallelKwargs

    return {"kwargs_handlers": [DistributedDataParallelKwargs(find_unused_parameters=True)]}


def epochs_for(model: nn.Module, settings: OptimizerSettings, updates: int, patience: int | None) -> int:
    """Returns how many epochs suit a set of so many updates an epoch; with ``unfreeze`` no fewer than all stages take."""
    return max(default_epochs(updates), epochs_of_stages(model, settings, patience))


def epochs_of_stages(model: nn.Module, settings: OptimizerSettings, patience: int | None) -> int:
    """Returns how many epochs all stages take: k each, or for "stall" at least one that is better, and ``patience``."""
    if settings.unfreeze is None:
        return 0
    each = (patience or 1) + 1 if settings.unfreeze == STALL else int(settings.unfreeze)
    return each * len(stage_plan(model))
