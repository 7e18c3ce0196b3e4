"""Per-example losses; the caller reduces.

Shapes: B batch, K classes. `logits` (B, K); `y` (B,) class indices or, where it says so,
(B, K) probabilities. Every function returns (B,), to be read as "larger is worse for the model".
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.errors import ConfigError

DLR_CONSTANT = 1e-12
"""Keeps the denominator of the DLR losses from zero, as in AutoAttack's code."""


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-sum_k y_k log softmax(logits)_k; y (B,) indices or (B, K) probabilities."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{j != y} Z_j - Z_y: positive where the model is wrong (Carlini and Wagner 2017)."""
    return best_other(logits, y) - true_logit(logits, y)


def targeted_margin(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Z_t - Z_y; target (B,) class indices (Gowal et al., arXiv 1910.09338)."""
    return true_logit(logits, target) - true_logit(logits, y)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """-(Z_y - max_{j != y} Z_j) / (Z_(1) - Z_(3)), Z_(i) the i-th largest logit.

    Neither a shift nor a scale of the logits moves it (Croce and Hein, arXiv 2003.01690, eq. 6).
    Raises ConfigError below three classes, which have no third logit.
    """
    top = _largest(logits, 3, "the DLR loss")
    return margin(logits, y) / (top[:, 0] - top[:, 2] + DLR_CONSTANT)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """-(Z_y - Z_t) / (Z_(1) - (Z_(3) + Z_(4)) / 2); target (B,) class indices.

    The targeted loss of the same paper (eq. 7). Raises ConfigError below four classes.
    """
    top = _largest(logits, 4, "the targeted DLR loss")
    spread = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
    return targeted_margin(logits, y, target) / (spread + DLR_CONSTANT)


def _largest(logits: Tensor, n: int, loss: str) -> Tensor:
    if logits.shape[1] < n:
        raise ConfigError(
            f"{loss} needs at least {n} classes and the model has {logits.shape[1]}; "
            "use an attack on the margin, such as cw or multitargeted"
        )
    return logits.topk(n, dim=1).values


def true_logit(logits: Tensor, y: Tensor) -> Tensor:
    """Z_y."""
    return logits.gather(1, y[:, None]).squeeze(1)


def best_other(logits: Tensor, y: Tensor) -> Tensor:
    """max_{j != y} Z_j. The true class is masked by -inf: a factor 0 is wrong below zero."""
    return logits.scatter(1, y[:, None], -torch.inf).amax(1)


def kl_divergence(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """KL(softmax(logits_p) || softmax(logits_q)), with a gradient through both."""
    log_p, log_q = logits_p.log_softmax(1), logits_q.log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1)
