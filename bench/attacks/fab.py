"""Targeted FAB (Croce and Hein, arXiv 1907.02044) in the max norm, with the package's steps.

Differs from the package: the projection does not sort the pixels; each image has its own target;
and an image leaves the batch once it is broken within eps, instead of being brought nearer.

Shapes: n images C H W, or points of d coordinates; K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MOST_STEPS = 64
"""About four are needed; a length not found by then is slightly short."""
PRECISION = 1e-6
"""Relative precision of a length."""


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
    """Return x_adv (n, C, H, W) and its distance from x, (n,), in pixels.

    If none was found, x itself and inf. x is in [0, 1]; y and target are (n,) class indices.

    Each step projects the iterate and, with weight at most alpha_max, x onto the boundary between y
    and the target of the linearised model, overshoots by eta and, if misclassified, moves back
    towards x by beta. An image within eps of x is done.
    """
    best, distance = x.clone(), x.new_full((len(x),), torch.inf)
    now, rows = x, torch.arange(len(x), device=x.device)  # of the remaining images
    for _ in range(n_iter):
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
        away = (now - x).flatten(1).abs().amax(1)
        is_nearer = is_broken & (away < distance[rows])
        best[rows[is_nearer]], distance[rows[is_nearer]] = now[is_nearer], away[is_nearer]
        now = torch.where(is_broken.view(-1, 1, 1, 1), x + (now - x) * beta, now)
        left = (distance[rows] > eps).nonzero().squeeze(1)
        if len(left) < len(rows):
            now, x, y, target, rows = (of[left] for of in (now, x, y, target, rows))
        if len(rows) == 0:
            break
    return best, distance


def _difference(
    model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """Logit of the target minus that of y, (n,), and its gradient, (n, C, H, W)."""
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
    for _ in range(MOST_STEPS):
        covered = torch.linalg.vecdot(slopes, torch.minimum(room, length)).unsqueeze(1)
        torch.gt(room, length, out=has_room)
        slope = torch.linalg.vecdot(slopes, has_room).unsqueeze(1)
        growth = torch.where(slope > 0, (missing - covered) / slope, 0.0).clamp_(min=0.0)
        length = length + growth
        if not bool((growth > PRECISION * length).any()):
            break
    return towards.sign() * torch.minimum(room, length)
