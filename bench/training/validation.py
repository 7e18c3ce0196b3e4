"""Score a model in training: clean and under PGD-10, on the validation split."""

from dataclasses import dataclass
from typing import Literal

import torch

from bench.archs.arch import Arch
from bench.archs.inference_copy import kept_copy
from bench.attacks import get_attack
from bench.attacks.attack import is_correct
from bench.attacks.networks import BatchedModel, fitted
from bench.data.loader import Loader
from bench.machine import exact_arithmetic
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


def score(model: Arch, split: Loader, threat: Threat, seed: int) -> Score:
    """Score `model` in eval mode, with the same noise at every epoch.

    Predictions are in exact fp32; the attack may search in TF32.
    """
    return fitted(model, BATCH, split.y.device, lambda n: _score(model, split, threat, seed, n))


def _score(model: Arch, split: Loader, threat: Threat, seed: int, rows: int) -> Score:
    device = split.y.device
    generator = generator_for(seed, "validation", device=device)
    attack, blocked = get_attack(ATTACK), BatchedModel(kept_copy(model, "fp32"), rows)
    clean = torch.zeros((), dtype=torch.int64, device=device)
    robust = clean.clone()
    for index in torch.arange(len(split), device=device).split(BATCH):  # type: ignore[no-untyped-call]
        x, y = split.images(index), split.labels(index)
        x_adv = attack(blocked, x, y, threat, generator=generator)
        with exact_arithmetic():
            right = is_correct(blocked, x, y)
            robust += (right & is_correct(blocked, x_adv, y)).sum()
        clean += right.sum()
    n_clean, n_robust = torch.stack([clean, robust]).tolist()
    return Score(n_clean, n_robust, len(split))
