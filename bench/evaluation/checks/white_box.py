"""C3, C4, C5, C7, C8, C10, C14: what an attack does with another ball, steps, starts or loss."""

from collections.abc import Sequence
from itertools import pairwise, permutations
from math import comb
from typing import Literal

import torch
from torch import Tensor, nn

from bench.attacks import PGD, get_attack
from bench.attacks.maximise import OnStep, maximise
from bench.evaluation.checks.context import CheckContext, Found, masking_check, share
from bench.evaluation.prediction import is_right
from bench.indicator import Indicator, worst
from bench.losses import cross_entropy

UNBOUNDED = (0.25, 0.5, 1.0)
"""eps of C3: at 0.5 every image can be made grey, at 1 it can become any image."""
MARKS = (1, 10, 20, 50, 100, 200, 500, 1000)
"""Steps at which C4 reads its curve."""
MULTIPLES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0, 16.0)
"""Multiples of eps in C5; those below 1 are tried, and 1."""
PLATEAU = 0.95
"""Share of an accuracy between 20% and 90% that a doubled eps may leave."""
UNTARGETED = {"cross entropy": "pgd-20", "margin": "cw", "DLR": "pgd-20-dlr"}
"""Run with one restart per target class: else the spread is that of restarts, which C10 measures.
"""
OTHERS = {"targeted DLR": "multitargeted-dlr", "MultiTargeted": "multitargeted", "MD": "md"}
SPREAD = 5.0
"""Points by which losses may differ: they do by 2 to 4 on plainly adversarially trained networks,
and a large scale makes cross entropy another loss, much like the margin."""
OURS = "ours: 5 points, since losses differ by 2 to 4 on adversarially trained nets"
SCALES = (0.01, 0.1, 10.0, 100.0)
STARTS = 5
"""Random starts of the attacks that C8 and C14 compare: with one, chance moves images."""
CHANCE_IMAGES = 3
"""Fewest images by which twenty starts must beat five: on 100 images, chance moves two."""
FEW_STARTS = (1, 5)
"""Numbers of starts that C10 compares with all; the verdict is on the last."""
LABEL_MASS = 0.3137
"""Mass that CAT's soft label gives away at its largest radius: c eps_max at c = 10, 8/255."""


@masking_check(
    "C3",
    looks_for="unbounded attack",
    compute="200 steps of 2.5 eps / 200 on cross entropy and on the margin at eps 0.25, 0.5, 1",
    raises="more than chance and 2 images at 0.5; any image at 1",
    source="Athalye et al. 2018: every image can be made grey at 0.5, anything at 1",
)
def unbounded(ctx: CheckContext) -> Found:
    """The limit at eps 0.5 is the exact one of a share; an image left at eps 1 is a fact."""
    left = {eps: _unbounded(ctx, eps) for eps in UNBOUNDED}
    return [
        ctx.share("accuracy at eps 0.5", left[0.5], 1 / ctx.n_classes + ctx.least),
        Indicator("accuracy at eps 1", share(left[1.0]), 0.0),
    ], {"eps": list(UNBOUNDED), "accuracy": [share(right) for right in left.values()]}


def _unbounded(ctx: CheckContext, eps: float) -> Tensor:
    """(m,) bool: correct under both losses; the second runs only if the first leaves some."""
    right = ctx.everyone()
    losses: tuple[Literal["ce", "margin"], ...] = ("ce", "margin")
    for loss in losses:
        if bool(right.any()):
            attack = PGD(steps=200, relative_step=2.5 / 200, loss=loss)
            right &= ctx.still_right(ctx.attack(attack, f"unbounded {eps}", eps=eps))
    return right


@masking_check(
    "C4",
    looks_for="iterations",
    compute="PGD of 1 to 1000 steps of eps/5; FGSM",
    raises="FGSM breaks over 2 images more than PGD-20; over 100 steps break 0.5 points and 2 "
    "images more than 100",
    source="Athalye et al. 2018; half a point is ours",
    budget=("steps",),
)
def iterations(ctx: CheckContext) -> Found:
    """The limits are of paired differences, the later one of the largest of several."""
    marks = [m for m in MARKS if m < ctx.budget.steps] + [ctx.budget.steps]
    left, losses = _trajectory(ctx, marks)
    by_steps, fgsm = dict(zip(marks, left, strict=True)), ctx.survivors("fgsm")
    later = [(by_steps[100], right) for m, right in by_steps.items() if m > 100]
    found = [ctx.largest("one step beats twenty by", ctx.least, [(by_steps[20], fgsm)])]
    if later:
        found.append(ctx.largest("more than 100 steps break", ctx.points(0.5), later))
    curve = [share(right) for right in left]
    return found, {"steps": marks, "accuracy": curve, "mean_loss": losses, "fgsm": share(fgsm)}


def _trajectory(ctx: CheckContext, marks: list[int]) -> tuple[list[Tensor], list[float]]:
    """Return (m,) bool, correct, and mean cross entropy after each of `marks` steps of one run."""
    seen: list[Tensor] = []

    def look(step: int, x_adv: Tensor, logits: Tensor, gradient: Tensor) -> None:
        if step in marks:
            seen.append(logits.detach())

    x_adv = _pgd(ctx, ctx.y, marks[-1], ctx.generator("iterations"), on_step=look)
    with torch.no_grad():
        seen.append(ctx.model(x_adv))
        losses = [float(cross_entropy(logits, ctx.y).mean()) for logits in seen]
    return [is_right(logits, ctx.y) for logits in seen], losses


def _pgd(
    ctx: CheckContext,
    y: Tensor,
    steps: int,
    generator: torch.Generator,
    on_step: OnStep | None = None,
) -> Tensor:
    """Return x_adv of steps of eps/5 on the cross entropy of y, classes (m,) or shares (m, K)."""
    return maximise(
        lambda logits, y, _: cross_entropy(logits, y),
        *(ctx.model, ctx.x, y),
        threat=ctx.threat,
        radius=ctx.threat.eps,
        steps=steps,
        step_size=ctx.threat.eps / 5,
        start="uniform",
        on_step=on_step,
        generator=generator,
    )


@masking_check(
    "C5",
    looks_for="budget sweep",
    compute="PGD-20 at a quarter of eps to 16 eps, and at 1",
    raises="a larger eps breaks over 2 images fewer; a doubled eps keeps over 95% of an "
    "accuracy between 20% and 90%; any image at 1",
    source="Carlini et al. 2019; the plateau's 95% is ours",
)
def sweep(ctx: CheckContext) -> Found:
    """The limits are of the largest of several paired differences, and of several shares."""
    grid = [m * ctx.threat.eps for m in MULTIPLES if m * ctx.threat.eps < 1] + [1.0]
    flags = [ctx.everyone()] + [
        ctx.still_right(ctx.attack(get_attack("pgd-20"), "sweep", eps=eps)) for eps in grid
    ]
    grid, left = [0.0, *grid], [share(right) for right in flags]
    rises = [(after, before) for before, after in pairwise(flags)]
    indicators = [
        ctx.largest("a larger ball is safer: by", ctx.least, rises),
        Indicator("accuracy at eps 1", left[-1], 0.0),
    ]
    kept = [
        (left[grid.index(2 * eps)] / accuracy, round(accuracy * len(ctx.y)))
        for eps, accuracy in zip(grid, left, strict=True)
        if eps >= ctx.threat.eps and 2 * eps in grid and 0.2 <= accuracy <= 0.9
    ]
    if kept:  # of the n images that survive eps
        name, tries = "accuracy that a doubled eps keeps", len(kept)
        doubled = [Indicator(name, value, PLATEAU, n, tries=tries) for value, n in kept]
        indicators.append(worst(doubled))
    return indicators, {"eps": grid, "accuracy": left}


@masking_check(
    "C7",
    looks_for="loss dependence",
    compute="accuracy under PGD-20 on cross entropy, margin and DLR with K - 1 restarts, under "
    "MultiTargeted with margin and with targeted DLR, and under MD",
    raises="a spread of more than 5 points and 2 images",
    source=OURS,
    least_classes=4,
)
def loss_dependence(ctx: CheckContext) -> Found:
    """The limit is of the largest of 30 paired differences."""
    runs = ctx.n_classes - 1
    left = {w: ctx.survivors(name, restarts=runs) for w, name in UNTARGETED.items()}
    left |= {what: ctx.survivors(name) for what, name in OTHERS.items()}
    pairs = list(permutations(left.values(), 2))
    spread = ctx.largest("losses apart by", ctx.points(SPREAD), pairs)
    return [spread], {"accuracy": {what: share(right) for what, right in left.items()}}


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


@masking_check(
    "C8",
    looks_for="logit scale",
    compute="PGD-20 from five starts on logits times 0.01, 0.1, 10, 100",
    raises="one of them breaks over 5 points and 2 images more than PGD-20",
    source=OURS,
)
def logit_scale(ctx: CheckContext) -> Found:
    """The limit is of the largest of four paired differences."""
    # At a large scale it may break fewer: cross entropy then has no gradient in floating point,
    # whatever the model.
    attack = get_attack("pgd-20", restarts=STARTS)
    left = [ctx.survivors("pgd-20", restarts=STARTS)] + [
        ctx.still_right(ctx.attack(attack, "pgd-20", on=Scaled(ctx.model, factor)))
        for factor in SCALES
    ]
    detail = {"scale": [1.0, *SCALES], "accuracy": [share(right) for right in left]}
    pairs, name = [(left[0], right) for right in left[1:]], "scaling the logits breaks more: by"
    return [ctx.largest(name, ctx.points(SPREAD), pairs)], detail


@masking_check(
    "C10",
    looks_for="restarts",
    compute="PGD-20 from 20 random starts; accuracy under 1 and 5 of them, averaged over "
    "their choices",
    raises="20 break over 1 point and 3 images more than 5",
    source="ours: 1 point",
    budget=("restarts",),
)
def restarts(ctx: CheckContext) -> Found:
    """The limit is that of a share: a chance in [0, 1] per image varies less than 0 or 1."""
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
        len(ctx.y),  # a mean of what each image's chance to survive falls by
    )
    return [gained], {"restarts": marks, "accuracy": curve}


def expected_accuracy(broken: Sequence[int], n: int, n_starts: int) -> float:
    """Expected accuracy under n random starts of n_starts, `broken` of which break each image."""
    return sum(comb(n_starts - k, n) / comb(n_starts, n) for k in broken) / len(broken)


@masking_check(
    "C14",
    looks_for="surrogate labels",
    compute="PGD-20 from five starts against labels that give 31% to a random draw of classes, "
    "as CAT trains with; PGD on the cross entropy of each other class, against as many "
    "restarts of PGD-20",
    raises="either breaks over 5 points and 2 images more",
    source=OURS,
)
def labels(ctx: CheckContext) -> Found:
    """The limits are of paired differences."""
    left = {
        "hard": ctx.survivors("pgd-20", restarts=STARTS),
        "soft": _against_soft_labels(ctx),
        "hard_restarts": ctx.survivors("pgd-20", restarts=ctx.n_classes - 1),
        "targeted": ctx.survivors("multitargeted", loss="ce"),
    }
    most, targets = ctx.points(SPREAD), "targets break more than as many restarts: by"
    return [
        ctx.largest("soft labels break more: by", most, [(left["hard"], left["soft"])]),
        ctx.largest(targets, most, [(left["hard_restarts"], left["targeted"])]),
    ], {what: share(right) for what, right in left.items()}


def _against_soft_labels(ctx: CheckContext) -> Tensor:
    """(m,) bool: correct under PGD-20 against labels with LABEL_MASS on a random draw of classes.

    It starts where the attack that it is compared with starts.
    """
    exponential = torch.empty(len(ctx.y), ctx.n_classes, device=ctx.x.device)
    exponential.exponential_(generator=ctx.generator("soft labels"))
    draw = exponential / exponential.sum(1, keepdim=True)
    hard = nn.functional.one_hot(ctx.y, ctx.n_classes).to(draw)
    soft = (1 - LABEL_MASS) * hard + LABEL_MASS * draw
    right, starts = ctx.everyone(), ctx.generator("pgd-20")
    for _ in range(STARTS):
        right &= ctx.still_right(_pgd(ctx, soft, 20, starts))
    return right
