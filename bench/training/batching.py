"""Batches of an epoch, their parts, and the rows of each rank."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.data.loader import batches
from bench.errors import ConfigError
from bench.ranks import Ranks, Rows
from bench.records.spec import Recipe


def epoch_parts(order: Tensor, batch_size: int) -> list[Tensor]:
    """Split an epoch into batches; a single last image joins the batch before.

    BatchNorm cannot normalise one value per channel in a network that ends at one pixel.
    """
    parts = list(batches(order, batch_size))
    if len(parts) > 1 and len(parts[-1]) == 1 and len(parts[-2]) > 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def refuse_ranks(recipe: Recipe, n_images: int, n_ranks: int) -> None:
    """Raise ConfigError where a rank would have no image of some batch or micro-batch."""
    parts = epoch_parts(torch.arange(n_images), recipe.batch_size)
    different = {len(part): part for part in parts}.values()
    cut = (rows for part in different for rows in micro_batches(part, recipe.micro_batch))
    least = min(len(rows) for rows in cut)
    if least < n_ranks:
        what = "batch" if recipe.micro_batch is None else "micro-batch"
        raise ConfigError(
            f"--gpus-per-training {n_ranks}: the smallest {what} has {least} of {n_images} images; "
            f"use at most {least} GPUs, or another --batch-size"
        )


def micro_batches(rows: Tensor, n: int | None) -> Sequence[Tensor]:
    """Split a batch into parts of about equal size, of at most n rows; one row is never alone.

    BatchNorm cannot normalise one value per channel in a network that ends at one pixel.
    """
    n_parts = 1 if n is None else -(-len(rows) // n)
    return torch.tensor_split(rows, max(1, min(n_parts, len(rows) // 2)))


def own_rows(ranks: Ranks, n: int, micro_batch: int | None) -> Rows:
    """Return this rank's rows of a batch of n: its share of every micro-batch."""
    if micro_batch is None or ranks.size == 1:
        return ranks.rows(n)
    parts = micro_batches(torch.arange(n), micro_batch)
    return torch.cat([part[ranks.rows(len(part))] for part in parts])
