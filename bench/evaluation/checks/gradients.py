"""C9, C11, C13: gradients that vanish, attacks that did not converge, models that are not fixed."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from bench.attacks import get_attack
from bench.attacks.blocks import MIN_ROWS, Blocked
from bench.evaluation.check import Check
from bench.evaluation.checks.lab import Figure, Lab, share, verdict
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


def vanishing(lab: Lab) -> Check:
    """C9: the input gradient of cross entropy at the image and at a random start."""
    at_x = _sizes(lab, lab.x)
    noise = lab.threat.uniform(lab.x, lab.generator("gradients"))
    at_start = _sizes(lab, lab.threat.project(lab.x + lab.threat.eps * noise, lab.x))
    zero = ~((at_x >= UNDERFLOW) & (at_start >= UNDERFLOW))  # NaN leads nowhere either
    figure = Figure(
        what="gradients of cross entropy that vanish: share of images",
        value=share(zero),
        threshold=lab.least,
    )
    detail = {"median_l1": float(at_x.median()), "flipped": lab.index[zero.cpu()].tolist()}
    return verdict("C9", [figure], "AutoAttack, checks.py (none); two images are ours", detail)


def _sizes(lab: Lab, x: Tensor) -> Tensor:
    """(m,) L1 norms of the gradient of cross entropy at x."""
    return _gradient(lab, x).abs().flatten(1).sum(1)


def _gradient(lab: Lab, x: Tensor, *, of_margin: bool = False) -> Tensor:
    x = x.detach().clone().requires_grad_()
    loss = margin if of_margin else cross_entropy
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss(lab.model(x), lab.y).sum(), x)
    return gradient


def convergence(lab: Lab) -> Check:
    """C11: FOSC of C&W's iterates after 100 steps, for the images that survive them.

    FOSC (Wang et al., ICML 2019) is the gain that a linear model of the loss still promises
    anywhere in the ball and the pixel range, here as a share of what it promises from x: 0 where
    the attack has converged, 1 where it has gone nowhere. Of the margin, whose gradient does not
    shrink with the logits.
    """
    attack = get_attack("cw", steps=FAR)
    x_adv = lab.attack(attack, "convergence")
    robust = lab.still_right(x_adv)
    value = float(fosc(lab, x_adv)[robust].mean()) if bool(robust.any()) else 0.0
    figure = Figure(what="FOSC of what survives 100 steps", value=value, threshold=FOSC)
    detail = {"n_robust": int(robust.sum()), "accuracy": share(robust)}
    return verdict("C11", [figure], "ours: 0.5", detail)


def fosc(lab: Lab, x_adv: Tensor) -> Tensor:
    """(m, C, H, W) -> (m,): what the margin's gradient there still promises, as a share."""
    gradient = _gradient(lab, x_adv, of_margin=True)
    low = (lab.x - lab.threat.eps).clamp(0.0, 1.0)
    high = (lab.x + lab.threat.eps).clamp(0.0, 1.0)
    best = torch.where(gradient > 0, high, low)
    promised = ((best - x_adv) * gradient).flatten(1).sum(1)
    whole = ((best - lab.x) * gradient).flatten(1).sum(1)
    return promised / whole.clamp_min(UNDERFLOW)


def fixed(lab: Lab) -> Check:
    """C13: the same logits at every call, and no better attack with BatchNorm in train mode."""
    with torch.no_grad():
        first = lab.model(lab.x)
        again = torch.stack([lab.model(lab.x) for _ in range(REPEATS - 1)])
    apart = float((again - first).abs().amax())
    figures = [Figure(what="repeated calls: logits apart by", value=apart, threshold=SAME)]
    in_eval = share(lab.survivors("pgd-20"))
    in_train = share(lab.still_right(_in_train_mode(lab)))
    figures.append(
        Figure(
            what="an attack in train mode breaks more: by",
            value=in_eval - in_train,
            threshold=lab.points(1),
        )
    )
    detail = {"eval": in_eval, "train": in_train}
    return verdict("C13", figures, "AutoAttack, checks.py (1e-4); 1 point is ours", detail)


def _in_train_mode(lab: Lab) -> Tensor:
    """Made on a copy, since BatchNorm in train mode moves its running statistics.

    Its statistics are those of TRAIN_ROWS images, whatever the batch size; dropout draws from the
    global generator, which is left as it was.
    """
    twin = Blocked(copy.deepcopy(lab.model.model), TRAIN_ROWS)
    attack = get_attack("pgd-20", model_mode="train")
    devices = [lab.x.device] if lab.x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed_for(lab.seed, "checks", "dropout"))
        return lab.attack(attack, "pgd-20", on=twin)
