"""bf16 where it is safe: the perturbed input and the first layer stay in fp32.

Near 0.5 neighbouring bf16 numbers are 0.002 to 0.004 apart, more than the start noise of TRADES,
so an input that passes through bf16 is another input.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.archs.arch import Arch
from bench.archs.fast import Precision


class MixedPrecision(nn.Module):
    """An arch whose `stem` runs in fp32 and whose `rest` runs under bf16 autocast."""

    def __init__(self, model: Arch) -> None:
        super().__init__()
        self.model = model

    def stem(self, x: Tensor) -> Tensor:
        """First layer, fp32."""
        return self.model.stem(x)

    def rest(self, h: Tensor) -> Tensor:
        """Everything after it; logits come back as fp32."""
        with torch.autocast(h.device.type, dtype=torch.bfloat16):
            return self.model.rest(h).float()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] -> logits (B, K), fp32."""
        return self.rest(self.stem(x))


def with_precision(model: Arch, precision: str) -> nn.Module:
    """`model` as it trains: fp32 is the model itself."""
    return MixedPrecision(model) if precision == "bf16" else model


def precision_of(model: nn.Module) -> Precision:
    """That of `with_precision`."""
    return "bf16" if isinstance(model, MixedPrecision) else "fp32"


def has_copy(model: nn.Module) -> bool:
    """Whether attacks can run on a copy of it; a compiled network is attacked as it is."""
    return isinstance(model, MixedPrecision | Arch)


def plain(model: nn.Module) -> Arch:
    """The network without its wrapper, for saving and evaluating."""
    network = model.model if isinstance(model, MixedPrecision) else model
    assert isinstance(network, Arch)
    return network
