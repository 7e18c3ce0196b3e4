"""The threat model: the perturbed images that an adversary may choose.

Shapes: B batch, C H W image. Pixels are in [0, 1], and so is eps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.eps import REFERENCE_EPS, parse_eps
from bench.errors import ConfigError
from bench.ranks import Generator, drawn


def rowwise(value: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, ...), to broadcast over `like` (B, ...)."""
    return value.view(-1, *([1] * (like.ndim - 1)))


def per_example(value: float | Tensor, like: Tensor) -> float | Tensor:
    """A float unchanged, or a (B,) tensor reshaped to broadcast over `like` (B, ...)."""
    return rowwise(value, like) if isinstance(value, Tensor) else value


@dataclass(frozen=True)
class Threat:
    """A ball of radius `eps` around each image, intersected with the pixel range [0, 1]."""

    norm: str = "linf"
    """Only `linf`: everything that this benchmark compares is defined for it."""
    eps: float = REFERENCE_EPS
    """Radius, in pixels of [0, 1]."""

    def __post_init__(self) -> None:
        if self.norm != "linf":
            raise ConfigError(f"norm '{self.norm}' is not supported; use 'linf'")
        if self.eps > 1:
            shown = f"{self.eps:g}"
            raise ConfigError(f"eps {shown}: pixels are in [0, 1]; did you mean {shown}/255?")
        if not self.eps >= 0:
            raise ConfigError(f"eps {self.eps:g}: must be a number in [0, 1], such as 8/255")

    def scale(self, length: float) -> float:
        """Scale a length stated at eps = 8/255 to this eps."""
        return length * self.eps / REFERENCE_EPS

    def project(self, x_adv: Tensor, x: Tensor, radius: float | Tensor | None = None) -> Tensor:
        """Return the nearest image to `x_adv` within `radius` of `x` (default eps) and in [0, 1].

        radius: a float or (B,).
        """
        return torch.clamp(x_adv, *self.bounds(x, radius))

    def bounds(self, x: Tensor, radius: float | Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the lowest and highest allowed value of each pixel, (B, C, H, W)."""
        r = per_example(self.eps if radius is None else radius, x)
        return (x - r).clamp(min=0.0), (x + r).clamp(max=1.0)

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """(B, ...), (B, ...) -> (B,): distance of each image pair in the norm."""
        return (x_adv - x).abs().flatten(1).amax(1)

    def dual_norm(self, gradient: Tensor) -> Tensor:
        """(B, ...) -> (B,): the largest first-order gain over a ball of radius 1 (L1 for linf)."""
        return gradient.abs().flatten(1).sum(1)

    def uniform(self, x: Tensor, generator: Generator | None) -> Tensor:
        """Return noise of the shape of x, uniform in the ball of radius 1."""
        return drawn(
            x, generator, lambda x, g: torch.empty_like(x).uniform_(-1.0, 1.0, generator=g)
        )


__all__ = ["REFERENCE_EPS", "Threat", "parse_eps", "per_example", "rowwise"]
