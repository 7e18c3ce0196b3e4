"""A first look at a model from outside, to see at once whether it was loaded right."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.attacks.blocks import Blocked
from bench.attacks.maximise import attack_mode
from bench.evaluation.chunk import exact_arithmetic
from bench.evaluation.evaluate import inspect_model
from bench.evaluation.normalised import expects_normalised
from bench.spec import CHUNK


@dataclass(frozen=True, kw_only=True)
class SelfCheck:
    """What the first images show."""

    n_examples: int
    n_correct: int
    """Without an attack."""
    num_classes: int
    """Of the model's output."""
    n_parameters: int
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        """A few lines for a person."""
        accuracy = 100 * self.n_correct / self.n_examples
        return [
            f"self-check on the first {self.n_examples} test images: {self.n_correct} right "
            f"without an attack ({accuracy:.1f}%), {self.num_classes} classes, "
            f"{self.n_parameters:,} parameters",
            *(f"  warning: {text}" for text in self.warnings),
            *([] if self.warnings else ["  no warnings"]),
        ]


def self_check(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> SelfCheck:
    """Look at the model's output on the first images; x (n, C, H, W) in [0, 1], y (n,).

    Raises ConfigError where its output cannot be logits of these labels.
    """
    x, y = x[:CHUNK], y[:CHUNK]
    notes = inspect_model(model, x, y, batch_size)
    with attack_mode(model, "eval"), exact_arithmetic(), torch.no_grad():
        logits = Blocked(model, batch_size)(x)
    right = (logits.argmax(1) == y) & logits.isfinite().all(1)
    notes += expects_normalised(model, x, y, batch_size, right)
    return SelfCheck(
        n_examples=len(y),
        n_correct=int(right.sum()),
        num_classes=logits.shape[1],
        n_parameters=sum(parameter.numel() for parameter in model.parameters()),
        warnings=tuple(notes),
    )
