"""How near a training step comes to what this machine's convolutions reach when they are alone.

The floor of a step is the sum, over the layers of its network, of the fastest time that was
measured for each of their passes alone, times how often the step needs that pass; in the step's own
precision, over the memory layouts NCHW and channels last. The share is that floor over the step's
time, both measured in the same round: a machine's speed changes within minutes. A layer is repeated
on the same tensors, so that a cache may hold them as it cannot in a step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor, nn

from bench.speed.layers import Layer, Pass, layers_of, work
from bench.speed.rounds import timed
from bench.training.passes import Passes

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LAYOUTS = (torch.contiguous_format, torch.channels_last)
BUDGET = 0.3
"""Seconds for one pass of one layer in one layout; each is measured at least twice, or once
where the budget is 0, and not counting the first call."""
BLOCK = 1e-3
"""Seconds between two looks at the clock, at least: a look waits for the device."""


def floor_seconds(
    network: nn.Module,
    x: Tensor,
    passes: Passes,
    precision: str = "fp32",
    *,
    updates: float = 1.0,
    budget: float = BUDGET,
) -> float:
    """Seconds that the convolutions of one step on x (B, C, H, W) take at their fastest, now.

    `updates`: backward passes an image that also make gradients of the weights, and so need none
    of the pixels. The device is that of x.
    """
    seconds: dict[tuple[Layer, Pass], float] = {}  # equal layers are measured once
    total = 0.0
    for layer, which, times in needed(layers_of(network, x), passes, updates):
        if (layer, which) not in seconds:
            seconds[layer, which] = least(layer, which, precision, x.device, budget)
        total += times * seconds[layer, which]
    return total


def needed(
    layers: Sequence[Layer], passes: Passes, updates: float = 1.0
) -> Iterator[tuple[Layer, Pass, float]]:
    """How often each layer is passed; the first has no gradient to hand back in an update."""
    for place, layer in enumerate(layers):
        first = place == 0
        times: dict[Pass, float] = {
            "forward": passes.first_layer if first else passes.forward,
            "input": passes.backward - updates if first else passes.backward,
            "weight": updates,
        }
        yield from ((layer, which, n) for which, n in times.items() if n > 0)


def least(
    layer: Layer, which: Pass, precision: str, device: torch.device, budget: float = BUDGET
) -> float:
    """Seconds of one pass alone, the least that is measured."""
    layouts = LAYOUTS[:1] if layer.is_linear else LAYOUTS
    with torch.no_grad(), tuned(device):
        return min(
            shortest(work(layer, which, DTYPES[precision], layout, device), device, budget)
            for layout in layouts
        )


def fastest(
    layer: Layer, which: Pass, precision: str, device: torch.device, budget: float = BUDGET
) -> float:
    """The same, measured once a process."""
    return _fastest(layer, which, precision, device, budget, torch.get_num_threads())


@cache
def _fastest(
    layer: Layer, which: Pass, precision: str, device: torch.device, budget: float, threads: int
) -> float:
    return least(layer, which, precision, device, budget)


@contextmanager
def tuned(device: torch.device) -> Iterator[None]:
    """On CUDA each convolution takes the fastest of the kernels that there are for it."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def shortest(call: Callable[[], object], device: torch.device, budget: float = BUDGET) -> float:
    """Seconds of one call: the least over blocks of calls, for about `budget` seconds in all."""
    until = time.perf_counter() + budget
    first = seconds_of(call, 1, device)
    n = max(1, round(BLOCK / max(seconds_of(call, 1, device), 1e-9))) if first < BLOCK else 1
    found: list[float] = []
    while len(found) < (2 if budget else 1) or time.perf_counter() < until:
        found.append(seconds_of(call, n, device) / n)
    return min(found)


def seconds_of(call: Callable[[], object], n: int, device: torch.device) -> float:
    """Seconds of n calls together, until the device has done them."""

    def calls() -> None:
        for _ in range(n):
            call()

    return timed(calls, device)
