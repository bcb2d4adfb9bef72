"""Adapters that peft itself has trained for a few steps, in folders, with the outputs of its model."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.support.zoo import images


def trained_by_peft(base: nn.Module, config: Any, batch: Tensor, folder: Path, classes: int, steps: int = 3) -> Tensor:
    """Trains a copy of ``base`` by peft, writes the adapter, and returns what peft answers when it loads that adapter again.

    Not what the trained copy answers: statistics of BatchNorms move in training, and peft's files don't hold them.
    """
    import peft

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = peft.get_peft_model(copy.deepcopy(base), config)
        optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=3e-3)
        labels = torch.arange(len(batch)) % classes
        tuned.train()
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(tuned(batch), labels).backward()
            optimizer.step()
        tuned.save_pretrained(str(folder), save_embedding_layers=False)
        loaded = peft.PeftModel.from_pretrained(copy.deepcopy(base), str(folder)).eval()
        with torch.no_grad():
            return loaded(batch)


def sized(base: nn.Module, classes: int) -> nn.Module:
    """Returns a copy of the model with a new classifier of this size, always the same."""
    model = copy.deepcopy(base)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model.reset_classifier(classes)
    return model.eval()


def batch_for(name: str) -> Tensor:
    """Returns the zoo's images for this model."""
    return images(name, batch=4)
