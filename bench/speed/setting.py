"""On what a speed is measured: network, precision, device, sizes, rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from bench.archs import resolve
from bench.errors import ConfigError, unknown_name
from bench.machine import has_fast_bf16
from bench.spec import CHUNK, PRECISIONS

CLASSES = 10
CHANNELS = 3


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much a network is given, so that a round on a CPU takes seconds or minutes."""

    batch_size: int
    """Images of a training step."""
    n_attacked: int
    """Images of a PGD evaluation."""
    n_autoattack: int
    """Images of AutoAttack."""
    effort: float
    """Share of AutoAttack's iterations."""
    fitting: Fitting
    """How the attacked network is trained."""


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """A training that is as short as it can be."""

    n_batches: int
    batch_size: int
    lr: float
    eps: float
    """Of the one step that it is trained against."""


SIZES = {
    "cnn": Sizes(
        batch_size=128,
        n_attacked=1024,
        n_autoattack=64,
        effort=1.0,
        fitting=Fitting(n_batches=120, batch_size=32, lr=0.1, eps=0.05),
    ),
}
OTHERS = Sizes(
    batch_size=32,
    n_attacked=16,
    n_autoattack=4,
    effort=0.1,
    fitting=Fitting(n_batches=20, batch_size=16, lr=0.02, eps=0.02),
)
"""Of networks that a CPU is slow on."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the rows of one network and precision have in common."""

    arch: str
    precision: str
    """Of our side; the reference is fp32."""
    device: torch.device
    sizes: Sizes
    image_size: int = 32
    """Pixels a side; three channels."""
    n_rounds: int = 5
    with_memory: bool = True
    with_peak: bool = True
    compiles: bool = False
    """What our steps attack."""

    def __post_init__(self) -> None:
        sizes = self.sizes
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        for name, good, allowed in (
            ("rounds", self.n_rounds >= 1, "at least 1"),
            ("batch-size", sizes.batch_size >= 1, "at least 1"),
            ("images", sizes.n_attacked >= 1, "at least 1"),
            (
                "autoattack-images",
                1 <= sizes.n_autoattack <= min(CHUNK, sizes.n_attacked),
                f"at least 1, at most {CHUNK}, and no more than --images",
            ),
            ("effort", 0 < sizes.effort <= 1, "above 0 and at most 1"),
            ("image-size", self.image_size >= 1, "at least 1"),
        ):
            if not good:
                raise ConfigError(f"--{name} is out of range: {allowed}")


def settings(
    archs: Sequence[str],
    precisions: Sequence[str],
    device: torch.device,
    *,
    rounds: int,
    batch_size: int | None = None,
    images: int | None = None,
    autoattack_images: int | None = None,
    effort: float | None = None,
    image_size: int = 32,
    memory: bool = True,
    peak: bool = True,
    compiles: bool = False,
) -> list[Setting]:
    """One for each network and precision, with the sizes of the network where none is given.

    Without precisions: fp32, and bf16 where the device multiplies it in hardware. Raises
    ConfigError for an unknown network or precision, or a size that is out of range.
    """
    given = {
        "batch_size": batch_size,
        "n_attacked": images,
        "n_autoattack": autoattack_images,
        "effort": effort,
    }
    changed: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return [
        Setting(
            arch=arch,
            precision=precision,
            device=device,
            sizes=_sizes(arch, changed),
            image_size=image_size,
            n_rounds=rounds,
            with_memory=memory,
            with_peak=peak,
            compiles=compiles,
        )
        for arch in dict.fromkeys(resolve(arch) for arch in archs)
        for precision in dict.fromkeys(precisions) or _suitable(device)
    ]


def _sizes(arch: str, changed: dict[str, Any]) -> Sizes:
    """The network's own with some changed; AutoAttack's images are the first of those attacked."""
    sizes = replace(SIZES.get(arch, OTHERS), **changed)
    if "n_autoattack" in changed:
        return sizes
    return replace(sizes, n_autoattack=min(sizes.n_autoattack, sizes.n_attacked))


def _suitable(device: torch.device) -> Sequence[str]:
    return PRECISIONS if has_fast_bf16(device) else PRECISIONS[:1]
