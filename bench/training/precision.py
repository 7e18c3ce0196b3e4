"""Mixed precision: bf16, except for the perturbed input and the first layer, which stay in fp32.

Near 0.5, adjacent bf16 numbers are 0.002 to 0.004 apart, more than the start noise of TRADES, so
bf16 would change the input.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.archs.arch import Arch
from bench.archs.fast import Precision


class MixedPrecision(nn.Module):
    """Run an arch's `stem` in fp32 and its `rest` under bf16 autocast; logits are fp32."""

    def __init__(self, model: Arch) -> None:
        super().__init__()
        self.model = model

    def stem(self, x: Tensor) -> Tensor:
        return self.model.stem(x)

    def rest(self, h: Tensor) -> Tensor:
        with torch.autocast(h.device.type, dtype=torch.bfloat16):
            return self.model.rest(h).float()

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.stem(x))


def with_precision(model: Arch, precision: str) -> nn.Module:
    """Wrap `model` for training in `precision`; for fp32, return it unchanged."""
    return MixedPrecision(model) if precision == "bf16" else model


def precision_of(model: nn.Module) -> Precision:
    return "bf16" if isinstance(model, MixedPrecision) else "fp32"


def has_copy(model: nn.Module) -> bool:
    """Whether attacks can run on a copy of it; a compiled network has none."""
    return isinstance(model, MixedPrecision | Arch)


def plain(model: nn.Module) -> Arch:
    """Unwrap the network, for saving and evaluating."""
    network = model.model if isinstance(model, MixedPrecision) else model
    assert isinstance(network, Arch)
    return network
