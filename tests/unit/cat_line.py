"""A linear model on which the attack of CAT is known in closed form, and a look at its steps."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench.attacks.maximise import Objective
from bench.method import Batch, Method, TrainState
from bench.threat import REFERENCE_EPS
from tests.harness import make_state
from tests.unit.written import one_hot

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


def line_state(
    method: Method, radii: Sequence[float] = (), n: int = 16, eps: float = REFERENCE_EPS
) -> TrainState:
    """A state on the line; the first images have these radii."""
    state = make_state(method, Line(), n=n, num_classes=3, eps=eps)
    state.examples["radius"][: len(radii)] = torch.tensor(radii)
    return state


def batch_of(x: Tensor, index: Tensor | None = None) -> Batch:
    """Images of class 0."""
    place = torch.arange(len(x)) if index is None else index
    return Batch(x=x, y=torch.zeros(len(x), dtype=torch.long), index=place)


def falling_at(*radii: float) -> Batch:
    return batch_of(images_that_fall_at(*radii))


class Seen:
    """One `perturb`: the labels and radii of its attack, the images of its forwards."""

    def __init__(self, method: Method, state: TrainState, batch: Batch) -> None:
        self.objective: Objective
        self.inputs: list[Tensor] = []
        maximise = state.maximise

        def watched(
            objective: Objective, model: nn.Module, x: Tensor, y: Tensor, **others: Any
        ) -> Tensor:
            self.objective, self.label, self.radius = objective, y, others["radius"]
            return maximise(objective, model, x, y, **others)

        state.maximise = watched  # type: ignore[method-assign]
        hook = state.model.register_forward_pre_hook(
            lambda module, args: self.inputs.append(args[0].detach().clone())
        )
        self.x_adv = method.perturb(state, batch)
        hook.remove()
        state.maximise = maximise  # type: ignore[method-assign]


def labels(shares: Sequence[float], y: Tensor, draw: Tensor) -> Tensor:
    """Eq. 4 in plain numbers: (1 - share) y + share draw, image by image."""
    share = torch.tensor(shares, dtype=torch.float64)[:, None]
    return (1 - share) * one_hot(y, 3) + share * draw
