"""How long a cell will take, from a few measured steps. An estimate, and mostly an upper bound."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import nn

from bench.attacks import PGDOn, get_attack
from bench.attacks.blocks import MIN_ROWS, Blocked
from bench.attacks.maximise import attack_mode
from bench.data import Dataset
from bench.evaluation.store import Images
from bench.folder import RunFolder
from bench.plan import Cell
from bench.spec import EvalSpec
from bench.threat import Threat
from bench.training.engine import Trainer, initial_model
from bench.training.validation import ATTACK

FIRST_TRY = 4
"""Images of the first measured step; a slow network is measured on no more."""
SLOW_SECONDS = 1.0


@dataclass(frozen=True)
class Speed:
    """Seconds an image, on this machine, now."""

    train_step: float
    gradient: float
    forward: float

    def training(self, cell: Cell) -> float:
        """The whole training with its validations."""
        epochs = cell.spec.recipe.epochs
        gradients, forwards = get_attack(ATTACK).passes
        validation = gradients * self.gradient + (forwards + 1) * self.forward
        return epochs * (cell.spec.n_train * self.train_step + cell.spec.n_val * validation)

    def evaluation(self, spec: EvalSpec) -> float:
        """One attack, if every image survives it."""
        gradients, forwards = get_attack(spec.attack).passes
        return spec.n_examples * (gradients * self.gradient + (forwards + 2) * self.forward)


def measure(cell: Cell, dataset: Dataset, folder: RunFolder, device: torch.device) -> Speed:
    """A few steps of the method and of PGD; writes nothing."""
    assert cell.method is not None
    trainer = Trainer(cell.spec, cell.method, dataset, folder, device)
    n = min(FIRST_TRY, len(trainer.data))
    seconds = trainer.time_batch(n)
    if seconds < SLOW_SECONDS:  # the first step also warms up
        n = min(cell.spec.recipe.batch_size, len(trainer.data))
        seconds = min(trainer.time_batch(n) for _ in range(3))
    network = initial_model(cell.spec).to(device).eval()
    gradient, forward = _attack_seconds(network, dataset, device)
    return Speed(seconds / n, gradient, forward)


def _attack_seconds(
    network: nn.Module, dataset: Dataset, device: torch.device
) -> tuple[float, float]:
    n = min(MIN_ROWS, len(dataset.test))
    x, y = Images(dataset, device).chunk(range(n))
    blocked, steps = Blocked(network, MIN_ROWS), 2
    # on the network, as AutoAttack: a copy takes less time
    attack = PGDOn(steps=steps, relative_step=0.2, search="network")

    def forward() -> float:
        with attack_mode(blocked, "eval"), torch.no_grad():
            return _timed(lambda: blocked(x).sum())

    def gradient() -> float:
        return _timed(lambda: attack(blocked, x, y, Threat()).sum())

    rows = max(n, MIN_ROWS)
    return min(gradient(), gradient()) / steps / rows, min(forward(), forward()) / rows


def _timed(work: object) -> float:
    assert callable(work)
    since = time.perf_counter()
    float(work())  # waits for the device
    return time.perf_counter() - since
