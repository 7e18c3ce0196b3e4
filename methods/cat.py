"""CAT: Cheng et al., "CAT: Customized Adversarial Training for Improved Robustness"
(arXiv 2002.06789).

    min_theta  mean  max_{|d| <= e_i} L(Z(x_i + d), q_i)                          (eq. 5)
    q_i = (1 - c e_i) onehot(y_i) + c e_i v,   v ~ Dirichlet(1, ..., 1)           (eq. 4)
    CAT-CE:   L = CE(Z, q)
    CAT-MIX:  L = CE(Z, q) + max(max_{j != y} Z_j - Z_y, -kappa)                  (eq. 6)

Every training image has a radius e_i, 0 at first, that grows by eta, up to eps_max, whenever the
attack at the larger radius fails (Algorithm 1). The step, text-faithful:

    e0 = e[i];  r = min(e0 + eta, eps_max);  q0 = label(e0);  d = 0
    m times: d = clip(d + s sign(grad L(Z(x + d), q0)), -r, r), x + d in [0, 1]
    e[i] = e1 = r if argmax Z(x + d) == y else e0;  q1 = label(e1);  update on L(Z(x + d), q1)

Where the text is ambiguous, the reading that fits it best is the default and the other is a flag:
labels by eq. 4 (Algorithm 1 as printed sums to 2 at e = 0); a fresh draw before and after the
attack (`reuse_draw`); the cap before the attack (`cap_before=False`: as printed, where saturated
images train at eps_max + eta); start at d = 0 (`start="uniform"`); s = 0.007, from the authors'
code, since the text gives none (`step_rule="radius"`: 2.5 r / m); BatchNorm in eval mode in the
attack and its success test, like the code (`attack_bn`); success by the last iterate
(`any_iterate`); one radius per image across augmentations (`per_view`: one per augmented view,
which is drawn anew each epoch and so starts at 0); all-ones Dirichlet (`dir_beta`). Clipping x + d
to [0, 1] is such a reading too, without a flag: Algorithm 1 clips d to the ball only, and the
authors' code also clips x + d. In CAT-MIX the attack ascends the unclamped margin
(`mix_attack_clamp="paper"`: eq. 6 as printed, whose gradient is 0 where the model leads by more
than kappa; `"official"`: the code's opposite clamp), and both terms have weight 1
(`mix_weight="eps_sum"`: as in the code, the margin is weighted by the radius, the attack's in the
attack and e_i in the update, and summed over the batch). `adaptive=False` fixes every radius at
eps_max.

Differs from the authors' code (cmhcbb/CAT-Customized-Adversarial-Training), of which no release
follows Algorithm 1. The recipes of these names set the flags for what each does instead:

    cat-first-release  x' only where still right, else x;  e1 = |x' - x|: 0 where the attack wins
    cat-version-1      x' only where wrong, else x;        e1 = |x' - x|: 0 where the attack fails
    cat-version-2      x' always;  e1 = r where wrong, r - eta where right;  q0 = label(r)
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.api import (
    REFERENCE_EPS,
    Batch,
    ConfigError,
    Method,
    Threat,
    TrainState,
    drawn,
    losses,
    param,
    predict,
    register,
    rowwise,
)

RELEASED_CAP = 0.06
"""Largest radius of any release, at eps = 8/255."""


@register("cat-ce")
@dataclass(frozen=True, kw_only=True)
class CatCE(Method):
    """Cross entropy with a radius and a soft label per image."""

    c: float = param(10.0, ge=0)
    """Label uncertainty per unit of radius, at eps = 8/255."""
    eta: float = param(0.005, ge=0)
    """Growth of the radius per failed attack, at eps = 8/255."""
    eps_max: float = param(REFERENCE_EPS, gt=0)
    """Largest radius, at eps = 8/255. At most 8/255 for the paper's radius_rule, else 0.06."""
    steps: int = param(10, ge=1)
    """Gradient steps of the attack, m."""
    step_size: float = param(0.007, gt=0)
    """Length of a step, at eps = 8/255."""
    step_rule: Literal["fixed", "radius"] = "fixed"
    """fixed: step_size; radius: 2.5 r / m."""
    start: Literal["zero", "uniform"] = "zero"
    """Start of the attack."""
    adaptive: bool = True
    """Whether radii grow; if not, each is eps_max."""
    reuse_draw: bool = False
    """Whether the label after the attack reuses the random draw of the label before it."""
    cap_before: bool = True
    """Whether eps_max also bounds the radius of the attack."""
    any_iterate: bool = False
    """Whether an attack counts as successful if any iterate is misclassified."""
    per_view: bool = False
    """Whether a radius belongs to the augmented view only."""
    train_where: Literal["all", "right", "wrong"] = "all"
    """The images that train at x': all, those correct there, or those wrong there. The others train
    at x."""
    radius_rule: Literal["paper", "distance", "inverted"] = "paper"
    """Rule for the new radius. paper: Algorithm 1; distance: the distance of the trained image from
    x; inverted: grown where the attack succeeds."""
    divide_draw: bool = False
    """Whether a label's random part is divided by K, so that labels do not sum to 1."""
    attack_bn: Literal["eval", "train"] = "eval"
    """Mode of BatchNorm in the attack and its success test."""
    dir_beta: float = param(1.0, gt=0)
    """Concentration of the Dirichlet distribution."""

    title = "CAT-CE"
    paper = "arXiv 2002.06789"
    objective = "CE(Z(x'), (1 - c e_i) y + c e_i Dirichlet)"
    inner = "max CE(Z(x'), label) within e_i"

    def __post_init__(self) -> None:
        super().__post_init__()
        largest = REFERENCE_EPS if self.radius_rule == "paper" else RELEASED_CAP
        if self.eps_max > largest:
            raise ConfigError(
                f"eps_max = {self.eps_max} is out of range: above 0 and at most "
                f"{largest * 255:g}/255"
            )
        if self.c * self.eps_max > 1:
            raise ConfigError(
                f"c * eps_max = {self.c * self.eps_max:.6g} is above 1: no label is left; "
                f"c may be at most {math.floor(100 / self.eps_max) / 100:.2f}"
            )

    @property
    def epochs_to_radius(self) -> float:
        """Return how often eta fits into eps_max: a radius grows by eta per epoch at most."""
        if not self.adaptive or self.per_view:
            return 0.0
        return self.eps_max / self.eta if self.eta else math.inf

    def example_state(self, n: int, threat: Threat) -> dict[str, Tensor]:
        """Return the radius of every image, in pixels."""
        first = 0.0 if self.adaptive else threat.scale(self.eps_max)
        return {"radius": torch.full((n,), first)}

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        """Run Algorithm 1 up to the update: attack, new radius, new label."""
        before = self._before(state, batch)
        radius = self._attempted(before, state.threat)
        draw = self._dirichlet(state, batch)
        labelled = radius if self.radius_rule == "inverted" else before
        label = self._label(state, batch, labelled, draw)
        x_adv, right = self._attack(state, batch, label, radius)
        x_adv = self._trained(batch.x, x_adv, right)
        length = state.threat.distance(x_adv, batch.x)
        after = self._after(state.threat, before, radius, right, length)
        state.examples["radius"][batch.index] = after.to(state.examples["radius"].dtype)
        if not self.reuse_draw:
            draw = self._dirichlet(state, batch)
        state.scratch["label"] = self._label(state, batch, after, draw)
        state.scratch["radius"] = after
        return x_adv

    def loss(self, state: TrainState, batch: Batch, x_adv: Tensor) -> Tensor:
        logits = state.model(x_adv)
        return losses.cross_entropy(logits, state.scratch["label"]).mean()

    def _before(self, state: TrainState, batch: Batch) -> Tensor:
        if not self.adaptive:  # not from the state, which is in single precision
            return batch.x.new_full((len(batch.x),), state.threat.scale(self.eps_max))
        if self.per_view:
            return batch.x.new_zeros(len(batch.x))
        return state.examples["radius"][batch.index].to(batch.x.dtype)

    def _attempted(self, before: Tensor, threat: Threat) -> Tensor:
        if not self.adaptive:
            return before
        radius = before + threat.scale(self.eta)
        return radius.clamp(max=threat.scale(self.eps_max)) if self.cap_before else radius

    def _trained(self, x: Tensor, x_adv: Tensor, right: Tensor) -> Tensor:
        """(B, C, H, W): what the update sees; right (B,) is where the attack failed."""
        if self.train_where == "all":
            return x_adv
        return torch.where(rowwise(right if self.train_where == "right" else ~right, x), x_adv, x)

    def _after(
        self, threat: Threat, before: Tensor, radius: Tensor, right: Tensor, length: Tensor
    ) -> Tensor:
        """(B,): e1, from e0, the radius r of the attack, whether it failed, and |x' - x|."""
        if not self.adaptive:
            return before
        rules = {
            "paper": torch.where(right, radius, before),
            "distance": length,
            # down from r, not back to e0: at the cap that is less
            "inverted": torch.where(right, radius - threat.scale(self.eta), radius).clamp(min=0.0),
        }
        return rules[self.radius_rule].clamp(max=threat.scale(self.eps_max))

    def _attack(
        self, state: TrainState, batch: Batch, label: Tensor, radius: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x_adv, and (B,) whether the attack failed."""
        model = state.attack_model(self.attack_bn)
        right = torch.ones_like(batch.y, dtype=torch.bool)

        def watch(step: int, x_adv: Tensor, logits: Tensor, gradient: Tensor) -> None:
            right.logical_and_(logits.argmax(1) == batch.y)

        step_size = state.threat.scale(self.step_size)
        x_adv = state.maximise(
            lambda logits, label, _: self._ascended(state, logits, label, batch.y, radius),
            model,
            batch.x,
            label,
            radius=radius,
            steps=self.steps,
            step_size=2.5 * radius / self.steps if self.step_rule == "radius" else step_size,
            start=self.start,
            on_step=watch if self.any_iterate else None,
            model_mode=self.attack_bn,
        )
        right.logical_and_(predict(model, x_adv, self.attack_bn).argmax(1) == batch.y)
        return x_adv, right

    def _ascended(
        self, state: TrainState, logits: Tensor, label: Tensor, y: Tensor, radius: Tensor
    ) -> Tensor:
        """(B, K), ... -> (B,): what the attack increases."""
        return losses.cross_entropy(logits, label)

    def _label(self, state: TrainState, batch: Batch, radius: Tensor, draw: Tensor) -> Tensor:
        """(B, K): eq. 4. c scales as 1/eps, so that c * eps_max is the same at every eps."""
        # where eps is 0, so is every radius
        share = self.c * REFERENCE_EPS * radius / max(state.threat.eps, 1e-30)
        hard = F.one_hot(batch.y, state.num_classes).to(radius.dtype)
        draw = draw / state.num_classes if self.divide_draw else draw
        return torch.lerp(hard, draw.to(radius.dtype), share[:, None])

    def _dirichlet(self, state: TrainState, batch: Batch) -> Tensor:
        """(B, K): normalised gammas, since torch's Dirichlet takes no generator."""
        beta = torch.full((len(batch.y), state.num_classes), self.dir_beta, device=state.device)
        gamma = drawn(
            beta,
            state.generator("labels"),
            lambda like, g: torch._standard_gamma(
                torch.full_like(like, self.dir_beta), generator=g
            ),
        )
        return gamma / gamma.sum(1, keepdim=True)  # the sum is above 0: no gamma underflows


@register("cat-mix")
@dataclass(frozen=True, kw_only=True)
class CatMix(CatCE):
    """CAT with the mixed loss of eq. 6."""

    kappa: float = param(10.0, ge=0)
    """Lead of the true logit beyond which the margin term of the update is constant."""
    mix_attack_clamp: Literal["none", "paper", "official"] = "none"
    """Clamp of the margin in the attack."""
    mix_weight: Literal["mean", "eps_sum"] = "mean"
    """Weight of the margin term: 1, or B * radius as in the authors' code."""

    title = "CAT-MIX"
    objective = "CE(Z(x'), (1 - c e_i) y + c e_i Dirichlet) + max(margin(x'), -kappa)"
    inner = "max CE(Z(x'), label) + margin(x') within e_i"

    def loss(self, state: TrainState, batch: Batch, x_adv: Tensor) -> Tensor:
        logits = state.model(x_adv)
        ce = losses.cross_entropy(logits, state.scratch["label"])
        hinge = losses.margin(logits, batch.y).clamp(min=-self.kappa)
        return (ce + self._weight(state, state.scratch["radius"]) * hinge).mean()

    def _ascended(
        self, state: TrainState, logits: Tensor, label: Tensor, y: Tensor, radius: Tensor
    ) -> Tensor:
        margin = losses.margin(logits, y)
        if self.mix_attack_clamp == "paper":
            margin = margin.clamp(min=-self.kappa)
        elif self.mix_attack_clamp == "official":
            margin = margin.clamp(max=self.kappa)
        return losses.cross_entropy(logits, label) + self._weight(state, radius) * margin

    def _weight(self, state: TrainState, radius: Tensor) -> Tensor:
        """(B,): B * radius, in units of eps = 8/255, turns the batch mean into the code's sum."""
        if self.mix_weight == "mean":
            return torch.ones_like(radius)
        n = state.whole_size(len(radius))
        return n * REFERENCE_EPS * radius / max(state.threat.eps, 1e-30)
