"""The values that a method's parameters may have, and the one line for all others."""

import math
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

import pytest

from bench import registry
from bench.api import Method, param, register
from bench.errors import ConfigError
from bench.param import Range
from bench.registry import get_method, list_methods, method_class, parameters
from methods import cat
from tests.harness import raises_line


@pytest.mark.parametrize("name", list_methods())
def test_every_number_declares_a_range_beyond_which_it_is_refused(name: str) -> None:
    kinds = get_type_hints(method_class(name))
    for key, field in parameters(method_class(name)).items():
        if not {int, float} & {kinds[key], *get_args(kinds[key])}:
            continue
        allowed = field.metadata["range"]
        bounds = (allowed.gt, allowed.lt, None if allowed.ge is None else allowed.ge - 1,
                  None if allowed.le is None else allowed.le + 1)  # fmt: skip
        for value in bounds:
            if value is not None:
                with raises_line(ConfigError, f"{key} = {value}", f"is out of range: {allowed}"):
                    get_method(name, **{key: value})


@pytest.mark.parametrize(
    ("name", "bad", "message"),
    [
        ("mma", {"floor": 0.1}, "floor = 0.1 is out of range: above 0 and at most d_max"),
        ("cat-ce", {"eps_max": "9/255"}, "above 0 and at most 8/255"),
        ("cat-ce", {"eps_max": 0.061, "radius_rule": "distance"}, "at most 15.3/255"),
        ("cat-mix", {"eps_max": 0.035}, "eps_max = 0.035 is out of range: above 0 and at most 8"),
        ("cat-ce", {"c": 40}, "c * eps_max = 1.2549 is above 1: no label is left; c may be at"),
        ("cat-mix", {"c": 31.88}, "c * eps_max = 1.00016 is above 1"),
        ("cat-ce", {"c": 128, "eps_max": "2/255"}, "c may be at most 127.50"),
        ("adv-ls", {"c": 40}, "c may be at most 31.87"),
        ("cat-ce", {"c": 17, "eps_max": 0.06, "radius_rule": "inverted"}, "= 1.02 is above 1"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(
    name: str, bad: dict[str, Any], message: str
) -> None:
    with raises_line(ConfigError, message):
        get_method(name, **bad)


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


def test_the_bound_that_a_message_names_is_accepted() -> None:
    assert get_method("cat-ce", c=31.87) == cat.CatCE(c=31.87)
    assert get_method("cat-ce", c=127.5, eps_max=2 / 255) == cat.CatCE(c=127.5, eps_max=2 / 255)
    for rule in ("distance", "inverted"):
        for eps_max in (0.035, 0.06):
            assert get_method("cat-mix", eps_max=eps_max, radius_rule=rule)
