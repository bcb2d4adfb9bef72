"""What holds for all tests: threads, memory, which cases are deep, and fixtures."""

from __future__ import annotations

import gc
import os
import sys

import pytest

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # the workers share the cores; their master needs no torch
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what ``sweep(cases)`` leaves over as deep: the cases of a test that are spread evenly over all run always."""
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sweep"):
            groups.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for cases in groups.values():
        wanted = cases[0].get_closest_marker("sweep").args[0]  # type: ignore[union-attr]  # found above
        kept = {round(at * (len(cases) - 1) / max(1, wanted - 1)) for at in range(wanted)}
        for at, item in enumerate(cases):
            if at not in kept:
                item.add_marker("deep")


class Frozen:
    """How many modules had been imported when the collector was last told to leave all that there was alone."""

    modules = 0


def pytest_runtest_setup() -> None:
    """What imports have made stays out of garbage collections: `petl.check` has eight of them, 0.2 s each with torch and timm."""
    if len(sys.modules) > Frozen.modules + 100:
        gc.collect()
        gc.freeze()
        Frozen.modules = len(sys.modules)


@pytest.fixture
def fresh_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate keeps one state per process; no test sees another's. The bits that are compared are a CPU's."""
    from accelerate.state import AcceleratorState, GradientState

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
