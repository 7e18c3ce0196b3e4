"""The values that a method's parameters may have, and the one line for all others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest

from bench import registry
from bench.api import Method, param, register
from bench.errors import ConfigError
from bench.method import Range
from bench.registry import get_method
from methods import cat

CAT: list[tuple[dict[str, Any], str]] = [
    ({"c": 40}, "c * eps_max = 1.2549 is above 1: no label is left; c may be at most 31.87"),
    ({"c": 31.88}, "c * eps_max = 1.00016 is above 1"),
    ({"c": 128, "eps_max": "2/255"}, "c may be at most 127.50"),
    ({"c": -1}, "c = -1.0 is out of range: at least 0"),
    ({"eta": -0.001}, "eta = -0.001 is out of range: at least 0"),
    ({"eps_max": 0}, "eps_max = 0.0 is out of range: above 0"),
    ({"eps_max": "9/255"}, "above 0 and at most 8/255"),
    ({"eps_max": 0.035}, "eps_max = 0.035 is out of range: above 0 and at most 8/255"),
    ({"eps_max": 0.061, "radius_rule": "distance"}, "at most 15.3/255"),
    ({"c": 17, "eps_max": 0.06, "radius_rule": "inverted"}, "c * eps_max = 1.02 is above 1"),
    ({"dir_beta": 0}, "dir_beta = 0.0 is out of range: above 0"),
]
REFUSED: dict[str, list[tuple[dict[str, Any], str]]] = {
    "madry": [
        ({"steps": 0}, "steps = 0 is out of range: at least 1"),
        ({"steps": 2.5}, "a whole number"),
        ({"step_size": 0}, "step_size = 0.0 is out of range: above 0"),
        ({"step_size": "fast"}, "a number"),
        ({"attack_bn": "both"}, "use eval or train"),
        ({"lam": 6}, "Known: attack_bn, start, step_size, steps"),
    ],
    "trades": [
        ({"beta": -0.1}, "beta = -0.1 is out of range: at least 0"),
        ({"step_size": 0}, "step_size = 0.0 is out of range: above 0"),
    ],
    "mart": [
        ({"beta": -0.1}, "beta = -0.1 is out of range: at least 0"),
        ({"beta": math.inf}, "beta = inf: must be a number"),
        ({"step_size": -0.1}, "step_size = -0.1 is out of range: above 0"),
    ],
    "iaat": [
        ({"gamma": -1}, "gamma = -1.0 is out of range: at least 0"),
        ({"beta": 1.1}, "beta = 1.1 is out of range: 0 to 1"),
        ({"warmup": 10}, "warmup = 10.0 is out of range: 0 to 1"),
        ({"eps_max": 0}, "eps_max = 0.0 is out of range: above 0, or none"),
        ({"eps_max": "wide"}, "a number"),
        ({"step_size": 0}, "step_size = 0.0 is out of range: above 0"),
    ],
    "mma": [
        ({"d_max": 0}, "d_max = 0.0 is out of range: above 0"),
        ({"floor": 0}, "floor = 0.0 is out of range: above 0"),
        ({"floor": 0.1}, "floor = 0.1 is out of range: above 0 and at most d_max"),
        ({"bisections": 0}, "bisections = 0 is out of range: at least 1"),
        ({"clean_weight": 1.5}, "clean_weight = 1.5 is out of range: 0 to 1"),
    ],
    "bilateral": [
        ({"step_size": 0}, "step_size = 0.0 is out of range: above 0"),
        ({"ratio": -9}, "ratio = -9.0 is out of range: above 0"),
        ({"gamma": 0}, "gamma = 0.0 is out of range: above 0"),
        ({"gamma": math.nan}, "a number"),
    ],
    "dynamic": [
        ({"c_max": -0.5}, "c_max = -0.5 is out of range: at least 0"),
        ({"control": 0}, "control = 0.0 is out of range: above 0 and at most 1"),
        ({"control": 100}, "control = 100.0 is out of range: above 0 and at most 1"),
        ({"reference": "middle"}, "use centre or start"),
        ({"weighted": "maybe"}, "true or false"),
    ],
    "fast": [
        ({"step_size": -1}, "step_size = -1.0 is out of range: above 0"),
        ({"max_drop": 20}, "max_drop = 20.0 is out of range: 0 to 1"),
    ],
    "free": [
        ({"replays": 0}, "replays = 0 is out of range: at least 1"),
        ({"step_size": 0}, "step_size = 0.0 is out of range: above 0"),
    ],
    "yopo": [
        ({"passes": 0}, "passes = 0 is out of range: at least 1"),
        ({"inner_steps": 0}, "inner_steps = 0 is out of range: at least 1"),
        ({"step_size": -1}, "step_size = -1.0 is out of range: above 0"),
    ],
    "awp-madry": [
        ({"gamma": -0.1}, "gamma = -0.1 is out of range: at least 0"),
        ({"warmup": 1.5}, "warmup = 1.5 is out of range: 0 to 1"),
        ({"steps": 0}, "steps = 0 is out of range: at least 1"),
    ],
    "awp-trades": [
        ({"beta": -1}, "beta = -1.0 is out of range: at least 0"),
        ({"step_size": 0}, "step_size = 0.0 is out of range: above 0"),
    ],
    "mlcat-wp": [
        ({"threshold": -1}, "threshold = -1.0 is out of range: at least 0"),
        ({"ascents": 0}, "ascents = 0 is out of range: at least 1"),
        ({"gamma": -1}, "gamma = -1.0 is out of range: at least 0"),
    ],
    "ikl": [
        ({"alpha": -1}, "alpha = -1.0 is out of range: at least 0"),
        ({"beta": -1}, "beta = -1.0 is out of range: at least 0"),
        ({"temperature": 0}, "temperature = 0.0 is out of range: above 0"),
        ({"relative_step": 0}, "relative_step = 0.0 is out of range: above 0"),
        ({"gamma": -1}, "gamma = -1.0 is out of range: at least 0"),
        ({"warmup": 2}, "warmup = 2.0 is out of range: 0 to 1"),
        ({"decay": 1}, "decay = 1.0 is out of range: at least 0 and below 1"),
    ],
    "cat-ce": CAT,
    "cat-mix": [*CAT, ({"kappa": -1}, "kappa = -1.0 is out of range: at least 0")],
    "adv-ls": [({"c": 40}, "c may be at most 31.87"), ({"eta": 0}, "unknown parameter")],
    "adp-adv": [({"eta": -1}, "eta = -1.0 is out of range"), ({"c": 0}, "unknown parameter")],
    "natural-ls": [
        ({"noise": "none"}, "use dirichlet or uniform"),
        ({"steps": 1}, "unknown parameter"),
    ],
}
ROWS = [(name, bad, message) for name, rows in REFUSED.items() for bad, message in rows]


@pytest.mark.parametrize(("name", "bad", "message"), ROWS)
def test_bad_values_are_refused_in_one_line(name: str, bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get_method(name, **bad)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("allowed", "text", "inside", "outside"),
    [
        (Range(ge=0), "at least 0", (0, 1), (-1, math.nan, None)),
        (Range(gt=0), "above 0", (1e-9,), (0, -1)),
        (Range(ge=0, le=1), "0 to 1", (0, 1), (-0.1, 1.1)),
        (Range(gt=0, le=1), "above 0 and at most 1", (1,), (0, 2)),
        (Range(ge=0, lt=1), "at least 0 and below 1", (0,), (1,)),
        (Range(gt=0, optional=True), "above 0, or none", (1, None), (0,)),
    ],
)
def test_a_range_in_words(
    allowed: Range, text: str, inside: tuple[Any, ...], outside: tuple[Any, ...]
) -> None:
    assert str(allowed) == text
    assert all(value in allowed for value in inside)
    assert not any(value in allowed for value in outside)


def test_ranges_hold_however_a_method_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Directly, by name, with inherited fields, and with a `__post_init__` that forgets them."""
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))

    @register("own")
    @dataclass(frozen=True, kw_only=True)
    class Own(Method):
        share: float = param(0.5, ge=0, le=1)
        free: float = 1.0

    @register("own-too")
    @dataclass(frozen=True, kw_only=True)
    class OwnToo(Own):
        more: int = param(1, ge=1)

        def __post_init__(self) -> None:
            if self.free < 0:
                raise ConfigError("free is below 0")

    assert Own(share=1.0) == get_method("own", share="1")
    for make in (Own, lambda **bad: get_method("own", **bad)):
        with pytest.raises(ConfigError, match=r"share = 2.0 is out of range: 0 to 1"):
            make(share=2.0)
    with pytest.raises(ConfigError, match="0 to 1"):
        get_method("own-too", share=2)
    with pytest.raises(ConfigError, match="at least 1"):
        get_method("own-too", more=0)
    with pytest.raises(ConfigError, match="free is below 0"):
        get_method("own-too", free=-1)


DEFAULTS: dict[str, dict[str, Any]] = {
    "madry": {"steps": 10, "step_size": 2 / 255, "start": "uniform"},
    "trades": {"beta": 6.0, "steps": 10, "step_size": 0.007},
    "mart": {"beta": 6.0, "steps": 10, "step_size": 0.007},
    "dynamic": {"c_max": 0.5, "control": 100 / 120, "step_size": 2 / 255, "reference": "centre"},
    "fast": {"step_size": 10 / 255, "max_drop": 0.2},
    "iaat": {"warmup": 10 / 110, "gamma": 1.9 / 255, "beta": 0.1},
    "cat-ce": {"c": 10.0, "eta": 0.005, "eps_max": 8 / 255, "steps": 10, "step_size": 0.007},
    "cat-mix": {"c": 10.0, "eta": 0.005, "eps_max": 8 / 255, "steps": 10, "kappa": 10.0},
    "awp-madry": {"gamma": 0.01, "warmup": 0.0, "steps": 10, "step_size": 2 / 255},
    "awp-trades": {"gamma": 0.005, "warmup": 0.05, "beta": 6.0, "step_size": 2 / 255},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_the_papers_or_the_codes(name: str) -> None:
    assert get_method(name) == get_method(name, **DEFAULTS[name])


def test_the_bound_that_a_message_names_is_accepted() -> None:
    assert get_method("cat-ce", c=31.87) == cat.CatCE(c=31.87)
    assert get_method("cat-ce", c=127.5, eps_max=2 / 255) == cat.CatCE(c=127.5, eps_max=2 / 255)
    for rule in ("distance", "inverted"):
        for eps_max in (0.035, 0.06):
            assert get_method("cat-mix", eps_max=eps_max, radius_rule=rule)
