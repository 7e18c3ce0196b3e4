"""What a training step keeps for its backward pass, counted at a small size and scaled up."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from bench.archs import build
from benchmarks.workloads import engine_step, made_spec

CPU = torch.device("cpu")
BATCH, SIZE = 1, 8
WANTED = 128, 32
GIB = 2**30


class Saved:
    """Bytes of the distinct tensors that graphs keep, now and at most."""

    def __init__(self) -> None:
        self.holders: Counter[int] = Counter()
        self.now = self.most = 0

    def pack(self, tensor: Tensor) -> _Kept:
        """What stands for a tensor in a graph."""
        return _Kept(self, tensor)


class _Kept:
    """One tensor that a graph keeps, for as long as it does."""

    def __init__(self, saved: Saved, tensor: Tensor) -> None:
        self.saved, self.tensor = saved, tensor
        storage = tensor.untyped_storage()
        self.place, self.n_bytes = storage.data_ptr(), storage.nbytes()
        saved.holders[self.place] += 1
        if saved.holders[self.place] == 1:
            saved.now += self.n_bytes
            saved.most = max(saved.most, saved.now)

    def __del__(self) -> None:
        self.saved.holders[self.place] -= 1
        if self.saved.holders[self.place] == 0:
            self.saved.now -= self.n_bytes


def kept(method: str, batch_size: int) -> int:
    """The most that graphs keep in one step."""
    spec = made_spec(method, "wrn-34-10", "bf16", batch_size, SIZE)
    step, saved = engine_step(spec, CPU), Saved()
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda held: held.tensor):
        step()
    assert saved.now == 0
    return saved.most


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
