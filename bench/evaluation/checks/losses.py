"""C7, C8, C14: which loss, which scale of the logits, which label must matter little."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.attacks import get_attack
from bench.attacks.maximise import maximise
from bench.evaluation.check import Check
from bench.evaluation.checks.lab import Figure, Lab, share, verdict
from bench.losses import cross_entropy

UNTARGETED = {"cross entropy": "pgd-20", "margin": "cw", "DLR": "pgd-20-dlr"}
"""Run as often as there are targets: else the spread is that of restarts, which is C10's."""
OTHERS = {"targeted DLR": "multitargeted-dlr", "MultiTargeted": "multitargeted", "MD": "md"}
SPREAD = 5.0
"""Points by which losses may differ: they do by 2 to 4 on plainly adversarially trained nets, and
a large scale makes cross entropy another loss, much like the margin.
"""
OURS = "ours: 5 points, since losses differ by 2 to 4 on adversarially trained nets"
SCALES = (0.01, 0.1, 10.0, 100.0)
LABEL_MASS = 0.3137
"""Mass that CAT's soft label gives away at its largest radius: c eps_max at c = 10, 8/255."""
STARTS = 5
"""Random starts of the attacks that C8 and C14 compare: with one, chance moves images by itself."""


def loss_dependence(lab: Lab) -> Check:
    """C7: the spread between attacks that differ by their loss."""
    runs = lab.n_classes - 1
    left = {w: share(lab.survivors(name, restarts=runs)) for w, name in UNTARGETED.items()}
    left |= {what: share(lab.survivors(name)) for what, name in OTHERS.items()}
    spread = max(left.values()) - min(left.values())
    figure = Figure(what="losses apart by", value=spread, threshold=lab.points(SPREAD))
    return verdict("C7", [figure], OURS, {"accuracy": left})


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


def logit_scale(lab: Lab) -> Check:
    """C8: PGD-20 on scaled logits must not break more; at a large scale it may break fewer, since
    cross entropy then has no gradient in floating point, whatever the model.
    """
    attack = get_attack("pgd-20", restarts=STARTS)
    plain = share(lab.survivors("pgd-20", restarts=STARTS))
    scaled = [
        share(lab.still_right(lab.attack(attack, "pgd-20", on=Scaled(lab.model, factor))))
        for factor in SCALES
    ]
    figure = Figure(
        what="scaling the logits breaks more: by",
        value=plain - min(scaled),
        threshold=lab.points(SPREAD),
    )
    detail = {"scale": [1.0, *SCALES], "accuracy": [plain, *scaled]}
    return verdict("C8", [figure], OURS, detail)


def labels(lab: Lab) -> Check:
    """C14: soft labels, and each class as a target, against the label itself."""
    hard = share(lab.survivors("pgd-20", restarts=STARTS))
    soft = share(_against_soft_labels(lab))
    n_targets = lab.n_classes - 1
    as_many = share(lab.survivors("pgd-20", restarts=n_targets))
    targeted = share(lab.survivors("multitargeted", loss="ce"))
    return verdict(
        "C14",
        [
            Figure(
                what="soft labels break more: by",
                value=hard - soft,
                threshold=lab.points(SPREAD),
            ),
            Figure(
                what="targets break more than as many restarts: by",
                value=as_many - targeted,
                threshold=lab.points(SPREAD),
            ),
        ],
        OURS,
        {"hard": hard, "soft": soft, "hard_restarts": as_many, "targeted": targeted},
    )


def _against_soft_labels(lab: Lab) -> Tensor:
    """(m,) bool: right under PGD-20 against a label that gives LABEL_MASS to a draw of classes.

    From the starts of the attack that it is compared with.
    """
    generator = lab.generator("soft labels")
    exponential = torch.empty(len(lab.y), lab.n_classes, device=lab.x.device)
    exponential.exponential_(generator=generator)
    draw = exponential / exponential.sum(1, keepdim=True)
    hard = nn.functional.one_hot(lab.y, lab.n_classes).to(draw)
    soft = (1 - LABEL_MASS) * hard + LABEL_MASS * draw
    right, starts = torch.ones_like(lab.y, dtype=torch.bool), lab.generator("pgd-20")
    for _ in range(STARTS):
        x_adv = maximise(
            lambda logits, y, _: cross_entropy(logits, y),
            lab.model,
            lab.x,
            soft,
            threat=lab.threat,
            radius=lab.threat.eps,
            steps=20,
            step_size=lab.threat.eps / 5,
            start="uniform",
            generator=starts,
        )
        right &= lab.still_right(x_adv)
    return right
