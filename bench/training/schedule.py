"""Learning rates per iteration."""

from __future__ import annotations

import math

from bench.recipe import Recipe


def learning_rate(recipe: Recipe, batch_number: int, n_batches: int) -> float:
    """The rate of batch `batch_number` (from 0) of `n_batches` in the whole training."""
    progress = batch_number / n_batches
    if recipe.schedule == "cosine":
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * progress))
    if recipe.schedule == "onecycle":
        return recipe.lr * _triangle(progress, recipe.warmup)
    # half a batch of slack: a milestone is a fraction that was rounded
    passed = sum(progress + 0.5 / n_batches >= milestone for milestone in recipe.milestones)
    return float(recipe.lr * recipe.drop**passed)


def _triangle(progress: float, warmup: float) -> float:
    """0 to 1 over `warmup`, then back to 0 at the end: both lines straight."""
    if progress < warmup:
        return progress / warmup
    return (1 - progress) / (1 - warmup)
