"""C9, C11, C13: vanishing gradients, attacks that have not converged, models that vary."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from bench.attacks import get_attack
from bench.attacks.blocks import MIN_ROWS, Blocked
from bench.evaluation.check import Check, Indicator, verdict
from bench.evaluation.checks.context import CheckContext, share
from bench.losses import cross_entropy, margin
from bench.seeding import seed_for

UNDERFLOW = 1e-12
FOSC = 0.5
REPEATS = 5
TRAIN_ROWS = MIN_ROWS
"""Images that share BatchNorm's statistics in train mode: fits wherever the model fits."""
SAME = 1e-4
FAR = 100
"""Steps after which an attack must have converged."""


def vanishing(ctx: CheckContext) -> Check:
    """C9: the input gradient of cross entropy at the image and at a random start."""
    noise = ctx.threat.uniform(ctx.x, ctx.generator("gradients"))
    start = ctx.threat.project(ctx.x + ctx.threat.eps * noise, ctx.x)
    at_x, at_start = (_gradient(ctx, x).abs().flatten(1).sum(1) for x in (ctx.x, start))
    zero = ~((at_x >= UNDERFLOW) & (at_start >= UNDERFLOW))  # NaN is no direction either
    vanished = Indicator(
        "gradients of cross entropy that vanish: share of images", share(zero), ctx.least
    )
    detail = {"median_l1": float(at_x.median()), "flipped": ctx.flipped(zero)}
    return verdict("C9", [vanished], "AutoAttack, checks.py (none); two images are ours", detail)


def _gradient(ctx: CheckContext, x: Tensor, *, of_margin: bool = False) -> Tensor:
    """(m, C, H, W): gradient of cross entropy, or of the margin, with respect to x."""
    x = x.detach().clone().requires_grad_()
    loss = margin if of_margin else cross_entropy
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss(ctx.model(x), ctx.y).sum(), x)
    return gradient


def convergence(ctx: CheckContext) -> Check:
    """C11: FOSC of C&W's iterates after 100 steps, for the images that survive them.

    FOSC (Wang et al., ICML 2019) is the gain that a linear model of the loss still promises
    anywhere in the ball and the pixel range, here as a share of what it promises from x: 0 if the
    attack has converged, 1 if it has not moved. It uses the margin, whose gradient does not
    shrink with the logits.
    """
    x_adv = ctx.attack(get_attack("cw", steps=FAR), "convergence")
    robust = ctx.still_right(x_adv)
    value = float(fosc(ctx, x_adv)[robust].mean()) if bool(robust.any()) else 0.0
    promised = Indicator("FOSC of what survives 100 steps", value, FOSC)
    detail = {"n_robust": int(robust.sum()), "accuracy": share(robust)}
    return verdict("C11", [promised], "ours: 0.5", detail)


def fosc(ctx: CheckContext, x_adv: Tensor) -> Tensor:
    """(m, C, H, W) -> (m,): gain that the margin's gradient at x_adv still promises, as a share."""
    gradient = _gradient(ctx, x_adv, of_margin=True)
    low = (ctx.x - ctx.threat.eps).clamp(0.0, 1.0)
    high = (ctx.x + ctx.threat.eps).clamp(0.0, 1.0)
    best = torch.where(gradient > 0, high, low)
    promised = ((best - x_adv) * gradient).flatten(1).sum(1)
    whole = ((best - ctx.x) * gradient).flatten(1).sum(1)
    return promised / whole.clamp_min(UNDERFLOW)


def fixed(ctx: CheckContext) -> Check:
    """C13: equal logits at every call, and no stronger attack with BatchNorm in train mode."""
    with torch.no_grad():
        first = ctx.model(ctx.x)
        again = torch.stack([ctx.model(ctx.x) for _ in range(REPEATS - 1)])
    apart = float((again - first).abs().amax())
    in_eval = share(ctx.survivors("pgd-20"))
    in_train = share(ctx.still_right(_in_train_mode(ctx)))
    gained = in_eval - in_train
    indicators = [
        Indicator("repeated calls: logits apart by", apart, SAME),
        Indicator("an attack in train mode breaks more: by", gained, ctx.points(1)),
    ]
    source = "AutoAttack, checks.py (1e-4); 1 point is ours"
    return verdict("C13", indicators, source, {"eval": in_eval, "train": in_train})


def _in_train_mode(ctx: CheckContext) -> Tensor:
    """Return x_adv made on a copy in train mode, which moves BatchNorm's running statistics.

    Batch statistics are those of TRAIN_ROWS images, whatever the batch size. Dropout draws from
    the global generator, which is restored.
    """
    network = Blocked(copy.deepcopy(ctx.model.model), TRAIN_ROWS)
    devices = [ctx.x.device] if ctx.x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed_for(ctx.seed, "checks", "dropout"))
        return ctx.attack(get_attack("pgd-20", model_mode="train"), "pgd-20", on=network)
