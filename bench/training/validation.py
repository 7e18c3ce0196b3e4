"""Score a model in training: clean and under PGD-10, on the validation split."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from bench.archs.arch import Arch
from bench.archs.inference_copy import kept_copy
from bench.attacks import get_attack
from bench.attacks.attack import is_correct
from bench.attacks.networks import BatchedModel, fitted
from bench.data.loader import Loader
from bench.machine import exact_arithmetic
from bench.ranks import ALONE, Ranks
from bench.seeding import generator_for
from bench.threat import Threat

ATTACK = "pgd-10"
BATCH = 256


@dataclass(frozen=True)
class Score:
    """Correct images of the validation split."""

    n_clean: int
    n_robust: int
    n: int

    def rank(self, by: Literal["robust", "clean"]) -> tuple[int, int]:
        ranks = self.n_robust, self.n_clean
        return ranks if by == "robust" else ranks[::-1]


def score(model: Arch, split: Loader, threat: Threat, seed: int, ranks: Ranks = ALONE) -> Score:
    """Score `model` in eval mode, with the same noise at every epoch.

    Predictions are in exact fp32; the attack may search in TF32.

    Each rank scores its rows of every block; the counts are of all.
    """
    device = split.y.device
    counts = fitted(model, BATCH, device, lambda n: _counts(model, split, threat, seed, ranks, n))
    clean, robust = ranks.sum(counts).tolist()
    return Score(clean, robust, len(split))


def _counts(
    model: Arch, split: Loader, threat: Threat, seed: int, ranks: Ranks, batch_size: int
) -> Tensor:
    """(2,): the images that are correct without and under the attack."""
    device = split.y.device
    stream = generator_for(seed, "validation", device=device)
    attack, blocked = get_attack(ATTACK), BatchedModel(kept_copy(model, "fp32"), batch_size)
    clean = torch.zeros((), dtype=torch.int64, device=device)
    robust = clean.clone()
    for index in torch.arange(len(split), device=device).split(BATCH):  # type: ignore[no-untyped-call]
        with ranks.sharing(len(index)) as rows:
            x, y = split.images(index[rows]), split.labels(index[rows])
            draws: Any = ranks.stream(stream)  # PGD draws only its start, by `start_noise`
            x_adv = attack(blocked, x, y, threat, generator=draws)
        with exact_arithmetic():
            right = is_correct(blocked, x, y)
            robust += (right & is_correct(blocked, x_adv, y)).sum()
        clean += right.sum()
    return torch.stack([clean, robust])
