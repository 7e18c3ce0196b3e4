"""The threat model: the ball, the box, and the messages for an eps that is none."""

from __future__ import annotations

import math

import pytest
import torch

from bench.errors import ConfigError
from bench.threat import REFERENCE_EPS, Threat, per_example, rowwise


def test_eps_in_pixels_of_255_is_met_with_the_fraction_that_was_meant() -> None:
    with pytest.raises(ConfigError) as caught:
        Threat(eps=8)
    assert str(caught.value) == "eps 8: pixels are in [0, 1]; did you mean 8/255?"


@pytest.mark.parametrize("eps", [-0.1, -1e-9, math.nan])
def test_eps_below_zero_or_nan_is_refused(eps: float) -> None:
    with pytest.raises(ConfigError, match=r"must be a number in \[0, 1\]"):
        Threat(eps=eps)


def test_bounds_of_eps_are_allowed_and_other_norms_are_not() -> None:
    assert Threat(eps=0).eps == 0
    assert Threat(eps=1).eps == 1
    with pytest.raises(ConfigError, match="norm 'l2' is not supported; use 'linf'"):
        Threat(norm="l2")


def test_lengths_scale_with_eps() -> None:
    assert Threat().eps == 8 / 255 == REFERENCE_EPS
    assert Threat().scale(0.007) == pytest.approx(0.007, rel=1e-15)
    assert Threat(eps=16 / 255).scale(0.007) == pytest.approx(0.014, rel=1e-15)
    assert Threat(eps=0).scale(0.007) == 0


@pytest.mark.parametrize("radius", [None, 0.15, [0.1, 0.2, 0.0, 0.3, 0.05]])
def test_projection_is_the_nearest_point_of_ball_and_box(
    radius: float | list[float] | None,
) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(5, 2, 3, 3, generator=g, dtype=torch.float64)
    x[0], x[1] = 0.0, 1.0  # the box binds on one side of each pixel
    x_adv = x + torch.empty_like(x).uniform_(-0.5, 0.5, generator=g)
    given = torch.tensor(radius, dtype=x.dtype) if isinstance(radius, list) else radius
    found = Threat(eps=0.25).project(x_adv, x, given)
    bounds = radius if isinstance(radius, list) else [0.25 if radius is None else radius] * 5
    for i, bound in enumerate(bounds):
        pixels = zip(x_adv[i].flatten(), x[i].flatten(), found[i].flatten(), strict=True)
        for moved, origin, got in pixels:
            low, high = max(0.0, float(origin) - bound), min(1.0, float(origin) + bound)
            assert float(got) == min(high, max(low, float(moved)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_projection_of_points_at_the_edge_of_the_box_stays_in_it(dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, 1.0], dtype=dtype).view(2, 1, 1, 1)
    threat = Threat(eps=8 / 255)
    out = threat.project(x + torch.tensor([-1.0, 1.0], dtype=dtype).view(2, 1, 1, 1), x)
    assert out.flatten().tolist() == [0.0, 1.0]
    inward = threat.project(1 - x, x)
    assert inward.flatten().tolist() == pytest.approx([8 / 255, 1 - 8 / 255], abs=1e-7)
    assert inward.dtype == dtype


def test_projection_is_the_identity_inside_and_idempotent() -> None:
    g = torch.Generator().manual_seed(1)
    x = torch.rand(64, 3, 4, 4, generator=g)
    threat = Threat(eps=0.1)
    inside = (x + 0.0999 * threat.uniform(x, g)).clamp(0, 1)
    assert torch.equal(threat.project(inside, x), inside)
    far = threat.project(x + threat.uniform(x, g), x)
    assert torch.equal(threat.project(far, x), far)
    assert torch.equal(threat.project(x + 0.3, x, 0.0), x)


def test_distance_is_the_largest_change_of_each_image() -> None:
    x = torch.zeros(3, 2, 2, 2)
    x_adv = x.clone()
    x_adv[0, 1, 0, 1], x_adv[1, 0, 0, 0], x_adv[1, 1, 1, 1] = -0.25, 0.5, 0.125
    assert Threat().distance(x_adv, x).tolist() == [0.25, 0.5, 0.0]


def test_dual_norm_is_the_gain_of_the_steepest_direction() -> None:
    g = torch.Generator().manual_seed(2)
    gradient = torch.randn(4, 2, 3, 3, generator=g, dtype=torch.float64)
    gradient[0, 0, 0, 0] = 0.0
    threat = Threat()
    direction = threat.direction(gradient)
    assert set(direction.flatten().tolist()) == {-1.0, 0.0, 1.0}
    gain = (direction * gradient).flatten(1).sum(1)
    torch.testing.assert_close(threat.dual_norm(gradient), gain, rtol=0, atol=1e-12)
    others = torch.empty(200, 4, 2, 3, 3, dtype=torch.float64).uniform_(-1, 1, generator=g)
    assert bool(((others * gradient).flatten(2).sum(2) < gain).all())


def test_uniform_noise_fills_the_unit_ball_and_takes_its_generator_alone() -> None:
    x = torch.empty(8, 3, 16, 16, dtype=torch.float64)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    noise = Threat(eps=0.1).uniform(x, torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert noise.dtype == x.dtype
    assert noise.shape == x.shape
    assert -1 <= float(noise.min()) < -0.999
    assert 0.999 < float(noise.max()) <= 1
    # 6144 draws: standard errors of the mean 0.007, of the variance 0.004
    assert abs(float(noise.mean())) < 0.03
    assert abs(float(noise.var()) - 1 / 3) < 0.02
    torch.manual_seed(99)
    again = Threat(eps=0.3).uniform(x, torch.Generator().manual_seed(3))
    assert torch.equal(noise, again)


def test_per_example_values_broadcast_over_images() -> None:
    like = torch.zeros(3, 2, 4, 5)
    value = torch.tensor([1.0, 2.0, 3.0])
    assert rowwise(value, like).shape == (3, 1, 1, 1)
    wide = per_example(value, like)
    assert isinstance(wide, torch.Tensor)
    assert (like + wide)[:, 1, 3, 4].tolist() == [1.0, 2.0, 3.0]
    assert per_example(0.5, like) == 0.5
