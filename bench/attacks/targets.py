"""AutoAttack's targeted parts with several target classes at once when few images are left.

The package takes one target class after the other. A pass of two images takes much more than an
eighth of the time of a pass of sixteen.

Shapes: B batch, n images, C H W image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.attacks.fab import nearest_by_linearising
from bench.attacks.multitargeted import other_classes
from bench.attacks.restarts import is_correct

FULL = 64
"""Batch size beyond which a larger batch gains little."""

Run = Callable[[Any, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(the package's attack, images, labels, targets) -> x_adv, and (n,) bool, which are broken."""


def apgd(attack: Any, x: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Run the package's APGD on the targeted DLR loss, from noise."""
    attack.init_hyperparam(x)
    attack.y_target = target
    _, is_right, _, x_adv = attack.attack_single_run(x, y)
    return x_adv, ~is_right


def fab(attack: Any, x: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Run our FAB with the package's settings."""
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
"""Part -> how it runs with given targets."""


@torch.no_grad()
def by_groups(run: Run, attack: Any, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return x_adv (B, C, H, W); images that no target breaks come back unchanged.

    attack: the package's, with its seed and number of targets.

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
        found, broken = run(attack, images, labels, chosen.flatten())
        broken = broken.view(chosen.shape)
        is_broken, first = broken.any(1), broken.int().argmax(1)
        chosen_runs = torch.arange(len(left), device=x.device) * chosen.shape[1] + first
        x_adv[left[is_broken]] = found[chosen_runs[is_broken]]
        left = left[~is_broken]
    return x_adv
