"""C1, C2, C6, C12: attacks without gradients, and attacks made on another network."""

import torch
from torch import Tensor

from bench.attacks import get_attack
from bench.attacks.maximise import attack_mode
from bench.attacks.networks import BatchedModel
from bench.evaluation.checks.context import CheckContext, Found, masking_check, share
from bench.evaluation.prediction import is_right, predictions
from bench.indicator import Indicator

ROUND = 64
"""Random points per image between two looks at what is broken; looking waits for the device."""
FLOATS = 2**24
"""Most floats per round: a copy of the points takes 64 MiB, and several are made."""


@masking_check(
    "C1",
    looks_for="black box beats white box",
    compute="images that survive PGD-20, C&W and APGD-CE, and then fall to Square (5000 queries), "
    "to random search or to transfer",
    raises="more than 0.2 points (AutoAttack's own threshold) and 2 images",
    source="AutoAttack, checks.py (0.2 points)",
    budget=("samples",),
    uses_surrogate=True,
    least_classes=4,
)
def black_box(ctx: CheckContext) -> Found:
    """The limit is the exact one of a share of the images."""
    white = ctx.white_box()
    together = white & square(ctx) & _random_search(ctx)
    for network in ctx.surrogates:
        together &= _transferred(ctx, network)
    gained = share(white) - share(together)  # a share: no image is in `together` alone
    name = "black box beats white box by"
    return [Indicator(name, gained, ctx.points(0.2), len(white))], {
        "white_box": share(white),
        "with_black_box": share(together),
        "flipped": ctx.flipped(white & ~together),
    }


@masking_check(
    "C2",
    looks_for="transfer beats white box",
    compute="of those survivors, the images that fall to PGD-20 or C&W made on a naturally "
    "trained network of the same arch",
    raises="more than 2 images",
    source="Carlini et al. 2019; two images are ours",
    uses_surrogate=True,
    needs_surrogate=True,
    least_classes=4,
)
def transfer(ctx: CheckContext) -> Found:
    """The limit is the exact one of a share of the images."""
    white = ctx.white_box()
    each = [_transferred(ctx, network) for network in ctx.surrogates]
    found = white & ~torch.stack(each).all(0)
    return [ctx.share("transfer beats white box by", found, ctx.least)], {
        "white_box": share(white),
        "transfer": [share(survived) for survived in each],
        "flipped": ctx.flipped(found),
    }


@masking_check(
    "C6",
    looks_for="random search",
    compute="of the survivors of PGD-20, C&W and APGD-CE, those that fall to 10,000 random "
    "points, half of them corners of the ball",
    raises="more than 2 images",
    source="Athalye et al. 2018; two images are ours",
    budget=("samples",),
    least_classes=4,
)
def random_points(ctx: CheckContext) -> Found:
    """The limit is the exact one of a share of the images."""
    found = ctx.white_box() & ~_random_search(ctx)
    gained = ctx.share("random search beats white box by", found, ctx.least)
    return [gained], {"samples": ctx.budget.samples, "flipped": ctx.flipped(found)}


@masking_check(
    "C12",
    looks_for="the attack works at all",
    compute="PGD-20 and C&W on a naturally trained network of the same arch",
    raises="over 1 point and 2 images survive",
    source="ours: 1 point",
    uses_surrogate=True,
    needs_surrogate=True,
)
def undefended(ctx: CheckContext) -> Found:
    """The limit is the exact one of a share of the images."""
    network, right = ctx.surrogates[0], ctx.everyone()
    with attack_mode(network, "eval"):  # in train mode it would predict by the batch, and learn
        for name in ("pgd-20", "cw"):
            x_adv = ctx.attack(get_attack(name), f"twin {name}", on=network)
            right &= predictions(network, x_adv, ctx.y)[0]
    return [ctx.share("an undefended twin keeps", right, ctx.points(1))], {}


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


def _transferred(ctx: CheckContext, network: BatchedModel) -> Tensor:
    """(m,) bool: correct on images made on a surrogate by PGD-20 on cross entropy and margin."""

    def make() -> Tensor:
        survived = ctx.everyone()
        for name in ("pgd-20", "cw"):
            x_adv = ctx.attack(get_attack(name), f"transfer {name}", on=network)
            survived &= ctx.still_right(x_adv)
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
