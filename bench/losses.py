"""Per-example losses; the caller reduces.

Shapes: B batch, K classes. `logits` (B, K); `y` (B,) class indices or, where it says so,
(B, K) probabilities. Every function returns (B,), to be read as "larger is worse for the model".
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-sum_k y_k log softmax(logits)_k; y (B,) indices or (B, K) probabilities."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{j != y} Z_j - Z_y: positive where the model is wrong (Carlini and Wagner 2017)."""
    return best_other(logits, y) - true_logit(logits, y)


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
