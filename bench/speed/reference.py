"""The plain loops to measure against. They are in `benchmarks/` of a checkout, not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType

from torch import Tensor, nn
from torch.optim import Optimizer

import bench.errors

FILE = Path(bench.errors.__file__).parent.parent / "benchmarks" / "loops.py"
Loop = Callable[[nn.Module, Optimizer, Tensor, Tensor], Tensor]
"""(model, optimiser, x, y) -> the loss of one whole update."""
NO_CHECKOUT = "the plain loops are in benchmarks/ of a checkout, which this installation lacks"
NO_LOOP = "no plain loop is written for it"


@cache
def _module(file: Path) -> ModuleType | None:
    if not file.is_file():
        return None
    spec = importlib.util.spec_from_file_location("_plain_loops", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def loop_for(method: str) -> tuple[Loop | None, str]:
    """The plain loop of a method; or None, and why."""
    module = _module(FILE)
    if module is None:
        return None, NO_CHECKOUT
    loops: Mapping[str, Loop] = module.LOOPS
    return (loops[method], "") if method in loops else (None, NO_LOOP)


def plain_optimiser(network: nn.Module, lr: float) -> Optimizer:
    """The one that the loops are run with; `loop_for` has found the file."""
    module = _module(FILE)
    assert module is not None
    optimiser: Optimizer = module.plain_sgd(network, lr)
    return optimiser
