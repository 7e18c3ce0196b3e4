"""A model that expects normalised images is found, and a model that is merely weak is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bench.evaluation import evaluate
from bench.evaluation.normalised import COMMON, expects_normalised
from bench.threat import Threat


class Shades(nn.Module):
    """Classes by brightness, of images normalised by `mean` and `std`."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], n: int = 10) -> None:
        super().__init__()
        self.shades = (torch.linspace(0.05, 0.95, n)[:, None] - torch.tensor(mean)) / torch.tensor(
            std
        )
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return -100 * (x.mean((2, 3))[:, None] - self.shades).square().sum(2)


def images(n: int, n_channels: int = 3, n_classes: int = 10) -> tuple[Tensor, Tensor]:
    y = torch.arange(n) % n_classes
    g = torch.Generator().manual_seed(0)
    noise = 0.02 * (torch.rand(n, n_channels, 8, 8, generator=g) - 0.5)
    return torch.linspace(0.05, 0.95, n_classes)[y].view(-1, 1, 1, 1) + noise, y


@pytest.mark.parametrize("name", COMMON)
def test_the_constants_of_training_scripts_are_named(name: str) -> None:
    """Of so many classes that no other constants will do."""
    x, y = images(100, n_classes=100)
    (note,) = expects_normalised(Shades(*COMMON[name], n=100), x, y, 16)
    assert f"100 once they are normalised by {name} mean and standard deviation" in note
    mean, std = (",".join(f"{value:.4g}" for value in values) for values in COMMON[name])
    assert f"(--mean {mean} --std {std})" in note


def test_the_images_own_statistics_and_grey_images() -> None:
    x, y = images(100, n_channels=1)
    std, mean = (float(value) for value in torch.std_mean(x))
    (note,) = expects_normalised(Shades((mean,), (std,)), x, y, 16)
    assert "100 once they are normalised by the images' own mean and standard deviation" in note
    assert f"--mean {mean:.4g} --std {std:.4g}" in note


def test_neither_a_right_model_nor_a_weak_one_is_named() -> None:
    x, y = images(100)
    identity = Shades((0.0,) * 3, (1.0,) * 3)
    assert expects_normalised(identity, x, y, 16) == []
    wrong = (y + 1 + torch.arange(100) // 10) % 10
    assert expects_normalised(identity, x, wrong, 16) == []


@pytest.mark.parametrize(("n_gained", "found"), [(3, False), (4, True)])
def test_of_few_images_more_than_three_must_turn_right(n_gained: int, found: bool) -> None:
    """Of 20 images 10 points are two: four of them are needed all the same."""

    class Turned(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raw = x.amin() >= 0 and x.amax() <= 1
            right = torch.arange(len(x)) < (10 if raw else 10 + n_gained)
            return nn.functional.one_hot(torch.where(right, y, (y + 1) % 10), 10).float()

    x, y = images(20)
    assert bool(expects_normalised(Turned().eval(), x, y, 32)) == found


def test_logits_that_are_not_finite_are_no_gain() -> None:
    class Fragile(Shades):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            return logits if x.amin() >= 0 else torch.full_like(logits, torch.nan)

    x, _ = images(100)
    y = torch.zeros(100, dtype=torch.int64)  # NaN's arg-max
    assert expects_normalised(Fragile((0.5,) * 3, (0.5,) * 3), x, y, 16) == []


def test_evaluate_has_it_among_its_warnings_and_leaves_the_mode_alone() -> None:
    x, y = images(60)
    model = Shades(*COMMON["ImageNet's"])
    result = evaluate(model, x, y, Threat(eps=0.01), attacks=())
    assert any("the model expects that" in note for note in result.warnings)
    right = Shades((0.0,) * 3, (1.0,) * 3)
    assert evaluate(right, x, y, Threat(eps=0.01), attacks=()).warnings == []
    assert not right.training
