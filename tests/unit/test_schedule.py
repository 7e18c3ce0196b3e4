"""Learning rates against their definitions."""

from __future__ import annotations

import math

import pytest

from bench.recipe import Recipe, load_recipe
from bench.training.schedule import learning_rate


def recipe(**values: object) -> Recipe:
    return Recipe(**({"epochs": 1, "batch_size": 1, "lr": 0.1} | values))  # type: ignore[arg-type]


@pytest.mark.parametrize("per_epoch", [1, 7, 391])
def test_common_drops_at_epochs_100_and_105(per_epoch: int) -> None:
    common, _ = load_recipe("common", arch="wrn-34-10", dataset="cifar10", method="madry")
    by_epoch = [
        {learning_rate(common, e * per_epoch + b, 110 * per_epoch) for b in range(per_epoch)}
        for e in range(110)
    ]
    for epoch, rates in enumerate(by_epoch):
        wanted = 0.1 if epoch < 100 else 0.01 if epoch < 105 else 0.001
        assert list(rates) == [pytest.approx(wanted)], epoch


def test_cosine_ends_near_zero() -> None:
    r = recipe(schedule="cosine")
    assert learning_rate(r, 0, 100) == 0.1
    assert learning_rate(r, 50, 100) == pytest.approx(0.05)
    assert learning_rate(r, 99, 100) == pytest.approx(0.05 * (1 + math.cos(0.99 * math.pi)))


def test_onecycle_is_a_triangle() -> None:
    r = recipe(schedule="onecycle", warmup=0.25)
    assert learning_rate(r, 0, 100) == 0
    assert learning_rate(r, 25, 100) == pytest.approx(0.1)
    assert learning_rate(r, 10, 100) == pytest.approx(0.04)
    assert learning_rate(r, 100, 100) == pytest.approx(0.0)
    assert learning_rate(recipe(schedule="onecycle", warmup=0.0), 0, 10) == pytest.approx(0.1)
