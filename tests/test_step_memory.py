"""What a training step keeps for its backward pass, counted at a small size and scaled up."""

from collections import Counter
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from bench.archs import build
from bench.estimate import made_spec
from benchmarks.workloads import engine_step

BATCH, SIZE = 1, 8
WANTED = 128, 32
GIB = 2**30


class Kept:
    """A tensor that a graph keeps; counts the bytes of all distinct ones, now and at most."""

    holders: ClassVar = Counter[int]()
    now = most = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        storage = tensor.untyped_storage()
        self.place, self.n_bytes = storage.data_ptr(), storage.nbytes()
        Kept.holders[self.place] += 1
        if Kept.holders[self.place] == 1:
            Kept.now += self.n_bytes
            Kept.most = max(Kept.most, Kept.now)

    def __del__(self) -> None:
        Kept.holders[self.place] -= 1
        if Kept.holders[self.place] == 0:
            Kept.now -= self.n_bytes


def kept(method: str, batch_size: int) -> int:
    """Peak bytes that graphs keep in one step."""
    spec = made_spec(method, "wrn-34-10", batch_size, image_size=SIZE, precision="bf16")
    step = engine_step(spec, torch.device("cpu"))
    Kept.most = 0
    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda held: held.tensor):
        step()
    assert Kept.now == 0
    return Kept.most


@pytest.mark.slow
def test_wrn_34_10_in_bf16_takes_128_images_in_16_gib() -> None:
    """Under TRADES, whose update keeps two whole passes."""
    few, more = (kept("trades", n * BATCH) for n in (1, 2))
    n_images, size = WANTED
    activations = (more - few) / BATCH * n_images * (size / SIZE) ** 2
    network = build("wrn-34-10", num_classes=10, in_channels=3, image_size=SIZE)
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    # of each weight: itself, its gradient, its momentum, the attacked copy, and room for two more;
    # and as much again as is kept for what lives for a moment
    assert 0 < 2 * activations + 6 * weights < 16 * GIB
