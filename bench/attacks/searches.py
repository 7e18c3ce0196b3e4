"""Searches of AutoAttack's parts for less work: several targets at once, our own FAB and Square.

Shapes: B batch, n images, C H W image, or points of d coordinates; K classes.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.attacks.attack import is_correct
from bench.attacks.margins import other_classes
from bench.attacks.maximise import NARROWS_EVERY
from bench.machine import sent

FULL = 64
"""Batch size beyond which a larger batch gains little."""
MOST_STEPS = 64
"""Newton's steps to a hyperplane: about four are needed; a length not found by then is short."""
PRECISION = 1e-6
LOOKS_EVERY = {"cpu": 1, "cuda": 4}
"""Newton's steps between two looks whether all are done: a look waits for a GPU."""
SQUARES_NARROW_EVERY = {"cpu": 1, "cuda": 20}
"""Queries of Square between two counts of the remaining images."""
DRAWN_AHEAD = 100
"""Queries of Square that are drawn at once: draws are made on the CPU, and copied to a GPU."""

Run = Callable[[Any, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(the package's attack, images, labels, targets) -> x_adv, and (n,) bool, which are broken."""


@torch.no_grad()
def by_groups(run: Run, attack: Any, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return x_adv (B, C, H, W); images that no target breaks come back unchanged.

    attack: the package's, with its seed and number of targets. It takes one target class after the
    other; a pass of two images takes much more than an eighth of the time of a pass of sixteen, so
    when few images are left, each meets several targets at once.

    The targets of an image are the wrong classes in descending order of its logits. Like in the
    package, an image that one target broke is not attacked with later ones; of several at once, the
    first counts, and the global generator is seeded.
    """
    torch.manual_seed(attack.seed)
    x_adv = x.clone()
    left = is_correct(model, x, y).nonzero().squeeze(1)
    targets, done = other_classes(model, x, y)[:, : attack.n_target_classes], 0
    while len(left) > 0 and done < targets.shape[1]:
        chosen = targets[left, done : done + -(-FULL // len(left))]
        done += chosen.shape[1]
        images, labels = (of.repeat_interleave(chosen.shape[1], 0) for of in (x[left], y[left]))
        candidates, broken = run(attack, images, labels, chosen.flatten())
        broken = broken.view(chosen.shape)
        is_broken, first = broken.any(1), broken.int().argmax(1)
        chosen_runs = torch.arange(len(left), device=x.device) * chosen.shape[1] + first
        x_adv[left[is_broken]] = candidates[chosen_runs[is_broken]]
        left = left[~is_broken]
    return x_adv


def apgd(attack: Any, x: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    attack.init_hyperparam(x)
    attack.y_target = target
    _, is_right, _, x_adv = attack.attack_single_run(x, y)
    return x_adv, ~is_right


def fab(attack: Any, x: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    x_adv, distance = nearest_by_linearising(
        *(attack.predict, x, y, target),
        eps=attack.eps,
        n_iter=attack.n_iter,
        alpha_max=attack.alpha_max,
        eta=attack.eta,
        beta=attack.beta,
    )
    return x_adv, distance <= attack.eps


RUNS: dict[str, Run] = {"apgd-t": apgd, "fab-t": fab}


@torch.no_grad()
def nearest_by_linearising(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    target: Tensor,
    *,
    eps: float,
    n_iter: int,
    alpha_max: float,
    eta: float,
    beta: float,
) -> tuple[Tensor, Tensor]:
    """Return x_adv (n, C, H, W) and its distance from x, (n,), in pixels, by targeted FAB.

    Croce and Hein, arXiv 1907.02044, in the max norm, with the package's steps. Differs from the
    package: the projection does not sort the pixels; each image has its own target; and an image
    leaves the batch once it is broken within eps, instead of being brought nearer.

    If none was found, x itself and inf. x is in [0, 1]; y and target are (n,) class indices.

    Each step projects the iterate and, with weight at most alpha_max, x onto the boundary between y
    and the target of the linearised model, overshoots by eta and, if misclassified, moves back
    towards x by beta. An image within eps of x is done.
    """
    best, distance = x.clone(), x.new_full((len(x),), torch.inf)
    rows = torch.arange(len(x), device=x.device)  # of the remaining images, like what follows
    now, nearest, away = x, x, distance
    every = NARROWS_EVERY.get(x.device.type, NARROWS_EVERY["cuda"])
    for number in range(n_iter):
        ahead, normals = _difference(model, now, y, target)
        points, normals = now.flatten(1), normals.flatten(1)
        offsets = torch.linalg.vecdot(normals, points) - ahead
        steps = step_to_hyperplane(
            torch.cat([points, x.flatten(1)]), normals.repeat(2, 1), offsets.repeat(2)
        )
        from_now, from_x = steps.view(2, *x.shape)
        lengths = steps.abs().amax(1).clamp_(min=1e-8).view(2, -1, 1, 1, 1)
        share = (lengths[0] / lengths.sum(0)).clamp_(max=alpha_max)
        now = (now + eta * from_now) * (1 - share) + (x + eta * from_x) * share
        now = now.clamp_(0.0, 1.0)
        is_broken = model(now).argmax(1) != y
        reached = (now - x).flatten(1).abs().amax(1)
        is_nearer = is_broken & (reached < away) & (away > eps)  # one within eps is done
        nearest = torch.where(is_nearer.view(-1, 1, 1, 1), now, nearest)
        away = torch.where(is_nearer, reached, away)
        now = torch.where(is_broken.view(-1, 1, 1, 1), x + (now - x) * beta, now)
        if (number + 1) % every and number + 1 < n_iter:
            continue
        left = (away > eps).nonzero().squeeze(1)
        if len(left) < len(rows) or number + 1 == n_iter:
            best[rows], distance[rows] = nearest, away
            remaining = now, nearest, away, x, y, target, rows
            now, nearest, away, x, y, target, rows = (of[left] for of in remaining)
        if len(rows) == 0:
            break
    return best, distance


def _difference(
    model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(x)
        ahead = (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)
        (gradient,) = torch.autograd.grad(ahead.sum(), x)
    return ahead.detach(), gradient


def step_to_hyperplane(points: Tensor, normals: Tensor, offsets: Tensor) -> Tensor:
    """Return the smallest step (n, d), in the max norm, onto normal . z = offset within [0, 1].

    points: (n, d) in [0, 1]. normals: (n, d). offsets: (n,). If the hyperplane misses the box, the
    step goes as far towards it as the box allows. Same result as the package's `projection_linf`,
    which sorts the pixels by their distance to the box.

    Each coordinate moves by a common length, or to the edge of the box. With rooms r and slopes |w|
    the covered distance sum |w| min(r, length) is concave in the length, so Newton's steps from 0
    increase to the solution and never overshoot.
    """
    distance = torch.linalg.vecdot(normals, points) - offsets
    towards = torch.where(distance >= 0, -1.0, 1.0).to(normals.dtype).unsqueeze(1) * normals
    slopes = towards.abs()
    is_up = torch.gt(towards, 0, out=torch.empty_like(towards))  # floats are faster than bools here
    room = is_up - points * (2 * is_up - 1)
    length = torch.zeros_like(distance).unsqueeze(1)
    missing = distance.abs().unsqueeze(1)
    has_room = torch.empty_like(room)
    every = LOOKS_EVERY.get(points.device.type, LOOKS_EVERY["cuda"])
    for number in range(1, MOST_STEPS + 1):
        covered = torch.linalg.vecdot(slopes, torch.minimum(room, length)).unsqueeze(1)
        torch.gt(room, length, out=has_room)
        slope = torch.linalg.vecdot(slopes, has_room).unsqueeze(1)
        growth = torch.where(slope > 0, (missing - covered) / slope, 0.0).clamp_(min=0.0)
        length = length + growth
        if number % every == 0 and not bool((growth > PRECISION * length).any()):
            break
    return towards.sign() * torch.minimum(room, length)


def search_squares(
    attack: Any, x: Tensor, y: Tensor, *, layout: torch.memory_format
) -> tuple[None, Tensor]:
    """Return (None, x_adv (n, C, H, W)), like `attack.attack_single_run(x, y)` in the max norm.

    Square (Andriushchenko et al., arXiv 1912.00049). A query changes one square, at the same place
    in every image. The package recomputes all pixels; here only the square is written, and restored
    if it did not help. Random draws, queries and, in float32, images are bit-equal.

    attack: the package's `SquareAttack`, which calls the network and has the schedule.
    layout: memory layout of the network's input. None stands for the package's count of queries.
    """
    (n, c, h, w), eps = x.shape, attack.eps
    best = torch.clamp(x + eps * attack.random_choice([n, c, 1, w]), 0.0, 1.0)
    margin = _lead(attack.predict(best), y)
    now = best.clone(memory_format=layout)
    low, high = (x - eps).clamp_(min=0.0), (x + eps).clamp_(max=1.0)
    rows = torch.arange(n, device=x.device)  # of the remaining images, which `now` holds
    every = SQUARES_NARROW_EVERY.get(x.device.type, SQUARES_NARROW_EVERY["cuda"])
    for query in range(attack.n_queries):
        if query % every == 0:
            left = (margin > 0.0).nonzero().squeeze(1)
            if len(left) < len(rows):
                best[rows] = now
                rows, y, margin = rows[left], y[left], margin[left]
                now, low, high = (of[left].to(memory_format=layout) for of in (now, low, high))
            if len(rows) == 0:
                break
        if query % DRAWN_AHEAD == 0:  # in the package's order: top, left and a sign per channel
            drawn = torch.rand(min(DRAWN_AHEAD, attack.n_queries - query), 2 + c)
            places = drawn[:, :2]
            moves = sent(2.0 * eps * torch.sign(2 * drawn[:, 2:] - 1), x.device)
        share = attack.p_selection(query)
        side = min(max(round(math.sqrt(share * (c * h * w) / c)), 1), h, w)
        place = places[query % DRAWN_AHEAD]
        top, start = (int((room - side) * at) for room, at in zip((h, w), place, strict=True))
        square = (..., slice(top, top + side), slice(start, start + side))
        before = now[square].clone()
        moved = before + moves[query % DRAWN_AHEAD].view(c, 1, 1)
        now[square] = torch.clamp(moved, low[square], high[square])
        lead = _lead(attack.predict(now), y)
        is_better = (lead < margin) & (margin > 0.0)  # a broken image stays as it is
        margin = torch.where(is_better, lead, margin)
        now[square] = torch.where(is_better.view(-1, 1, 1, 1), now[square], before)
    best[rows] = now
    return None, best


def _lead(logits: Tensor, y: Tensor) -> Tensor:
    """(n, K), (n,) -> (n,): the logit of y minus the largest other; written into the logits."""
    own = logits.gather(1, y[:, None])
    return own.squeeze(1) - logits.scatter_(1, y[:, None], -torch.inf).amax(1)
