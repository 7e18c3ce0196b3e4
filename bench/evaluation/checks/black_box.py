"""C1, C2, C6: an attack that sees no gradients must not find what gradient attacks missed."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.attacks import get_attack
from bench.attacks.blocks import Blocked
from bench.evaluation.check import Check
from bench.evaluation.checks.lab import Figure, Lab, is_right, share, verdict

ROUND = 64
"""Random points an image between two looks at what is broken; looking waits for the device."""
FLOATS = 2**24
"""Of the points between two looks: a copy of them is 64 MiB, and several are made."""


def black_box(lab: Lab) -> Check:
    """C1: Square with 5000 queries, transfer and random search, together."""
    white = lab.white_box()
    together = white & square(lab) & random_search(lab)
    for number in range(len(lab.surrogates)):
        together &= transferred(lab, number)
    flipped = lab.index[(white & ~together).cpu()].tolist()
    figure = Figure(
        what="black box beats white box by",
        value=share(white) - share(together),
        threshold=lab.points(0.2),
    )
    detail = {"white_box": share(white), "with_black_box": share(together), "flipped": flipped}
    return verdict("C1", [figure], "AutoAttack, checks.py (0.2 points)", detail)


def transfer(lab: Lab) -> Check:
    """C2: images from a naturally trained surrogate against the white box, image by image."""
    white = lab.white_box()
    each = [transferred(lab, number) for number in range(len(lab.surrogates))]
    found = white & ~torch.stack(each).all(0)
    figure = Figure(what="transfer beats white box by", value=share(found), threshold=lab.least)
    detail = {
        "white_box": share(white),
        "transfer": [share(survived) for survived in each],
        "flipped": lab.index[found.cpu()].tolist(),
    }
    return verdict("C2", [figure], "Carlini et al. 2019; two images are ours", detail)


def random_points(lab: Lab) -> Check:
    """C6: points drawn in the ball and at its corners."""
    white = lab.white_box()
    found = white & ~random_search(lab)
    figure = Figure(
        what="random search beats white box by", value=share(found), threshold=lab.least
    )
    detail = {"samples": lab.effort.samples, "flipped": lab.index[found.cpu()].tolist()}
    return verdict("C6", [figure], "Athalye et al. 2018; two images are ours", detail)


def square(lab: Lab) -> Tensor:
    """(m,) bool: right under the white box, and under Square on what that left."""
    return lab.remembered("square", lambda: _square(lab))


def _square(lab: Lab) -> Tensor:
    survived = lab.white_box().clone()
    left = survived.nonzero().squeeze(1)
    if len(left):
        x_adv = get_attack("square")(
            lab.model, lab.x[left], lab.y[left], lab.threat, generator=lab.generator("square")
        )
        full = lab.x.clone()
        full[left] = x_adv
        survived &= lab.still_right(full)
    return survived


def transferred(lab: Lab, number: int) -> Tensor:
    """(m,) bool: right on images made on a surrogate with PGD-20 on cross entropy and margin."""
    network = lab.surrogates[number]
    return lab.remembered(("transfer", network.model), lambda: _transferred(lab, network))


def _transferred(lab: Lab, network: Blocked) -> Tensor:
    survived = torch.ones_like(lab.y, dtype=torch.bool)
    for name in ("pgd-20", "cw"):
        crafted = lab.attack(get_attack(name), f"transfer {name}", on=network)
        survived &= lab.still_right(crafted)
    return survived


def random_search(lab: Lab) -> Tensor:
    """(m,) bool: right under the white box and at every random point; half of them are corners."""
    return lab.remembered(f"random {lab.effort.samples}", lambda: _random_search(lab))


def _random_search(lab: Lab) -> Tensor:
    survived, generator = lab.white_box().clone(), lab.generator("random")
    done = 0
    while done < lab.effort.samples and bool(survived.any()):
        left = survived.nonzero().squeeze(1)
        n = min(ROUND, max(1, FLOATS // lab.x[left].numel()), lab.effort.samples - done)
        x = lab.x[left].repeat(n, 1, 1, 1)
        noise = lab.threat.uniform(x, generator)
        corners = (done + torch.arange(len(x), device=x.device) // len(left)) % 2 == 0
        noise[corners] = noise[corners].sign()
        points = lab.threat.project(x + lab.threat.eps * noise, x)
        with torch.no_grad():
            logits = lab.model(points)
        survived[left] = is_right(logits, lab.y[left].repeat(n)).view(n, len(left)).all(0)
        done += n
    return survived
