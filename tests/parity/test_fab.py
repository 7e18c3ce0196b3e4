"""Targeted FAB and its projection beside the package's, whose projection sorts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
import torch
from pyautoattack.fab_projections import projection_linf
from pyautoattack.fab_pt import FABAttack_PT
from torch import Tensor, nn

from bench.attacks.fab import nearest_by_linearising, step_to_hyperplane

DISTANCES = (0.0, 1e-6, 0.01, 0.5, 3.0, 100.0)
"""Of the largest, no point of the box is on the hyperplane."""


def case(distance: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Points, some of whose coordinates are at an end, and normals, some of which are 0."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(20, 300, generator=generator, dtype=dtype)
    normals = 0.05 * torch.randn(20, 300, generator=generator, dtype=dtype)
    points[:, ::7], points[:, ::11], normals[:, ::5] = 0, 1, 0
    side = torch.where(torch.arange(20) % 2 == 0, 1.0, -1.0)
    return points, normals, (normals * points).sum(1) - side * distance


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-6)])
def test_is_the_packages(distance: float, dtype: torch.dtype, tolerance: float) -> None:
    given = case(distance, dtype)
    ours, theirs = step_to_hyperplane(*given), projection_linf(*given)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance, check_dtype=False)


@pytest.mark.parametrize("distance", DISTANCES[1:])
def test_is_on_the_hyperplane_or_as_near_as_the_box_allows(distance: float) -> None:
    points, normals, offsets = case(distance, torch.float64)
    there = points + step_to_hyperplane(points, normals, offsets)
    assert there.min() >= 0
    assert there.max() <= 1
    missed = (normals * there).sum(1) - offsets
    if distance < 100:
        assert missed.abs().max() < 1e-6 * distance
    else:
        far = torch.where(normals * missed.sign().unsqueeze(1) > 0, 0.0, 1.0)
        assert torch.equal(there[normals != 0], far.to(there.dtype)[normals != 0])


def test_a_plane_without_direction_moves_nothing() -> None:
    points = torch.rand(2, 30)
    step = step_to_hyperplane(points, torch.zeros(2, 30), torch.tensor([1.0, -1.0]))
    assert torch.equal(step, torch.zeros(2, 30))


@cache
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(216, 7))
    return nn.Sequential(*layers).double().requires_grad_(False).eval()


def images(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """With their labels, as the network sees them, and the likeliest other class."""
    x = torch.rand(n, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    order = network()(x).argsort(1, descending=True)
    return x, order[:, 0], order[:, 1]


@pytest.fixture
def in_double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package makes float32 of what it is given."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("n_iter", [1, 2, 20])
def test_the_images_are_the_packages(n_iter: int) -> None:
    x, y, target = images(12)
    theirs = FABAttack_PT(network(), eps=0.0, n_iter=n_iter, targeted=True, device=x.device)
    theirs.target_class = 2
    found, distance = nearest(x, y, target, eps=0.0, n_iter=n_iter)
    with torch.no_grad():
        expected = theirs.attack_single_run(x, y, is_targeted=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    is_found = distance.isfinite()
    assert torch.equal(is_found, network()(found).argmax(1) != y)
    assert is_found.any()
    away = (found - x).flatten(1).abs().amax(1)
    assert torch.equal(distance[is_found], away[is_found])


def test_an_image_that_is_near_enough_leaves_and_changes_no_other() -> None:
    x, y, target = images(12)
    whole, far = nearest(x, y, target, eps=0.0, n_iter=20)
    eps = float(far.median())
    asked: list[int] = []
    hook = network().register_forward_hook(lambda _, given, out: asked.append(len(out)))
    found, distance = nearest(x, y, target, eps=eps, n_iter=20)
    hook.remove()
    assert asked[0] == 12
    assert 0 < asked[-1] < 12
    assert torch.equal(distance <= eps, far <= eps)
    stayed = distance > eps
    assert stayed.any()
    torch.testing.assert_close(found[stayed], whole[stayed], rtol=0, atol=1e-9)


def nearest(
    x: Tensor, y: Tensor, target: Tensor, *, eps: float, n_iter: int
) -> tuple[Tensor, Tensor]:
    """With the package's settings."""
    return nearest_by_linearising(
        *(network(), x, y, target), eps=eps, n_iter=n_iter, alpha_max=0.1, eta=1.05, beta=0.9
    )
