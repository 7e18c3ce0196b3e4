"""TRADES: Zhang et al., "Theoretically Principled Trade-off between Robustness and Accuracy"
(arXiv 1901.08573).

    min_theta  mean [ CE(Z(x), y) + beta * max_{|d| <= eps} KL(p(x) || p(x + d)) ]

Agrees with the authors' code (yaodongyu/TRADES) on: the start x + 0.001 N(0, 1), clipped neither
to the ball nor to the pixel range before the first gradient; eval mode in the attack; KL summed
over classes and averaged over the batch; a gradient through both arguments of KL; the running
statistics of BatchNorm, which see the natural batch, the adversarial one, and the natural one
again.
Differs from it: the attack computes p(x) once, not at every step; the third forward, whose logits
equal those of the first, is replaced by its effect on the running statistics. The result is the
same for less work. Lengths are stated at eps = 8/255 (the code's eps is 0.031).
"""

from dataclasses import dataclass

from torch import Tensor

from bench.api import (
    Batch,
    Method,
    TrainState,
    losses,
    param,
    predict,
    recorded_statistics,
    register,
)


@register("trades")
@dataclass(frozen=True, kw_only=True)
class Trades(Method):
    """Clean cross entropy plus beta times the KL divergence that the attack reaches."""

    beta: float = param(6.0, ge=0)
    """Weight of the robust term, 1/lambda in the paper."""
    steps: int = param(10, ge=1)
    """Gradient steps of the attack."""
    step_size: float = param(0.007, gt=0)
    """Length of a step, at eps = 8/255."""

    title = "TRADES"
    paper = "arXiv 1901.08573"
    objective = "CE(Z(x), y) + beta KL(p(x) || p(x'))"
    inner = "max KL(p(x) || p(x'))"

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        model = state.attack_model("eval")
        return state.maximise(
            lambda logits, clean, _: losses.kl_divergence(clean, logits),
            model,
            batch.x,
            predict(model, batch.x),
            steps=self.steps,
            step_size=state.threat.scale(self.step_size),
            start="gaussian",
        )

    def loss(self, state: TrainState, batch: Batch, x_adv: Tensor) -> Tensor:
        with recorded_statistics(state.model) as again:
            clean = state.model(batch.x)
        adversarial = state.model(x_adv)
        again()  # what remains of the code's third forward
        natural = losses.cross_entropy(clean, batch.y).mean()
        return natural + self.beta * losses.kl_divergence(clean, adversarial).mean()
