"""The self-check of an external model: shows at once whether it was loaded correctly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.attacks.blocks import Blocked
from bench.evaluation.model_checks import expects_normalised, inspect_model
from bench.evaluation.prediction import evaluating, is_right
from bench.spec import CHUNK


@dataclass(frozen=True, kw_only=True)
class SelfCheck:
    """Results on the first images."""

    n_examples: int
    n_correct: int
    """Without an attack."""
    num_classes: int
    n_parameters: int
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        accuracy = 100 * self.n_correct / self.n_examples
        return [
            f"self-check on the first {self.n_examples} test images: {self.n_correct} right "
            f"without an attack ({accuracy:.1f}%), {self.num_classes} classes, "
            f"{self.n_parameters:,} parameters",
            *(f"  warning: {text}" for text in self.warnings),
            *([] if self.warnings else ["  no warnings"]),
        ]


def self_check(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> SelfCheck:
    """Check the model's output on the first images; x (n, C, H, W) in [0, 1], y (n,).

    Raises ConfigError if its output cannot be logits of these labels.
    """
    x, y = x[:CHUNK], y[:CHUNK]
    notes = inspect_model(model, x, y, batch_size)
    with evaluating(model), torch.no_grad():
        logits = Blocked(model, batch_size)(x)
    right = is_right(logits, y)
    notes += expects_normalised(model, x, y, batch_size, right)
    return SelfCheck(
        n_examples=len(y),
        n_correct=int(right.sum()),
        num_classes=logits.shape[1],
        n_parameters=sum(parameter.numel() for parameter in model.parameters()),
        warnings=tuple(notes),
    )
