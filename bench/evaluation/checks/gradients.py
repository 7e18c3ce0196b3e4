"""C9, C11, C13: vanishing gradients, attacks that have not converged, models that vary."""

import copy

import torch
from torch import Tensor

from bench.attacks import get_attack
from bench.attacks.networks import MIN_ROWS, BatchedModel
from bench.evaluation.checks.context import CheckContext, Found, masking_check, share
from bench.evaluation.prediction import input_gradient
from bench.indicator import Indicator
from bench.losses import cross_entropy, margin
from bench.seeding import seed_for

UNDERFLOW = 1e-12
FOSC = 0.5
HIGHEST = 2.0
"""FOSC of a point as far on the wrong side of the image as the optimum is on the right one."""
REPEATS = 5
SAME = 1e-4
FAR = 100
"""Steps after which an attack must have converged."""


@masking_check(
    "C9",
    looks_for="gradient health",
    compute="images whose gradient of cross entropy is below 1e-12 (L1) at the image or at a "
    "random start",
    raises="more than 2 images",
    source="AutoAttack, checks.py (none); two images are ours",
)
def vanishing(ctx: CheckContext) -> Found:
    """The limit is the exact one of a share of the images."""
    noise = ctx.threat.uniform(ctx.x, ctx.generator("gradients"))
    start = ctx.threat.project(ctx.x + ctx.threat.eps * noise, ctx.x)

    def loss(x: Tensor) -> Tensor:
        return cross_entropy(ctx.model(x), ctx.y)

    at_x, at_start = (input_gradient(loss, x).abs().flatten(1).sum(1) for x in (ctx.x, start))
    zero = ~((at_x >= UNDERFLOW) & (at_start >= UNDERFLOW))  # NaN is no direction either
    what = "gradients of cross entropy that vanish: share of images"
    detail = {"median_l1": float(at_x.median()), "flipped": ctx.flipped(zero)}
    return [ctx.share(what, zero, ctx.least)], detail


@masking_check(
    "C11",
    looks_for="convergence",
    compute="FOSC of the margin after 100 steps, relative to its value at the image, mean over "
    "the images that survive",
    raises="more than 0.5",
    source="ours: 0.5",
)
def convergence(ctx: CheckContext) -> Found:
    """The limit is that of a share, times HIGHEST, of the images that survive."""
    x_adv = ctx.attack(get_attack("cw", steps=FAR), "convergence")
    robust = ctx.still_right(x_adv)
    value = float(fosc(ctx, x_adv)[robust].mean()) if bool(robust.any()) else 0.0
    n = int(robust.sum())
    detail = {"n_robust": n, "accuracy": share(robust)}
    return [Indicator("FOSC of what survives 100 steps", value, FOSC, n, top=HIGHEST)], detail


def fosc(ctx: CheckContext, x_adv: Tensor) -> Tensor:
    """(m, C, H, W) -> (m,): FOSC (Wang et al., ICML 2019) at x_adv as a share of that at x.

    It is the gain that a linear model of the loss still promises anywhere in the ball and the pixel
    range: 0 if the attack has converged, 1 if it has not moved. It uses the margin, whose gradient
    does not shrink with the logits.
    """
    gradient = input_gradient(lambda x: margin(ctx.model(x), ctx.y), x_adv)
    low = (ctx.x - ctx.threat.eps).clamp(0.0, 1.0)
    high = (ctx.x + ctx.threat.eps).clamp(0.0, 1.0)
    best = torch.where(gradient > 0, high, low)
    promised = ((best - x_adv) * gradient).flatten(1).sum(1)
    whole = ((best - ctx.x) * gradient).flatten(1).sum(1)
    return promised / whole.clamp_min(UNDERFLOW)


@masking_check(
    "C13",
    looks_for="BatchNorm mode and chance",
    compute="five calls on the same images; PGD-20 made with the model in train mode",
    raises="logits differ by more than 0.0001; the attack in train mode breaks over 1 point "
    "and 2 images more",
    source="AutoAttack, checks.py (1e-4); 1 point is ours",
)
def fixed(ctx: CheckContext) -> Found:
    """Logits that change are a fact; the limit of the other figure is of a paired difference."""
    with torch.no_grad():
        first = ctx.model(ctx.x)
        again = torch.stack([ctx.model(ctx.x) for _ in range(REPEATS - 1)])
    apart = float((again - first).abs().amax())
    in_eval, in_train = ctx.survivors("pgd-20"), ctx.still_right(_in_train_mode(ctx))
    name = "an attack in train mode breaks more: by"
    return [
        Indicator("repeated calls: logits apart by", apart, SAME),
        ctx.largest(name, ctx.points(1), [(in_eval, in_train)]),
    ], {"eval": share(in_eval), "train": share(in_train)}


def _in_train_mode(ctx: CheckContext) -> Tensor:
    """Return x_adv made on a copy in train mode, which moves BatchNorm's running statistics.

    Batch statistics are those of MIN_ROWS images, whatever the batch size. Dropout draws from the
    global generator, which is restored.
    """
    network = BatchedModel(copy.deepcopy(ctx.model.model), MIN_ROWS)
    network.recomputes = ctx.model.recomputes
    devices = [ctx.x.device] if ctx.x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed_for(ctx.seed, "checks", "dropout"))
        return ctx.attack(get_attack("pgd-20", model_mode="train"), "pgd-20", on=network)
