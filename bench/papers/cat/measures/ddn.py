"""The smallest perturbation of a network that makes one class overtake another: an upper bound.

DDN, Rony et al. 2019 (arXiv 1811.09600): the direction follows the gradient of the objective, the
norm is set apart from it, smaller after a success and larger after a failure. Here the objective
is Z_t - Z_y for a given target t, lengths are relative to the first-order distance
(Z_y - Z_t) / ||gradient||, and the best perturbation is shortened along its ray at the end, so
that the bound is tight where the direction is right. On a linear map it is exact.

Shapes: B rows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.papers.cat.measures.perturbed import Deltas, Perturbed, chosen, scaled, size

SHRINK, GROW, SEARCH = 0.95, 1.05, 1.2
"""Of the norm: after a success, after a failure, and after a failure before any success."""
BISECTIONS = 12
TINY = 1e-12


def first_order(network: Perturbed, x: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return (B,) the size of the smallest perturbation if the network were linear."""
    lead, gradient = _lead(network, x, network.zeros(x), y, target)
    return -lead / size(gradient).clamp_min(TINY)


def smallest(network: Perturbed, x: Tensor, y: Tensor, target: Tensor, *, steps: int) -> Tensor:
    """Return (B,) sizes of small perturbations with Z_target >= Z_y; infinite if none was found.

    x: (B, C, H, W), all classified as y (B,); target: (B,) other classes. steps: gradients.
    """
    deltas = best = network.zeros(x)
    found = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    length = torch.zeros_like(found)
    for step in range(steps):
        lead, gradient = _lead(network, x, deltas, y, target)
        slope = size(gradient).clamp_min(TINY)
        success = lead >= 0
        if step == 0:
            length = -lead / slope
        else:
            better = success & (size(deltas) < found)
            best, found = chosen(better, deltas, best), torch.where(better, size(deltas), found)
            grow = torch.where(found.isinf(), SEARCH, GROW)
            length = length * torch.where(success, SHRINK, grow)
        stride = length * (0.01 + 0.5 * (1 + math.cos(math.pi * step / steps)))
        moved = [a + b for a, b in zip(deltas, scaled(gradient, stride / slope), strict=True)]
        deltas = scaled(moved, length / size(moved).clamp_min(TINY))
    success = _lead(network, x, deltas, y, target)[0] >= 0
    best = chosen(success & (size(deltas) < found), deltas, best)
    found = torch.where(success | found.isfinite(), size(best), found)
    return found * _shortened(network, x, best, y, target)


def _shortened(network: Perturbed, x: Tensor, deltas: Deltas, y: Tensor, target: Tensor) -> Tensor:
    """Return (B,) in (0, 1] the smallest factor that still succeeds, by bisection."""
    low, high = x.new_zeros(len(x)), x.new_ones(len(x))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        with torch.no_grad():
            success = _difference(network(x, scaled(deltas, middle)), y, target) >= 0
        low, high = torch.where(success, low, middle), torch.where(success, middle, high)
    return high


def _lead(
    network: Perturbed, x: Tensor, deltas: Deltas, y: Tensor, target: Tensor
) -> tuple[Tensor, Deltas]:
    """Return Z_target - Z_y (B,), and its gradient with respect to each perturbation."""
    deltas = [delta.detach().requires_grad_() for delta in deltas]
    with torch.enable_grad():
        lead = _difference(network(x, deltas), y, target)
        gradient = torch.autograd.grad(lead.sum(), deltas)
    return lead.detach(), list(gradient)


def _difference(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)
