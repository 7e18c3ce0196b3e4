"""Methods by name: what a user may write, and the one line for what they may not."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

import methods
from bench import registry
from bench.errors import ConfigError
from bench.method import Method
from bench.registry import broken_methods, get_method, list_methods, method_class
from tests.harness import make_state, small_batch, small_net

MINE = """
from dataclasses import dataclass
from torch import Tensor
from bench.api import Batch, Method, TrainState, losses, register


@register("{name}")
@dataclass(frozen=True, kw_only=True)
class {cls}(Method):
    scale: float = 2.0

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        return batch.x

    def loss(self, state: TrainState, batch: Batch, x_adv: Tensor) -> Tensor:
        return self.scale * losses.cross_entropy(state.model(x_adv), batch.y).mean()
"""


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    list_methods()
    for name in ("_METHODS", "_BROKEN", "_FILES"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def put(text: str, name: str = "mine.py") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return put


def mine(name: str = "mine", cls: str = "Mine") -> str:
    return MINE.format(name=name, cls=cls)


def refusal(name: str, **params: Any) -> str:
    """The one line with which this is refused."""
    with pytest.raises(ConfigError) as caught:
        get_method(name, **params)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@dataclass(frozen=True, kw_only=True)
class Typed(Method):
    """A parameter of each kind."""

    length: float = 1.0
    steps: int = 10
    flag: bool = False
    rule: Literal["fixed", "radius"] = "fixed"
    cap: float | None = None


@pytest.fixture
def typed() -> str:
    registry.register("typed")(Typed)
    return "typed"


def test_the_papers_methods_are_listed_in_order() -> None:
    names = list_methods()
    assert {"natural", "madry", "trades", "cat-ce", "cat-mix"} <= set(names)
    assert names == sorted(names)


def test_a_near_miss_gets_a_suggestion() -> None:
    message = refusal("tradse")
    assert message.startswith("unknown method 'tradse'. Did you mean 'trades'? Known: ")
    assert "cat-ce, cat-mix" in message
    assert "Did you mean" not in refusal("zzzzzzzz")


def test_an_unknown_parameter_gets_a_suggestion() -> None:
    message = refusal("trades", betta=6.0)
    expected = (
        "unknown parameter of trades 'betta'. Did you mean 'beta'? Known: beta, step_size, steps"
    )
    assert message == expected
    assert "unknown parameter of natural 'title'" in refusal("natural", title="x")


@pytest.mark.parametrize(
    ("params", "field", "value"),
    [
        ({"length": "8/255"}, "length", 8 / 255),
        ({"length": "0.5"}, "length", 0.5),
        ({"length": 3}, "length", 3.0),
        ({"steps": "12"}, "steps", 12),
        ({"steps": 4.0}, "steps", 4),
        ({"flag": "true"}, "flag", True),
        ({"flag": "False"}, "flag", False),
        ({"flag": True}, "flag", True),
        ({"rule": "radius"}, "rule", "radius"),
        ({"cap": None}, "cap", None),
        ({"cap": "1/4"}, "cap", 0.25),
    ],
)
def test_text_is_read_as_the_fields_kind(
    typed: str, params: dict[str, Any], field: str, value: Any
) -> None:
    found = getattr(get_method(typed, **params), field)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"length": "six"}, "typed.length = six: must be a number"),
        ({"length": "8/0"}, "typed.length = 8/0: must be a number"),
        ({"length": "1/2/3"}, "typed.length = 1/2/3: must be a number"),
        ({"length": "/"}, "typed.length = /: must be a number"),
        ({"length": True}, "typed.length = True: must be a number"),
        ({"length": "nan"}, "typed.length = nan: must be a number"),
        ({"length": math.inf}, "typed.length = inf: must be a number"),
        ({"length": None}, "typed.length = None: must be a number"),
        ({"length": [1.0]}, "typed.length = [1.0]: must be a number"),
        ({"steps": 2.5}, "typed.steps = 2.5: must be a whole number"),
        ({"steps": "5/2"}, "typed.steps = 5/2: must be a whole number"),
        ({"steps": "ten"}, "typed.steps = ten: must be a whole number"),
        ({"flag": "yes"}, "typed.flag = yes: must be true or false"),
        ({"flag": 1}, "typed.flag = 1: must be true or false"),
        ({"rule": "radios"}, "typed.rule = radios: use fixed or radius"),
        ({"cap": "wide"}, "typed.cap = wide: must be a number"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(
    typed: str, params: dict[str, Any], message: str
) -> None:
    assert refusal(typed, **params) == message


def test_a_method_file_registers_and_trains(write: Callable[..., str]) -> None:
    path = write(mine())
    method = get_method(path, scale="1/2")
    assert method == get_method("mine", scale=0.5)
    assert "mine" in list_methods()
    assert registry.method_name(path) == "mine"
    assert registry.method_sha256(path) == hashlib.sha256(mine().encode()).hexdigest()
    assert registry.method_sha256("mine") is None
    net = small_net()
    before = net.fc.weight.clone()
    state = make_state(method, net)
    for _ in range(3):
        loss = method.train_step(state, small_batch())["loss"]
        state.next_batch()
    assert bool(loss.isfinite())
    assert not torch.equal(net.fc.weight, before)


def test_a_method_file_may_be_named_again(write: Callable[..., str]) -> None:
    path = write(mine())
    assert method_class(path) is method_class(path)
    assert "unknown parameter of mine 'scail'. Did you mean 'scale'?" in refusal(path, scail=1)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.py"
    assert refusal(str(path)) == (f"method file {path} does not exist; give the path of a .py file")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def broken(:\n    pass\n", "SyntaxError: invalid syntax"),
        ("import no_such_package_anywhere\n", "ModuleNotFoundError: No module named"),
        ("raise ValueError('one\\n  two')\n", "ValueError: one two"),
        (mine() + "raise KeyError('late')\n", "KeyError: 'late'"),
    ],
    ids=["syntax", "import", "two-lines", "late"],
)
def test_a_file_that_does_not_import_is_one_line_and_leaves_no_name(
    write: Callable[..., str], text: str, reason: str
) -> None:
    path, before = write(text), list_methods()
    assert f"method file {path} does not import: {reason}" in refusal(path)
    assert list_methods() == before
    write(mine())  # repaired
    assert type(get_method(path)).__name__ == "Mine"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (mine("one", "One") + mine("two", "Two"), "registers one, two"),
        ("x = 1\n", "registers none"),
    ],
    ids=["two", "none"],
)
def test_a_file_with_two_methods_or_none_is_refused_each_time(
    write: Callable[..., str], text: str, found: str
) -> None:
    path, before = write(text), list_methods()
    for _ in range(2):
        assert refusal(path) == (
            f"method file {path} {found}; it must register exactly one, with @register('name')"
        )
        assert list_methods() == before


def test_a_file_cannot_take_the_name_of_a_method(write: Callable[..., str]) -> None:
    taken = method_class("trades")
    path, before = write(mine("extra", "Extra") + mine("trades", "Mine")), list_methods()
    message = refusal(path)
    assert message.startswith("two methods are called 'trades': methods.trades and ")
    assert message.endswith("rename one")
    assert method_class("trades") is taken
    assert list_methods() == before


def test_a_method_must_be_a_dataclass() -> None:
    with pytest.raises(ConfigError, match="method 'plain' must be a dataclass"):
        registry.register("plain")(type("Plain", (Method,), {}))
    assert "plain" not in list_methods()


def test_a_broken_module_is_listed_and_harms_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list_methods()
    (tmp_path / "aaa_broken.py").write_text("raise RuntimeError('not today,\\nsorry')\n")
    (tmp_path / "zzz_sound.py").write_text(mine("sound", "Sound"))
    (tmp_path / "plugin_sound.py").write_text(mine("plugged", "Plugged"))
    (tmp_path / "plugin_rival.py").write_text(mine("madry", "Rival"))
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    monkeypatch.syspath_prepend(str(tmp_path))
    points = [
        EntryPoint(name=name, value=name, group=registry.ENTRY_POINTS)
        for name in ("plugin_sound", "plugin_rival", "plugin_absent")
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    monkeypatch.setattr(registry, "_discovered", False)
    assert list_methods() == sorted([*before, "sound", "plugged"])
    broken = broken_methods()
    assert set(broken) >= {"methods.aaa_broken", "plugin_rival", "plugin_absent"}
    assert broken["methods.aaa_broken"] == "RuntimeError: not today, sorry"
    assert broken["plugin_rival"].startswith("ConfigError: two methods are called 'madry'")
    assert broken["plugin_absent"] == "ModuleNotFoundError: No module named 'plugin_absent'"
    assert get_method("madry") == method_class("madry")()
    assert get_method("sound", scale=3).__class__.__module__ == "methods.zzz_sound"


def test_no_module_of_the_package_is_broken() -> None:
    assert broken_methods() == {}


def test_every_parameter_has_a_default_that_its_check_accepts() -> None:
    for name in list_methods():
        method = method_class(name)()
        values = {key: getattr(method, key) for key in registry.parameters(type(method))}
        assert get_method(name, **values) == get_method(name) == method
