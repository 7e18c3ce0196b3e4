"""C3, C4, C5, C10: a larger ball, more steps and more restarts must do what they should."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import comb
from typing import Literal

import torch
from torch import Tensor

from bench.attacks import PGD, get_attack
from bench.attacks.maximise import maximise
from bench.evaluation.check import Check, Indicator, verdict
from bench.evaluation.checks.context import CheckContext, share
from bench.evaluation.prediction import is_right
from bench.losses import cross_entropy

UNBOUNDED = (0.25, 0.5, 1.0)
"""eps of C3: at 0.5 every image can be made grey, at 1 it can become any image."""
MARKS = (1, 10, 20, 50, 100, 200, 500, 1000)
"""Steps at which C4 reads its curve."""
MULTIPLES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0, 16.0)
"""Multiples of eps in C5; those below 1 are tried, and 1."""
PLATEAU = 0.95
"""Share of an accuracy between 20% and 90% that a doubled eps may leave."""
CHANCE_IMAGES = 3
"""Fewest images by which twenty starts must beat five: on 100 images, chance moves two."""
FEW_STARTS = (1, 5)
"""Numbers of starts that C10 compares with all; the verdict is on the last."""


def unbounded(ctx: CheckContext) -> Check:
    """C3: 200 steps of 2.5 eps / 200 on cross entropy and margin, the worse of the two."""
    left = {eps: share(_unbounded(ctx, eps)) for eps in UNBOUNDED}
    return verdict(
        "C3",
        [
            Indicator("accuracy at eps 0.5", left[0.5], 1 / ctx.n_classes + ctx.least),
            Indicator("accuracy at eps 1", left[1.0], 0.0),
        ],
        "Athalye et al. 2018: every image can be made grey at 0.5, anything at 1",
        {"eps": list(UNBOUNDED), "accuracy": list(left.values())},
    )


def _unbounded(ctx: CheckContext, eps: float) -> Tensor:
    """(m,) bool: correct under both losses; the second runs only if the first leaves some."""
    right = torch.ones_like(ctx.y, dtype=torch.bool)
    losses: tuple[Literal["ce", "margin"], ...] = ("ce", "margin")
    for loss in losses:
        if bool(right.any()):
            attack = PGD(steps=200, relative_step=2.5 / 200, loss=loss)
            right &= ctx.still_right(ctx.attack(attack, f"unbounded {eps}", eps=eps))
    return right


def iterations(ctx: CheckContext) -> Check:
    """C4: one step must not beat many, and many must have converged."""
    marks = [m for m in MARKS if m < ctx.budget.steps] + [ctx.budget.steps]
    curve, losses = _trajectory(ctx, marks)
    by_steps = dict(zip(marks, curve, strict=True))
    fgsm = share(ctx.survivors("fgsm"))
    later = [accuracy for m, accuracy in by_steps.items() if m > 100]
    indicators = [Indicator("one step beats twenty by", by_steps[20] - fgsm, ctx.least)]
    if later:
        fallen = by_steps[100] - min(later)
        indicators.append(Indicator("more than 100 steps break", fallen, ctx.points(0.5)))
    detail = {"steps": marks, "accuracy": curve, "mean_loss": losses, "fgsm": fgsm}
    return verdict("C4", indicators, "Athalye et al. 2018; half a point is ours", detail)


def _trajectory(ctx: CheckContext, marks: list[int]) -> tuple[list[float], list[float]]:
    """Return accuracy and mean cross entropy after each of `marks` steps of eps/5 of one run."""
    seen: list[tuple[Tensor, Tensor]] = []

    def read(logits: Tensor) -> None:
        seen.append((is_right(logits, ctx.y), cross_entropy(logits, ctx.y).mean()))

    def look(step: int, x_adv: Tensor, logits: Tensor, gradient: Tensor) -> None:
        if step in marks:
            read(logits)

    x_adv = maximise(
        lambda logits, y, _: cross_entropy(logits, y),
        ctx.model,
        ctx.x,
        ctx.y,
        threat=ctx.threat,
        radius=ctx.threat.eps,
        steps=marks[-1],
        step_size=ctx.threat.eps / 5,
        start="uniform",
        on_step=look,
        generator=ctx.generator("iterations"),
    )
    with torch.no_grad():
        read(ctx.model(x_adv))
    return [share(flags) for flags, _ in seen], [float(loss) for _, loss in seen]


def sweep(ctx: CheckContext) -> Check:
    """C5: accuracy under PGD-20 must fall as eps grows, without a plateau, down to 0."""
    grid = [m * ctx.threat.eps for m in MULTIPLES if m * ctx.threat.eps < 1] + [1.0]
    left = [1.0] + [
        share(ctx.still_right(ctx.attack(get_attack("pgd-20"), "sweep", eps=eps))) for eps in grid
    ]
    grid = [0.0, *grid]
    rises = [after - before for before, after in pairwise(left)]
    indicators = [
        Indicator("a larger ball is safer: by", max(rises), ctx.least),
        Indicator("accuracy at eps 1", left[-1], 0.0),
    ]
    kept = [
        left[grid.index(2 * eps)] / accuracy
        for eps, accuracy in zip(grid, left, strict=True)
        if eps >= ctx.threat.eps and 2 * eps in grid and 0.2 <= accuracy <= 0.9
    ]
    if kept:
        indicators.append(Indicator("accuracy that a doubled eps keeps", max(kept), PLATEAU))
    source = "Carlini et al. 2019; the plateau's 95% is ours"
    return verdict("C5", indicators, source, {"eps": grid, "accuracy": left})


def restarts(ctx: CheckContext) -> Check:
    """C10: PGD-20 from many starts; the accuracy under fewer is the mean over their choices."""
    n_starts = ctx.budget.restarts
    marks = [*FEW_STARTS, n_starts]
    attack, generator = get_attack("pgd-20"), ctx.generator("restarts")
    broken = torch.zeros_like(ctx.y)
    for _ in range(n_starts):
        broken += ~ctx.still_right(attack(ctx.model, ctx.x, ctx.y, ctx.threat, generator=generator))
    curve = [expected_accuracy(broken.tolist(), n, n_starts) for n in marks]
    gained = Indicator(
        f"{n_starts} restarts break more than {marks[-2]}: by",
        curve[-2] - curve[-1],
        max(ctx.points(1), CHANCE_IMAGES / len(ctx.y)),
    )
    return verdict("C10", [gained], "ours: 1 point", {"restarts": marks, "accuracy": curve})


def expected_accuracy(broken: Sequence[int], n: int, n_starts: int) -> float:
    """Expected accuracy under n random starts of n_starts, `broken` of which break each image."""
    return sum(comb(n_starts - k, n) / comb(n_starts, n) for k in broken) / len(broken)
