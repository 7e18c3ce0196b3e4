"""Ablations of CAT (arXiv 2002.06789, section 4.4 and Figure 4b), and one that the paper lacks.

    adv-ls      fixed radius, soft labels:     max_{|d| <= eps} CE(Z(x + d), q)
    adp-adv     CAT's radius, hard labels:     max_{|d| <= e_i} CE(Z(x + d), y)
    natural-ls  no attack, soft labels:        CE(Z(x), q)

    q = (1 - alpha) onehot(y) + alpha v,  v ~ Dirichlet(1, ..., 1),  alpha = c eps_max = 0.3137

q is the paper's eq. 4 at the largest radius. The paper's "Adv train" is `madry`, and both halves
together are `cat-ce`. natural-ls measures the accuracy under PGD due to the noisy labels alone.

The paper states neither start nor step of these attacks. adv-ls uses those of `madry`, so that it
equals `madry` at c = 0 and otherwise differs only in its labels; as in CAT, the attack ascends one
draw of q and the update descends another. adp-adv uses those of `cat-ce` and differs from it only
by c = 0. `noise="uniform"` is the other reading of "label smoothing": v = 1/K.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from bench.api import Batch, Threat, TrainState, param, register
from methods.cat import CatCE


@register("adv-ls")
@dataclass(frozen=True, kw_only=True)
class AdvLS(CatCE):
    """CAT's labels at a fixed radius."""

    step_size: float = param(2 / 255, gt=0)
    """Length of a step, at eps = 8/255."""
    start: Literal["zero", "uniform"] = "uniform"
    """Start of the attack."""
    noise: Literal["dirichlet", "uniform"] = "dirichlet"
    """The random part of a label: a Dirichlet draw, or 1/K for every class."""
    adaptive: bool = field(default=False, init=False)
    """Each radius is eps_max, so the parameters of its growth are fixed."""
    eta: float = field(default=0.0, init=False)
    cap_before: bool = field(default=True, init=False)
    any_iterate: bool = field(default=False, init=False)
    per_view: bool = field(default=False, init=False)
    radius_rule: Literal["paper", "distance", "inverted"] = field(default="paper", init=False)
    train_where: Literal["all", "right", "wrong"] = field(default="all", init=False)

    title = "Adv+LS"
    objective = "CE(Z(x'), (1 - c eps) y + c eps Dirichlet)"
    inner = "max CE(Z(x'), label)"

    def _dirichlet(self, state: TrainState, batch: Batch) -> Tensor:
        if self.noise == "uniform":
            shape = (len(batch.y), state.num_classes)
            return torch.full(shape, 1 / state.num_classes, device=batch.y.device)
        return super()._dirichlet(state, batch)


@register("adp-adv")
@dataclass(frozen=True, kw_only=True)
class AdpAdv(CatCE):
    """CAT's radii with hard labels."""

    c: float = field(default=0.0, init=False)
    """No label uncertainty, so the parameters of the draw are fixed."""
    reuse_draw: bool = field(default=False, init=False)
    dir_beta: float = field(default=1.0, init=False)
    divide_draw: bool = field(default=False, init=False)

    title = "Adp-Adv"
    objective = "CE(Z(x'), y)"
    inner = "max CE(Z(x'), y) within e_i"


@register("natural-ls")
@dataclass(frozen=True, kw_only=True)
class NaturalLS(AdvLS):
    """CAT's labels without an attack."""

    steps: int = field(default=1, init=False)
    """Without an attack, its parameters are fixed."""
    step_size: float = field(default=2 / 255, init=False)
    step_rule: Literal["fixed", "radius"] = field(default="fixed", init=False)
    start: Literal["zero", "uniform"] = field(default="zero", init=False)
    reuse_draw: bool = field(default=False, init=False)
    attack_bn: Literal["eval", "train"] = field(default="eval", init=False)

    title = "Natural+LS"
    selects_by = "clean"
    objective = "CE(Z(x), (1 - c eps) y + c eps Dirichlet)"
    inner = "none"

    def example_state(self, n: int, threat: Threat) -> dict[str, Tensor]:
        """Return nothing: without an attack no radius is needed."""
        return {}

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        """Return the images themselves, and draw their labels."""
        radius = batch.x.new_full((len(batch.y),), state.threat.scale(self.eps_max))
        label = self._label(state, batch, radius, self._dirichlet(state, batch))
        state.scratch["label"] = label
        return batch.x
