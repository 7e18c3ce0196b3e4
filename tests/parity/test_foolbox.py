"""Our PGD beside foolbox's, on the same network, images and start."""

import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import eagerpy as ep
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.attacks import PGD
from bench.threat import Threat
from tests.harness import generator, right
from tests.parity.test_autoattack import subject

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it imports a name that SciPy moved
    import foolbox

EPS = 0.14
THREAT = Threat(eps=EPS)


class FoolboxPGD(foolbox.attacks.LinfProjectedGradientDescentAttack):  # type: ignore[misc]
    """Foolbox's loop with a loss and a start of ours."""

    def __init__(self, loss: str, steps: int, relative_step: float, noise: Tensor | None) -> None:
        super().__init__(steps=steps, rel_stepsize=relative_step, random_start=noise is not None)
        self.loss = loss
        self.noise = noise

    def get_random_start(self, x0: Any, epsilon: float) -> Any:
        return x0 + ep.astensor(self.noise)

    def get_loss_fn(self, model: Any, labels: Any) -> Callable[[Any], Any]:
        if self.loss == "ce":
            return super().get_loss_fn(model, labels)  # type: ignore[no-any-return]

        def margin(inputs: Any) -> Any:
            logits, y = model(inputs).raw, labels.raw
            true = F.one_hot(y, logits.shape[1]).bool()
            others = logits.masked_fill(true, -torch.inf).max(1).values
            return ep.astensor((others - logits[true]).sum())

        return margin


def theirs(
    net: nn.Module, x: Tensor, y: Tensor, loss: str, steps: int, noise: Tensor | None
) -> Tensor:
    attack = FoolboxPGD(loss, steps, 0.2, noise)
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    x_adv: Tensor = attack.run(model, x, foolbox.criteria.Misclassification(y), epsilon=EPS)
    return x_adv


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("start", ["zero", "uniform"])
def test_from_the_same_start_the_same_images_survive(loss: Any, start: Any) -> None:
    net, x, y = subject("conv", 200)
    noise = THREAT.uniform(x, generator(7)) * EPS if start == "uniform" else None
    attack = PGD(steps=20, relative_step=0.2, loss=loss, start=start)
    left = right(net, attack(net, x, y, THREAT, generator=generator(7)), y)
    assert torch.equal(left, right(net, theirs(net, x, y, loss, 20, noise), y))
    assert 40 < int(left.sum()) < 160  # neither attack nor model is trivial


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("start", ["zero", "uniform"])
def test_five_steps_are_the_same_images_in_double_precision(loss: Any, start: Any) -> None:
    single, x, y = subject("conv", 200)
    net = deepcopy(single).double()
    x = x.double()
    noise = THREAT.uniform(x, generator(7)) * EPS
    attack = PGD(steps=5, relative_step=0.2, loss=loss, start=start)
    ours = attack(net, x, y, THREAT, generator=generator(7))
    found = theirs(net, x, y, loss, 5, noise if start == "uniform" else None)
    torch.testing.assert_close(ours, found, rtol=0, atol=1e-10)
