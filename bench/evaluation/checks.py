"""Does a model hide its gradients? Symptoms of Athalye et al. (arXiv 1802.00420) and Carlini et al.
(arXiv 1902.06705), each with a figure, a threshold and a verdict.

Absence of all of them is necessary, not sufficient. Thresholds are proposals, never below two
images; the accuracies are of clean-correct images of the first chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bench.attacks import PGD
from bench.attacks.blocks import Blocked
from bench.attacks.maximise import attack_mode
from bench.evaluation.chunk import exact_arithmetic, predictions
from bench.losses import cross_entropy
from bench.seeding import generator_for
from bench.spec import CHUNK
from bench.threat import Threat

MIN_IMAGES = 2
PGD_20 = PGD(steps=20, relative_step=0.2)
SCALES = (0.01, 0.1, 10.0, 100.0)


@dataclass(frozen=True)
class Check:
    """One quantity that tells whether an evaluation can be believed."""

    name: str
    value: float
    threshold: float
    """The largest value that raises no alarm."""
    alarm: bool


class Scaled(nn.Module):
    """A model whose logits are multiplied: its decisions are the same."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model = model
        self.factor = factor
        self.train(model.training)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K)."""
        logits: Tensor = self.model(x)
        return logits * self.factor


def run_checks(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, seed: int = 0, batch_size: int = 256
) -> list[Check]:
    """Every check on the first 256 images; a model on which none is correct has none to make."""
    blocked = Blocked(model, batch_size)
    with attack_mode(blocked, "eval"), exact_arithmetic():
        x, y = x[:CHUNK], y[:CHUNK]
        right, _ = predictions(blocked, x, y)
        x, y = x[right], y[right]
        if len(y) == 0:
            return []

        def accuracy(attack: PGD, at: Threat = threat, scale: float = 1.0) -> float:
            generator = generator_for(seed, "checks", device=x.device)
            attacked = Scaled(blocked, scale) if scale != 1.0 else blocked
            x_adv = attack(attacked, x, y, at, generator=generator)
            still, _ = predictions(blocked, x_adv, y)
            return float(still.float().mean())

        return [
            *_accuracy_checks(accuracy, threat, MIN_IMAGES / len(y)),
            _zero_gradients(blocked, x, y),
            _randomness(blocked, x),
        ]


def _accuracy_checks(accuracy: Callable[..., float], threat: Threat, least: float) -> list[Check]:
    ce = accuracy(PGD_20)
    fgsm = accuracy(PGD(steps=1, relative_step=1.0, start="zero"))
    margin = accuracy(replace(PGD_20, loss="margin"))
    wide = accuracy(PGD_20, Threat(threat.norm, min(1.0, 2 * threat.eps)))
    grey = accuracy(PGD(steps=50, relative_step=0.05), Threat(threat.norm, 1.0))
    scaled = [accuracy(PGD_20, scale=factor) for factor in SCALES]
    return [
        _check("C3 unbounded attack: accuracy at eps 1", grey, 0.0),
        _check("C4 one step beats twenty: by", ce - fgsm, least),
        _check("C5 a larger ball is safer: by", wide - ce, least),
        _check("C7 cross entropy against margin: apart by", abs(ce - margin), max(0.05, least)),
        _check("C8 scaling the logits breaks: more by", ce - min(scaled), max(0.01, least)),
    ]


def _zero_gradients(model: nn.Module, x: Tensor, y: Tensor) -> Check:
    """Share of images at which the gradient of cross entropy is zero in every pixel."""
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(cross_entropy(model(x), y).sum(), x)
    share = float((gradient.flatten(1).abs().amax(1) == 0).float().mean())
    return _check("C9 zero gradients: share of images", share, 0.0)


def _randomness(model: nn.Module, x: Tensor) -> Check:
    """Largest difference between the logits of repeated calls."""
    with torch.no_grad():
        first = model(x)
        apart = max(float((model(x) - first).abs().amax()) for _ in range(4))
    return _check("C13 repeated calls: logits apart by", apart, 1e-4)


def _check(name: str, value: float, threshold: float) -> Check:
    return Check(name, value, threshold, alarm=not value <= threshold)
