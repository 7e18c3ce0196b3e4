"""The threat model: the radius as people write it, the ball, the box, and what is refused."""

import math
from fractions import Fraction

import pytest
import torch

from bench.eps import parse_eps, parse_number
from bench.errors import ConfigError
from bench.experiments.study import AttackConfig
from bench.registry import get_method
from bench.threat import REFERENCE_EPS, Threat
from tests.harness import generator, raises_line


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.5/255", 0.5 / 255),
        (" 8 / 255. ", 8 / 255),
        ("\t8.0/ 255\n", 8 / 255),
        ("+8/255", 8 / 255),
        ("255/255", 1.0),
        ("1e-3", 0.001),
        (".03", 0.03),
        ("0", 0.0),
    ],
)
def test_what_people_write(text: str, value: float) -> None:
    assert parse_eps(text) == value
    assert AttackConfig.parse(f" pgd-20 @ {text}") == AttackConfig(name="pgd-20", eps=value)


def test_fractions_and_decimals_are_rounded_once() -> None:
    """Run ids hash the radius: it is the float next to what was written."""
    for below in (10, 64, 255, 256, 1000):
        for above in range(below + 1):
            assert parse_eps(f"{above}/{below}") == float(Fraction(above, below))
    for number in range(1001):
        assert parse_eps(f"0.{number:04}") == float(Fraction(number, 10_000))
    for eps in (8 / 255, 0.2, 0.031, math.pi / 100):
        assert parse_eps(str(eps)) == eps
    assert [math.copysign(1, parse_eps(text)) for text in ("0", "-0", "0/255", "-0/255")] == [1] * 4


NO_NUMBERS = (
    *("eight", "", " ", "/", "8/", "/255", "8//255", "8/255/1", "1/0", "0/0", "8 255", "nan"),
    *("4/255,8/255", "inf", "-inf", "1/inf", "1e308/1e-308", "1e999", "8/255px", "1" * 400),
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("8", "eps 8: pixels are in [0, 1]; did you mean 8/255?"),
        ("1.5", "eps 1.5: pixels are in [0, 1]; did you mean 1.5/255?"),
        ("16/2", "eps 16/2: pixels are in [0, 1]; did you mean 8/255?"),
        ("256", "eps 256: pixels are in [0, 1]"),
        ("-1/255", "eps -1/255: must not be negative"),
        *((text, f"eps '{text}' is not a number; write 8/255 or 0.03") for text in NO_NUMBERS),
    ],
)
def test_an_eps_that_is_none_is_refused(text: str, reason: str) -> None:
    with raises_line(ConfigError, reason):
        parse_eps(text)


@pytest.mark.parametrize("text", ["pgd-20@", "pgd-20@8/255@4/255", "pgd-20@eps"])
def test_an_attack_whose_eps_is_none_is_refused(text: str) -> None:
    with raises_line(ConfigError, "is not a number"):
        AttackConfig.parse(text)
    assert AttackConfig.parse("pgd-20").eps is None


def test_a_length_of_a_method_is_read_alike() -> None:
    """By one division of floats: run ids hash it too."""
    for text in ("8/255", "0.5/255", "8 / 255", "0.056/7.905", "1e-3", "-1/4"):
        above, _, below = text.partition("/")
        assert parse_number(text) == float(above) / float(below or 1)
    method = get_method("madry", step_size="0.5 / 255.", steps="20/2")
    assert (method.step_size, method.steps) == (0.5 / 255, 10)  # type: ignore[attr-defined]


def test_a_threat_is_linf_with_eps_in_0_to_1() -> None:
    assert (Threat(eps=0).eps, Threat(eps=1).eps) == (0, 1)
    assert Threat().eps == 8 / 255 == REFERENCE_EPS
    with raises_line(ConfigError, "eps 8: pixels are in [0, 1]; did you mean 8/255?"):
        Threat(eps=8)
    for eps in (-0.1, -1e-9, math.nan):
        with raises_line(ConfigError, "must be a number in [0, 1]"):
            Threat(eps=eps)
    with raises_line(ConfigError, "norm 'l2' is not supported; use 'linf'"):
        Threat(norm="l2")


def test_lengths_scale_with_eps() -> None:
    assert Threat().scale(0.007) == pytest.approx(0.007, rel=1e-15)
    assert Threat(eps=16 / 255).scale(0.007) == pytest.approx(0.014, rel=1e-15)
    assert Threat(eps=0).scale(0.007) == 0


@pytest.mark.parametrize("radius", [None, 0.15, [0.1, 0.2, 0.0, 0.3, 0.05]])
def test_projection_is_the_nearest_point_of_ball_and_box(
    radius: float | list[float] | None,
) -> None:
    g = generator()
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


def test_projection_is_the_identity_inside_and_idempotent() -> None:
    g = generator(1)
    x = torch.rand(64, 3, 4, 4, generator=g)
    x[0], x[1] = 0, 1
    threat = Threat(eps=0.1)
    inside = (x + 0.0999 * threat.uniform(x, g)).clamp(0, 1)
    assert torch.equal(threat.project(inside, x), inside)
    far = threat.project(x + threat.uniform(x, g), x)
    assert torch.equal(threat.project(far, x), far)
    assert torch.equal(threat.project(x + 0.3, x, 0.0), x)
    assert far.dtype == torch.float32
    assert (float(far.min()), float(far.max())) == (0, 1)


def test_distance_is_the_largest_change_of_each_image() -> None:
    x = torch.zeros(3, 2, 2, 2)
    x_adv = x.clone()
    x_adv[0, 1, 0, 1], x_adv[1, 0, 0, 0], x_adv[1, 1, 1, 1] = -0.25, 0.5, 0.125
    assert Threat().distance(x_adv, x).tolist() == [0.25, 0.5, 0.0]


def test_dual_norm_is_the_gain_of_the_steepest_direction() -> None:
    g = generator(2)
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
    before = torch.get_rng_state()
    noise = Threat(eps=0.1).uniform(x, generator(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert (noise.dtype, noise.shape) == (x.dtype, x.shape)
    assert -1 <= float(noise.min()) < -0.999
    assert 0.999 < float(noise.max()) <= 1
    # 6144 draws: standard errors of the mean 0.007, of the variance 0.004
    assert abs(float(noise.mean())) < 0.03
    assert abs(float(noise.var()) - 1 / 3) < 0.02
    torch.manual_seed(99)
    assert torch.equal(noise, Threat(eps=0.3).uniform(x, generator(3)))
