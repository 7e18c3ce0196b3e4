"""A linear model on which the attack of CAT is known in closed form, and a look at its steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.attacks import maximise
from bench.method import Batch, Method, TrainState
from bench.seeding import generator_for
from bench.threat import REFERENCE_EPS
from tests.harness import make_state

SHAPE = (1, 2, 2)
ETA, CAP = 0.005, 8 / 255


def assert_near(found: Tensor, expected: Tensor | list[float], atol: float = 1e-10) -> None:
    wanted = torch.as_tensor(expected, dtype=found.dtype)
    torch.testing.assert_close(found, wanted.expand_as(found), rtol=0, atol=atol)


class Line(nn.Module):
    """Logits (g, 0, -9), g linear: an image of class 0 falls at the radius g(x) / ||w||_1."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([3.0, -1.0, 2.0, -4.0], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        g = (x - 0.5).flatten(1) @ self.w
        return torch.stack([g, torch.zeros_like(g), torch.full_like(g, -9.0)], 1)


def images_that_fall_at(*radii: float) -> Tensor:
    """Of class 0, inside the box by more than any radius of these tests."""
    direction = torch.tensor([3.0, -1.0, 2.0, -4.0], dtype=torch.float64)
    scale = 10.0 / float(direction.square().sum())  # ||w||_1 / ||w||_2^2
    offset = torch.tensor(radii, dtype=torch.float64)[:, None] * scale * direction
    return (0.5 + offset).view(-1, *SHAPE)


def line_state(method: Method, n: int = 16, eps: float = REFERENCE_EPS) -> TrainState:
    return make_state(method, Line(), n=n, num_classes=3, eps=eps)


def zeros(n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.long)


def batch_of(x: Tensor, index: Tensor | None = None) -> Batch:
    return Batch(x=x, y=zeros(len(x)), index=torch.arange(len(x)) if index is None else index)


def one_hot(y: Tensor, k: int) -> Tensor:
    return torch.eye(k, dtype=torch.float64)[y]


def dirichlet(n: int, k: int, *, draws: int, beta: float = 1.0, seed: int = 0) -> list[Tensor]:
    """The first draws of the label stream of batch 0."""
    stream = generator_for(seed, "train", "labels", 0)
    gammas = [torch._standard_gamma(torch.full((n, k), beta), stream) for _ in range(draws)]
    return [(gamma / gamma.sum(1, keepdim=True)).double() for gamma in gammas]


class Seen:
    """The labels under attack and the images of each forward of one `perturb`."""

    def __init__(
        self, method: Method, state: TrainState, batch: Batch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.labels: list[Tensor] = []
        self.inputs: list[Tensor] = []
        self.radii: list[Any] = []

        def watched(
            objective: Any, model: nn.Module, x: Tensor, y: Tensor, **kwargs: Any
        ) -> Tensor:
            self.labels.append(y)
            self.radii.append(kwargs["radius"])
            return maximise(objective, model, x, y, **kwargs)

        monkeypatch.setattr("methods.cat.maximise", watched)
        hook = state.model.register_forward_pre_hook(
            lambda module, args: self.inputs.append(args[0].detach().clone())
        )
        self.x_adv = method.perturb(state, batch)
        hook.remove()
        monkeypatch.setattr("methods.cat.maximise", maximise)
