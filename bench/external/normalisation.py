"""A normalisation in front of a network that expects normalised images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from torch import Tensor, nn

from bench.archs.arch import per_channel
from bench.errors import CheckpointError, ConfigError

PAIRS = (("new_mean", "new_std"), ("mean", "std"), ("mu", "sigma"))
"""Last parts of the keys that a normalisation is saved under; first those of `robustness`."""
IDENTITY = "--mean 0,0,0 --std 1,1,1"

Normalisation: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation, one value per channel."""


class Normalised(nn.Module):
    """`network` on (x - mean) / std. Images (B, C, H, W) in [0, 1]; logits (B, K)."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", per_channel("mean", mean, len(mean)))
        self.register_buffer("std", per_channel("std", std, len(mean), positive=True))
        self.training = network.training

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network((x - self.mean) / self.std)
        return logits


def parse_normalisation(mean: str | None, std: str | None, n_channels: int) -> Normalisation | None:
    """Parse --mean and --std, one value per channel; None if neither is set.

    Raises ConfigError.
    """
    if (mean is None) != (std is None):
        raise ConfigError("--mean and --std go together: give both or neither")
    if mean is None or std is None:
        return None
    pair = _numbers("--mean", mean), _numbers("--std", std)
    for name, values in zip(("--mean", "--std"), pair, strict=True):
        per_channel(name, values, n_channels, positive=name == "--std")
    return pair


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"{name} {text}: write one number per channel, such as 0.4914,0.4822,0.4465"
        ) from None


def without_normalisation(
    state: Mapping[str, Tensor], network: nn.Module, *, given: bool
) -> dict[str, Tensor]:
    """Drop a normalisation from a state dict if the network has no place for it.

    given: whether --mean and --std are set; if not, a CheckpointError names the file's values,
    since only the user knows whether the network normalises by itself.
    """
    own = {_last(name) for name in network.state_dict()}
    for pair in PAIRS:
        found = {name: t for name, t in state.items() if _last(name) in pair}
        if own.intersection(pair) or {_last(name) for name in found} != set(pair):
            continue
        if not given:
            mean, std = (
                ",".join(f"{value:.4g}" for value in tensor.flatten().tolist())
                for end in pair
                for tensor in [next(t for name, t in found.items() if _last(name) == end)]
            )
            raise CheckpointError(
                f"the weights come with a normalisation: give --mean {mean} --std {std}, or "
                f"{IDENTITY} if the network normalises by itself"
            )
        state = {name: tensor for name, tensor in state.items() if name not in found}
    return dict(state)


def _last(name: str) -> str:
    return name.rpartition(".")[2]
