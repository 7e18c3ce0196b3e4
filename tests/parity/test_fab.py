"""FAB's projection beside the package's, which sorts; and which parts use ours."""

from __future__ import annotations

import pytest
import torch
from pyautoattack import fab_base
from pyautoattack.fab_projections import projection_linf
from torch import Tensor, nn

from bench.attacks import AutoAttackPart
from bench.attacks.autoattack import PartOn
from bench.attacks.fab import step_to_hyperplane
from bench.threat import Threat

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


@pytest.mark.parametrize(
    ("part", "is_ours"),
    [
        (AutoAttackPart(part="fab-t"), False),
        (PartOn(part="fab-t", search="network"), False),
        (PartOn(part="fab-t", search="fp32"), True),
    ],
)
def test_only_a_search_on_a_copy_projects_by_ours(part: AutoAttackPart, is_ours: bool) -> None:
    seen: set[bool] = set()
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 5)).eval()
    net.register_forward_hook(lambda *_: seen.add(fab_base.projection_linf is step_to_hyperplane))
    x = torch.rand(4, 1, 6, 6)
    y = net(x).argmax(1)
    seen.clear()
    part(net, x, y, Threat(eps=0.1))
    assert seen == {is_ours}
    assert fab_base.projection_linf is projection_linf


def test_the_packages_projection_is_back_after_an_error() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if fab_base.projection_linf is step_to_hyperplane:
                raise RuntimeError("broken")
            return x.flatten(1)[:, :5]

    with pytest.raises(RuntimeError, match="broken"):
        PartOn(part="fab-t", search="fp32")(
            Broken(), torch.rand(4, 1, 6, 6), torch.zeros(4, dtype=torch.int64), Threat(eps=0.1)
        )
    assert fab_base.projection_linf is projection_linf
