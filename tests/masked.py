"""Networks whose gradients mislead: real ones that something hides, and small planted ones.

Shapes: n images, C H W image, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Masked(nn.Module):
    """A network with something put in front of it or behind it; in eval mode."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def before(self, x: Tensor) -> Tensor:
        """What the network is given in place of x."""
        return x

    def after(self, logits: Tensor) -> Tensor:
        """What is returned in place of its logits."""
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, K)."""
        return self.after(self.model(self.before(x)))


class Hot(Masked):
    """Logits times a thousand: cross entropy of what is right is 0, and so is its gradient."""

    def after(self, logits: Tensor) -> Tensor:
        return logits * 1e3


class Quantised(Masked):
    """Pixels in steps of a quarter: no gradient anywhere."""

    def before(self, x: Tensor) -> Tensor:
        return (x * 4).round() / 4


class Shattered(Masked):
    """Pixels with a ripple that moves them little, and the signs of their gradients at random."""

    def before(self, x: Tensor) -> Tensor:
        return x + 0.02 * (2000 * x).sin()


class Noisy(Masked):
    """Logits that differ from call to call."""

    def __init__(self, model: nn.Module, std: float = 2.0) -> None:
        super().__init__(model)
        self.std = std

    def after(self, logits: Tensor) -> Tensor:
        return logits + self.std * torch.randn_like(logits)


class Planted(nn.Module):
    """Class 0 against class 1 by a score of the pixels; classes 2 and 3 are far behind.

    score: (n, D) -> (n,): above 0 the answer is 1, else 0.
    """

    def __init__(self, score: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.score = score
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, 4)."""
        zero = 0 * x.flatten(1).sum(1)  # a score without a gradient has one of zeros
        half = self.score(x.flatten(1)) / 2 + zero
        return torch.stack([-half, half, zero - 9, zero - 9], 1)


HILL_EPS = 0.1


def grey(n: int, size: int = 4) -> tuple[Tensor, Tensor]:
    """Images (n, 1, size, size) of one grey, and the label 0 for each."""
    return torch.full((n, 1, size, size), 0.5), torch.zeros(n, dtype=torch.int64)


def hill(x: Tensor) -> Tensor:
    """Pixel 0: up to 0.5 eps, down to 0.8 eps, up again to where the answer changes.

    A tenth of the starts in a ball of HILL_EPS is beyond the dip.
    """
    d = (x[:, 0] - 0.5) / HILL_EPS
    return torch.where(d < 0.5, d, torch.where(d < 0.8, 1 - d, 4 * d - 3)) - 0.9
