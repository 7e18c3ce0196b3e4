"""Networks whose gradients mislead: real ones that something hides, and small planted ones.

Shapes: n images, C H W image, K classes.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

Change: TypeAlias = Callable[[Tensor], Tensor]


def unchanged(x: Tensor) -> Tensor:
    return x


class Masked(nn.Module):
    """A network in eval mode, with something done to its images (before) or its logits (after)."""

    def __init__(
        self, model: nn.Module, *, before: Change = unchanged, after: Change = unchanged
    ) -> None:
        super().__init__()
        self.model, self.before, self.after = model, before, after
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, K)."""
        return self.after(self.model(self.before(x)))


def hot(model: nn.Module) -> Masked:
    """Logits times a thousand: cross entropy of what is right is 0, and so is its gradient."""
    return Masked(model, after=lambda logits: logits * 1e3)


def quantised(model: nn.Module) -> Masked:
    """Pixels in steps of a quarter: no gradient anywhere."""
    return Masked(model, before=lambda x: (x * 4).round() / 4)


def shattered(model: nn.Module) -> Masked:
    """Pixels with a ripple that moves them little, and the signs of their gradients at random."""
    return Masked(model, before=lambda x: x + 0.02 * (2000 * x).sin())


def noisy(model: nn.Module, std: float = 2.0) -> Masked:
    """Logits that differ from call to call."""
    return Masked(model, after=lambda logits: logits + std * torch.randn_like(logits))


class Planted(nn.Module):
    """Class 0 against class 1 by a score of the pixels; classes 2 and 3 are far behind.

    score: (n, D) -> (n,): above 0 the answer is 1, else 0.
    """

    def __init__(self, score: Change) -> None:
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
