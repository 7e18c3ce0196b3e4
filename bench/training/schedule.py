"""Learning rates per iteration."""

from __future__ import annotations

import math

from bench.recipe import Recipe


def learning_rate(recipe: Recipe, batch_number: int, n_batches: int) -> float:
    """Return the rate of batch `batch_number` (from 0) of `n_batches` in the whole training."""
    progress = batch_number / n_batches
    return _scheduled(recipe, batch_number, n_batches) / (1 + recipe.time_decay * progress)


def n_drops(recipe: Recipe, batch_number: int, n_batches: int) -> int:
    """Count the milestones before the start of this batch."""
    # half a batch of slack: a milestone is a fraction that was rounded
    reached = batch_number / n_batches + 0.5 / n_batches
    return sum(reached >= milestone for milestone in recipe.milestones)


def _scheduled(recipe: Recipe, batch_number: int, n_batches: int) -> float:
    progress = batch_number / n_batches
    if recipe.schedule == "cosine":
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * progress))
    if recipe.schedule == "onecycle":
        return recipe.lr * _triangle(progress, recipe.warmup)
    passed = n_drops(recipe, batch_number, n_batches)
    if isinstance(recipe.drop, tuple):
        return recipe.lr * (1.0, *recipe.drop)[passed]
    return float(recipe.lr * recipe.drop**passed)


def _triangle(progress: float, warmup: float) -> float:
    """Rise linearly from 0 to 1 over `warmup`, then fall linearly to 0 at the end."""
    if progress < warmup:
        return progress / warmup
    return (1 - progress) / (1 - warmup)
