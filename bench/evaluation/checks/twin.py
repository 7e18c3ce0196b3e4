"""C12: the attack must work at all, on a network that nothing defends."""

from __future__ import annotations

import torch

from bench.attacks import get_attack
from bench.attacks.maximise import attack_mode
from bench.evaluation.check import Check
from bench.evaluation.checks.lab import Figure, Lab, share, verdict
from bench.evaluation.chunk import predictions


def undefended(lab: Lab) -> Check:
    """PGD-20 and C&W on the naturally trained network of the same arch: about nothing survives."""
    network = lab.surrogates[0]
    right = torch.ones_like(lab.y, dtype=torch.bool)
    with attack_mode(network, "eval"):  # in train mode it would predict by the batch, and learn
        for name in ("pgd-20", "cw"):
            x_adv = lab.attack(get_attack(name), f"twin {name}", on=network)
            right &= predictions(network, x_adv, lab.y)[0]
    figure = Figure(
        what="an undefended twin keeps",
        value=share(right),
        threshold=lab.points(1),
    )
    return verdict("C12", [figure], "ours: 1 point")
