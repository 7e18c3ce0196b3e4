"""C3, C4, C5, C10: a larger ball, more steps, more restarts must do what they should."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import comb
from typing import Literal

import torch
from torch import Tensor

from bench.attacks import PGD, get_attack
from bench.attacks.maximise import maximise
from bench.evaluation.check import Check
from bench.evaluation.checks.lab import Figure, Lab, is_right, share, verdict
from bench.losses import cross_entropy
from bench.threat import Threat

UNBOUNDED = (0.25, 0.5, 1.0)
"""eps at which any image can be made grey, or anything at all."""
MARKS = (1, 10, 20, 50, 100, 200, 500, 1000)
"""Steps at which the curve of C4 is read."""
MULTIPLES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0, 16.0)
"""Of eps, in C5; those below 1, and 1."""
PLATEAU = 0.95
"""Share of the accuracy that a doubled eps may leave, where there is some to lose."""
CHANCE_IMAGES = 3
"""Fewest images by which twenty starts must beat five: on a hundred images chance moves two."""
FEW_STARTS = (1, 5)
"""What C10 compares all starts with; the verdict is on the last."""


def unbounded(lab: Lab) -> Check:
    """C3: 200 steps of 2.5 eps / 200 on cross entropy and margin, the worse of the two."""
    left = {eps: share(_unbounded(lab, eps)) for eps in UNBOUNDED}
    chance = 1 / lab.n_classes + lab.least
    return verdict(
        "C3",
        [
            Figure(what="accuracy at eps 0.5", value=left[0.5], threshold=chance),
            Figure(what="accuracy at eps 1", value=left[1.0], threshold=0.0),
        ],
        "Athalye et al. 2018: every image can be made grey at 0.5, anything at 1",
        {"eps": list(UNBOUNDED), "accuracy": list(left.values())},
    )


def _unbounded(lab: Lab, eps: float) -> Tensor:
    """(m,) bool: right under both losses; the second is not run where the first leaves nothing."""
    right = torch.ones_like(lab.y, dtype=torch.bool)
    losses: tuple[Literal["ce", "margin"], ...] = ("ce", "margin")
    for loss in losses:
        if bool(right.any()):
            attack = PGD(steps=200, relative_step=2.5 / 200, loss=loss)
            right &= lab.still_right(lab.attack(attack, f"unbounded {eps}", at=_at(lab, eps)))
    return right


def iterations(lab: Lab) -> Check:
    """C4: one step must not beat many, and many must have converged."""
    marks = [m for m in MARKS if m < lab.effort.steps] + [lab.effort.steps]
    curve, losses = _trajectory(lab, marks)
    by_steps = dict(zip(marks, curve, strict=True))
    fgsm = share(lab.survivors("fgsm"))
    later = [accuracy for m, accuracy in by_steps.items() if m > 100]
    figures = [
        Figure(what="one step beats twenty by", value=by_steps[20] - fgsm, threshold=lab.least)
    ]
    if later:
        fallen = by_steps[100] - min(later)
        figures.append(
            Figure(what="more than 100 steps break", value=fallen, threshold=lab.points(0.5))
        )
    return verdict(
        "C4",
        figures,
        "Athalye et al. 2018; half a point is ours",
        {"steps": marks, "accuracy": curve, "mean_loss": losses, "fgsm": fgsm},
    )


def _trajectory(lab: Lab, marks: list[int]) -> tuple[list[float], list[float]]:
    """Accuracy and mean cross entropy after so many steps of eps/5: one run, read at marks."""
    seen: list[tuple[Tensor, Tensor]] = []

    def look(step: int, x_adv: Tensor, logits: Tensor, gradient: Tensor) -> None:
        if step in marks:
            seen.append((is_right(logits, lab.y), cross_entropy(logits, lab.y).mean()))

    x_adv = maximise(
        lambda logits, y, _: cross_entropy(logits, y),
        lab.model,
        lab.x,
        lab.y,
        threat=lab.threat,
        radius=lab.threat.eps,
        steps=marks[-1],
        step_size=lab.threat.eps / 5,
        start="uniform",
        on_step=look,
        generator=lab.generator("iterations"),
    )
    with torch.no_grad():
        logits = lab.model(x_adv)
    seen.append((is_right(logits, lab.y), cross_entropy(logits, lab.y).mean()))
    return [share(flags) for flags, _ in seen], [float(loss) for _, loss in seen]


def sweep(lab: Lab) -> Check:
    """C5: accuracy under PGD-20 must fall as eps grows, without a plateau, down to 0."""
    grid = [m * lab.threat.eps for m in MULTIPLES if m * lab.threat.eps < 1] + [1.0]
    left = [1.0] + [
        share(lab.still_right(lab.attack(get_attack("pgd-20"), "sweep", at=_at(lab, eps))))
        for eps in grid
    ]
    grid = [0.0, *grid]
    rises = [after - before for before, after in pairwise(left)]
    figures = [
        Figure(what="a larger ball is safer: by", value=max(rises), threshold=lab.least),
        Figure(what="accuracy at eps 1", value=left[-1], threshold=0.0),
    ]
    kept = [
        left[grid.index(2 * eps)] / accuracy
        for eps, accuracy in zip(grid, left, strict=True)
        if eps >= lab.threat.eps and 2 * eps in grid and 0.2 <= accuracy <= 0.9
    ]
    if kept:
        figures.append(
            Figure(what="accuracy that a doubled eps keeps", value=max(kept), threshold=PLATEAU)
        )
    return verdict(
        "C5",
        figures,
        "Carlini et al. 2019; the plateau's 95% is ours",
        {"eps": grid, "accuracy": left},
    )


def restarts(lab: Lab) -> Check:
    """C10: PGD-20 from many starts; the accuracy under fewer is the mean over their choices."""
    n_starts = lab.effort.restarts
    marks = [*FEW_STARTS, n_starts]
    attack, generator = get_attack("pgd-20"), lab.generator("restarts")
    broken = torch.zeros_like(lab.y)
    for _ in range(n_starts):
        broken += ~lab.still_right(attack(lab.model, lab.x, lab.y, lab.threat, generator=generator))
    curve = [expected_accuracy(broken.tolist(), n, n_starts) for n in marks]
    figure = Figure(
        what=f"{n_starts} restarts break more than {marks[-2]}: by",
        value=curve[-2] - curve[-1],
        threshold=max(lab.points(1), CHANCE_IMAGES / len(lab.y)),
    )
    detail = {"restarts": marks, "accuracy": curve}
    return verdict("C10", [figure], "ours: 1 point", detail)


def expected_accuracy(broken: Sequence[int], n: int, n_starts: int) -> float:
    """Accuracy under n of the starts, drawn at random, where `broken` of them break each image."""
    return sum(comb(n_starts - k, n) / comb(n_starts, n) for k in broken) / len(broken)


def _at(lab: Lab, eps: float) -> Threat:
    return replace(lab.threat, eps=eps)
