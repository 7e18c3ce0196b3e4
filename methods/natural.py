"""Natural training: no adversary.

    min_theta  mean CE(Z(x), y)

The reference row: its robust accuracy under any real attack is about 0.

Differs from the code that the recipe `authors` follows (locuslab/robust_overfitting with `--attack
none`): after each update, that code passes the same images once more in train mode, for its log,
which moves the running statistics of BatchNorm. This forward is left out here.
"""

from dataclasses import dataclass

from torch import Tensor

from bench.api import Batch, Method, TrainState, losses, register


@register("natural")
@dataclass(frozen=True, kw_only=True)
class Natural(Method):
    """Cross entropy on unperturbed images."""

    title = "Natural"
    objective = "CE(Z(x), y)"
    inner = "none"
    selects_by = "clean"

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        return batch.x

    def loss(self, state: TrainState, batch: Batch, x_adv: Tensor) -> Tensor:
        return losses.cross_entropy(state.model(x_adv), batch.y).mean()
