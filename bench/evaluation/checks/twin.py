"""C12: the attack must work at all, on a network that nothing defends."""

from __future__ import annotations

import torch

from bench.attacks import get_attack
from bench.evaluation.check import Check
from bench.evaluation.checks.lab import Figure, Lab, verdict
from bench.evaluation.chunk import predictions


def undefended(lab: Lab) -> Check:
    """PGD-20 and C&W on the naturally trained network of the same arch: about nothing survives."""
    network = lab.surrogates[0]
    right = torch.stack(
        [
            predictions(network, lab.attack(get_attack(name), f"twin {name}", on=network), lab.y)[0]
            for name in ("pgd-20", "cw")
        ]
    ).all(0)
    figure = Figure(
        what="an undefended twin keeps",
        value=float(right.float().mean()),
        threshold=lab.points(1),
    )
    return verdict("C12", [figure], "ours: 1 point")
