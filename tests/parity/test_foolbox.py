"""Our PGD beside foolbox's, on the same network, images and start."""

import warnings
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

import eagerpy as ep
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.attacks import PGD
from bench.threat import Threat
from tests.harness import generator, right

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it imports a name that SciPy moved
    import foolbox

EPS = 0.08
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


@cache
def subject() -> tuple[nn.Module, Tensor, Tensor]:
    """A convolutional net of five classes after a few steps on blobs, and 200 images."""
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    centres = 0.5 + 0.15 * torch.randn(5, 2, 6, 6, generator=g)
    y = torch.arange(200) % 5
    x = (centres[y] + 0.25 * torch.randn(200, 2, 6, 6, generator=g)).clamp(0, 1)
    net = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5)
    )
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for _ in range(15):
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return net.eval(), x, y


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
    net, x, y = subject()
    noise = THREAT.uniform(x, generator(7)) * EPS if start == "uniform" else None
    attack = PGD(steps=20, relative_step=0.2, loss=loss, start=start)
    left = right(net, attack(net, x, y, THREAT, generator=generator(7)), y)
    assert torch.equal(left, right(net, theirs(net, x, y, loss, 20, noise), y))
    assert 40 < int(left.sum()) < 160  # neither attack nor model is trivial


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("start", ["zero", "uniform"])
def test_five_steps_are_the_same_images_in_double_precision(loss: Any, start: Any) -> None:
    single, x, y = subject()
    net = deepcopy(single).double()
    x = x.double()
    noise = THREAT.uniform(x, generator(7)) * EPS
    attack = PGD(steps=5, relative_step=0.2, loss=loss, start=start)
    ours = attack(net, x, y, THREAT, generator=generator(7))
    found = theirs(net, x, y, loss, 5, noise if start == "uniform" else None)
    torch.testing.assert_close(ours, found, rtol=0, atol=1e-10)


def test_with_noise_of_their_own_accuracies_agree() -> None:
    """Means of three runs over 200 images; a run's own scatter is about half a point."""
    net, x, y = subject()
    ours = PGD(steps=20, relative_step=0.2)
    mine = [right(net, ours(net, x, y, THREAT, generator=generator(s)), y) for s in range(3)]
    torch.manual_seed(0)
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfProjectedGradientDescentAttack(steps=20, rel_stepsize=0.2)
    wanted = foolbox.criteria.Misclassification(y)
    others = [right(net, attack.run(model, x, wanted, epsilon=EPS), y) for _ in range(3)]
    means = [float(torch.stack(runs).double().mean()) for runs in (mine, others)]
    assert means[0] == pytest.approx(means[1], abs=0.015)
