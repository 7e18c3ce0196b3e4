"""Square (Andriushchenko et al., arXiv 1912.00049) like in the package, with less work per query.

A query changes one square, at the same place in every image. The package recomputes all pixels;
here only the square is written, and restored if it did not help. Random draws, queries and, in
float32, images are bit-equal to the package's.

Shapes: n images, C H W image.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def search_squares(
    attack: Any, x: Tensor, y: Tensor, *, layout: torch.memory_format
) -> tuple[None, Tensor]:
    """Return (None, x_adv (n, C, H, W)), like `attack.attack_single_run(x, y)` in the max norm.

    attack: the package's `SquareAttack`, which draws, calls the network and has the schedule.
    layout: memory layout of the network's input. None stands for the package's count of queries.
    """
    (n, c, h, w), eps = x.shape, attack.eps
    best = torch.clamp(x + eps * attack.random_choice([n, c, 1, w]), 0.0, 1.0)
    margin, loss = attack.margin_and_loss(best, y)
    now = best.clone(memory_format=layout)
    low, high = (x - eps).clamp_(min=0.0), (x + eps).clamp_(max=1.0)
    rows = torch.arange(n, device=x.device)  # of the remaining images, which `now` holds
    for query in range(attack.n_queries):
        left = (margin > 0.0).nonzero().squeeze(1)
        if len(left) < len(rows):
            best[rows] = now
            rows, y, margin, loss = rows[left], y[left], margin[left], loss[left]
            now, low, high = (images[left].to(memory_format=layout) for images in (now, low, high))
        if len(rows) == 0:
            break
        share = attack.p_selection(query)
        side = min(max(round(math.sqrt(share * (c * h * w) / c)), 1), h, w)
        top, start = (int((room - side) * torch.rand([1])) for room in (h, w))
        square = (..., slice(top, top + side), slice(start, start + side))
        before = now[square].clone()
        moved = before + 2.0 * eps * attack.random_choice([c, 1, 1])
        now[square] = torch.clamp(moved, low[square], high[square])
        new_margin, new_loss = attack.margin_and_loss(now, y)
        is_less = new_loss < loss
        loss = torch.where(is_less, new_loss, loss)
        is_better = is_less | (new_margin <= 0.0)
        margin = torch.where(is_better, new_margin, margin)
        now[square] = torch.where(is_better.view(-1, 1, 1, 1), now[square], before)
    best[rows] = now
    return None, best
