"""C1, C2, C6, C12: attacks without gradients, and attacks made on another network."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.attacks import get_attack
from bench.attacks.blocks import Blocked
from bench.attacks.maximise import attack_mode
from bench.evaluation.check import Check, Indicator, verdict
from bench.evaluation.checks.context import CheckContext, share
from bench.evaluation.prediction import is_right, predictions

ROUND = 64
"""Random points per image between two looks at what is broken; looking waits for the device."""
FLOATS = 2**24
"""Most floats per round: a copy of the points takes 64 MiB, and several are made."""


def black_box(ctx: CheckContext) -> Check:
    """C1: Square with 5000 queries, transfer and random search, together."""
    white = ctx.white_box()
    together = white & square(ctx) & _random_search(ctx)
    for network in ctx.surrogates:
        together &= _transferred(ctx, network)
    gained = Indicator(
        "black box beats white box by", share(white) - share(together), ctx.points(0.2)
    )
    detail = {
        "white_box": share(white),
        "with_black_box": share(together),
        "flipped": ctx.flipped(white & ~together),
    }
    return verdict("C1", [gained], "AutoAttack, checks.py (0.2 points)", detail)


def transfer(ctx: CheckContext) -> Check:
    """C2: images made on a naturally trained surrogate against the white box, image by image."""
    white = ctx.white_box()
    each = [_transferred(ctx, network) for network in ctx.surrogates]
    found = white & ~torch.stack(each).all(0)
    detail = {
        "white_box": share(white),
        "transfer": [share(survived) for survived in each],
        "flipped": ctx.flipped(found),
    }
    gained = Indicator("transfer beats white box by", share(found), ctx.least)
    return verdict("C2", [gained], "Carlini et al. 2019; two images are ours", detail)


def random_points(ctx: CheckContext) -> Check:
    """C6: random points in the ball and at its corners."""
    found = ctx.white_box() & ~_random_search(ctx)
    gained = Indicator("random search beats white box by", share(found), ctx.least)
    detail = {"samples": ctx.budget.samples, "flipped": ctx.flipped(found)}
    return verdict("C6", [gained], "Athalye et al. 2018; two images are ours", detail)


def undefended(ctx: CheckContext) -> Check:
    """C12: PGD-20 and C&W must break nearly everything on an undefended network."""
    network = ctx.surrogates[0]
    right = torch.ones_like(ctx.y, dtype=torch.bool)
    with attack_mode(network, "eval"):  # in train mode it would predict by the batch, and learn
        for name in ("pgd-20", "cw"):
            x_adv = ctx.attack(get_attack(name), f"twin {name}", on=network)
            right &= predictions(network, x_adv, ctx.y)[0]
    kept = Indicator("an undefended twin keeps", share(right), ctx.points(1))
    return verdict("C12", [kept], "ours: 1 point", {})


def square(ctx: CheckContext) -> Tensor:
    """(m,) bool: correct under the white box, and under Square on the images it left."""

    def make() -> Tensor:
        survived = ctx.white_box().clone()
        left = survived.nonzero().squeeze(1)
        if len(left):
            x_adv = ctx.x.clone()
            x_adv[left] = get_attack("square")(
                ctx.model, ctx.x[left], ctx.y[left], ctx.threat, generator=ctx.generator("square")
            )
            survived &= ctx.still_right(x_adv)
        return survived

    return ctx.remembered("square", make)


def _transferred(ctx: CheckContext, network: Blocked) -> Tensor:
    """(m,) bool: correct on images made on a surrogate by PGD-20 on cross entropy and margin."""

    def make() -> Tensor:
        survived = torch.ones_like(ctx.y, dtype=torch.bool)
        for name in ("pgd-20", "cw"):
            survived &= ctx.still_right(
                ctx.attack(get_attack(name), f"transfer {name}", on=network)
            )
        return survived

    return ctx.remembered(("transfer", network.model), make)


def _random_search(ctx: CheckContext) -> Tensor:
    """(m,) bool: correct under the white box and at every random point; half are corners."""
    n_samples = ctx.budget.samples

    def make() -> Tensor:
        survived, generator = ctx.white_box().clone(), ctx.generator("random")
        done = 0
        while done < n_samples and bool(survived.any()):
            left = survived.nonzero().squeeze(1)
            n = min(ROUND, max(1, FLOATS // ctx.x[left].numel()), n_samples - done)
            x = ctx.x[left].repeat(n, 1, 1, 1)
            noise = ctx.threat.uniform(x, generator)
            corners = (done + torch.arange(len(x), device=x.device) // len(left)) % 2 == 0
            noise[corners] = noise[corners].sign()
            points = ctx.threat.project(x + ctx.threat.eps * noise, x)
            with torch.no_grad():
                logits = ctx.model(points)
            survived[left] = is_right(logits, ctx.y[left].repeat(n)).view(n, len(left)).all(0)
            done += n
        return survived

    return ctx.remembered(f"random {n_samples}", make)
