"""PGD as other packages have it, with the steps and the radius of ours.

Shapes: n images, C H W image.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

from bench.attacks import PGD
from bench.speed.setting import CLASSES
from bench.threat import Threat

INSTALL = "not installed: pip install 'atbench[peers]'"
Attack = Callable[[Tensor, Tensor], Tensor]
"""x (n, C, H, W), y (n,) -> x_adv."""


@dataclass(frozen=True)
class Peer:
    """A package that has PGD."""

    name: str
    package: str
    """Its name on PyPI."""
    make: Callable[[nn.Module, Threat, PGD], Attack]
    """(model in eval mode, threat, steps and their length) -> the attack."""

    @property
    def version(self) -> str | None:
        """None where it is not installed."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None


def _torchattacks(model: nn.Module, threat: Threat, pgd: PGD) -> Attack:
    import torchattacks

    length = pgd.relative_step * threat.eps
    attack = torchattacks.PGD(
        model, eps=threat.eps, alpha=length, steps=pgd.steps, random_start=True
    )

    def run(x: Tensor, y: Tensor) -> Tensor:
        x_adv: Tensor = attack(x, y)
        return x_adv

    return run


def _foolbox(model: nn.Module, threat: Threat, pgd: PGD) -> Attack:
    import foolbox

    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=_device(model))
    attack = foolbox.attacks.LinfPGD(
        steps=pgd.steps, rel_stepsize=pgd.relative_step, random_start=True
    )

    def run(x: Tensor, y: Tensor) -> Tensor:
        _, x_adv, _ = attack(wrapped, x, y, epsilons=threat.eps)
        assert isinstance(x_adv, Tensor)
        return x_adv

    return run


def _art(model: nn.Module, threat: Threat, pgd: PGD) -> Attack:
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    device = _device(model)
    attack: Any = None

    def run(x: Tensor, y: Tensor) -> Tensor:
        nonlocal attack
        if attack is None:
            classifier = PyTorchClassifier(
                model=model,
                loss=nn.CrossEntropyLoss(),
                input_shape=tuple(x.shape[1:]),
                nb_classes=CLASSES,
                clip_values=(0.0, 1.0),
                device_type="cpu" if device.type == "cpu" else "gpu",
            )
            attack = ProjectedGradientDescent(
                classifier,
                norm="inf",
                eps=threat.eps,
                eps_step=pgd.relative_step * threat.eps,
                max_iter=pgd.steps,
                num_random_init=1,
                batch_size=len(x),
                verbose=False,
            )
        return torch.from_numpy(attack.generate(x.cpu().numpy(), y.cpu().numpy())).to(device)

    return run


PEERS = (
    Peer("torchattacks", "torchattacks", _torchattacks),
    Peer("foolbox", "foolbox", _foolbox),
    Peer("ART", "adversarial-robustness-toolbox", _art),
)


@contextmanager
def quietly() -> Iterator[None]:
    """Their warnings are of their own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
