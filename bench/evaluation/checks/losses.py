"""C7, C8, C14: the choice of loss, the scale of the logits and the label must matter little."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.attacks import get_attack
from bench.attacks.maximise import maximise
from bench.evaluation.check import Check, Indicator, verdict
from bench.evaluation.checks.context import CheckContext, share
from bench.losses import cross_entropy

UNTARGETED = {"cross entropy": "pgd-20", "margin": "cw", "DLR": "pgd-20-dlr"}
"""Run with one restart per target class: else the spread is that of restarts, which C10 measures.
"""
OTHERS = {"targeted DLR": "multitargeted-dlr", "MultiTargeted": "multitargeted", "MD": "md"}
SPREAD = 5.0
"""Points by which losses may differ: they do by 2 to 4 on plainly adversarially trained networks,
and a large scale makes cross entropy another loss, much like the margin."""
OURS = "ours: 5 points, since losses differ by 2 to 4 on adversarially trained nets"
SCALES = (0.01, 0.1, 10.0, 100.0)
LABEL_MASS = 0.3137
"""Mass that CAT's soft label gives away at its largest radius: c eps_max at c = 10, 8/255."""
STARTS = 5
"""Random starts of the attacks that C8 and C14 compare: with one, chance moves images."""


def loss_dependence(ctx: CheckContext) -> Check:
    """C7: the spread between attacks that differ in their loss."""
    runs = ctx.n_classes - 1
    left = {w: share(ctx.survivors(name, restarts=runs)) for w, name in UNTARGETED.items()}
    left |= {what: share(ctx.survivors(name)) for what, name in OTHERS.items()}
    spread = max(left.values()) - min(left.values())
    indicator = Indicator("losses apart by", spread, ctx.points(SPREAD))
    return verdict("C7", [indicator], OURS, {"accuracy": left})


class Scaled(nn.Module):
    """A model whose logits are multiplied by a factor: it makes the same decisions."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model = model
        self.factor = factor
        self.train(model.training)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits * self.factor


def logit_scale(ctx: CheckContext) -> Check:
    """C8: PGD-20 on scaled logits must not break more images.

    At a large scale it may break fewer: cross entropy then has no gradient in floating point,
    whatever the model.
    """
    attack = get_attack("pgd-20", restarts=STARTS)
    unscaled = share(ctx.survivors("pgd-20", restarts=STARTS))
    scaled = [
        share(ctx.still_right(ctx.attack(attack, "pgd-20", on=Scaled(ctx.model, factor))))
        for factor in SCALES
    ]
    gained = Indicator(
        "scaling the logits breaks more: by", unscaled - min(scaled), ctx.points(SPREAD)
    )
    detail = {"scale": [1.0, *SCALES], "accuracy": [unscaled, *scaled]}
    return verdict("C8", [gained], OURS, detail)


def labels(ctx: CheckContext) -> Check:
    """C14: soft labels, and each class as a target, against the label itself."""
    hard = share(ctx.survivors("pgd-20", restarts=STARTS))
    soft = share(_against_soft_labels(ctx))
    as_many = share(ctx.survivors("pgd-20", restarts=ctx.n_classes - 1))
    targeted = share(ctx.survivors("multitargeted", loss="ce"))
    most = ctx.points(SPREAD)
    indicators = [
        Indicator("soft labels break more: by", hard - soft, most),
        Indicator("targets break more than as many restarts: by", as_many - targeted, most),
    ]
    detail = {"hard": hard, "soft": soft, "hard_restarts": as_many, "targeted": targeted}
    return verdict("C14", indicators, OURS, detail)


def _against_soft_labels(ctx: CheckContext) -> Tensor:
    """(m,) bool: correct under PGD-20 against labels with LABEL_MASS on a random draw of classes.

    It starts where the attack that it is compared with starts.
    """
    exponential = torch.empty(len(ctx.y), ctx.n_classes, device=ctx.x.device)
    exponential.exponential_(generator=ctx.generator("soft labels"))
    draw = exponential / exponential.sum(1, keepdim=True)
    hard = nn.functional.one_hot(ctx.y, ctx.n_classes).to(draw)
    soft = (1 - LABEL_MASS) * hard + LABEL_MASS * draw
    right, starts = torch.ones_like(ctx.y, dtype=torch.bool), ctx.generator("pgd-20")
    for _ in range(STARTS):
        x_adv = maximise(
            lambda logits, y, _: cross_entropy(logits, y),
            ctx.model,
            ctx.x,
            soft,
            threat=ctx.threat,
            radius=ctx.threat.eps,
            steps=20,
            step_size=ctx.threat.eps / 5,
            start="uniform",
            generator=starts,
        )
        right &= ctx.still_right(x_adv)
    return right
