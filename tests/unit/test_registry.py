"""Methods by name: what a user may write, and the one line for what they may not."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import pytest

import methods
from bench import registry
from bench.errors import ConfigError
from bench.method import Method
from bench.registry import broken_methods, get_method, list_methods, method_class
from tests.commands import method

pytestmark = pytest.mark.usefixtures("_registry_as_before")

WHOLE, NUMBER = "must be a whole number", "must be a number"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def put(text: str, name: str = "mine.py") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return put


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


def test_names_are_listed_in_order_and_a_near_miss_gets_a_suggestion() -> None:
    names = list_methods()
    assert {"natural", "madry", "trades", "cat-ce", "cat-mix"} <= set(names)
    assert names == sorted(names)
    message = refusal("tradse")
    assert message.startswith("unknown method 'tradse'. Did you mean 'trades'? Known: ")
    assert "cat-ce, cat-mix" in message
    assert "Did you mean" not in refusal("zzzzzzzz")
    assert refusal("trades", betta=6.0) == (
        "unknown parameter of trades 'betta'. Did you mean 'beta'? Known: beta, step_size, steps"
    )
    assert "unknown parameter of natural 'title'" in refusal("natural", title="x")


@pytest.mark.parametrize(
    ("field", "given", "value"),
    [
        ("length", "8/255", 8 / 255),
        ("length", "0.5", 0.5),
        ("length", 3, 3.0),
        ("steps", "12", 12),
        ("steps", 4.0, 4),
        ("flag", "true", True),
        ("flag", "False", False),
        ("flag", True, True),
        ("rule", "radius", "radius"),
        ("cap", None, None),
        ("cap", "1/4", 0.25),
    ],
)
def test_text_is_read_as_the_fields_kind(field: str, given: Any, value: Any) -> None:
    registry.register("typed")(Typed)
    found = getattr(get_method("typed", **{field: given}), field)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        *(("length", v, NUMBER) for v in ("six", "8/0", "1/2/3", "/", "nan", math.inf)),
        *(("length", v, NUMBER) for v in (True, None, [1.0])),
        *(("steps", v, WHOLE) for v in (2.5, "5/2", "ten")),
        ("flag", "yes", "must be true or false"),
        ("flag", 1, "must be true or false"),
        ("rule", "radios", "use fixed or radius"),
        ("cap", "wide", NUMBER),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(field: str, value: Any, why: str) -> None:
    registry.register("typed")(Typed)
    assert refusal("typed", **{field: value}) == f"typed.{field} = {value}: {why}"


def test_a_method_file_registers_its_method(write: Callable[..., str], tmp_path: Path) -> None:
    path = write(method())
    assert get_method(path, scale="1/2") == get_method("mine", scale=0.5)
    assert "mine" in list_methods()
    assert registry.method_name(path) == "mine"
    assert registry.method_sha256(path) == hashlib.sha256(method().encode()).hexdigest()
    assert registry.method_sha256("mine") is None
    assert method_class(path) is method_class(path)  # it may be named again
    assert "unknown parameter of mine 'scail'. Did you mean 'scale'?" in refusal(path, scail=1)
    missing = tmp_path / "nowhere.py"
    assert refusal(str(missing)) == (
        f"method file {missing} does not exist; give the path of a .py file"
    )


ONE = "it must register exactly one, with @register('name')"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def broken(:\n    pass\n", "does not import: SyntaxError: invalid syntax"),
        ("import no_such_package\n", "does not import: ModuleNotFoundError: No module named"),
        ("raise ValueError('one\\n  two')\n", "does not import: ValueError: one two"),
        (method() + "raise KeyError('late')\n", "does not import: KeyError: 'late'"),
        (method("one") + method("two").replace("Mine", "Two"), f"registers one, two; {ONE}"),
        ("x = 1\n", f"registers none; {ONE}"),
    ],
    ids=["syntax", "import", "two-lines", "late", "two", "none"],
)
def test_a_file_that_cannot_be_used_is_one_line_each_time_and_leaves_no_name(
    write: Callable[..., str], text: str, reason: str
) -> None:
    path, before = write(text), list_methods()
    for _ in range(2):
        assert f"method file {path} {reason}" in refusal(path)
        assert list_methods() == before
    write(method())  # repaired
    assert type(get_method(path)).__name__ == "Mine"


def test_a_name_is_taken_once_and_by_a_dataclass(write: Callable[..., str]) -> None:
    taken, before = method_class("trades"), list_methods()
    message = refusal(write(method("extra") + method("trades").replace("Mine", "Two")))
    assert message.startswith("two methods are called 'trades': methods.trades and ")
    assert message.endswith("rename one")
    with pytest.raises(ConfigError, match="method 'plain' must be a dataclass"):
        registry.register("plain")(type("Plain", (Method,), {}))
    assert method_class("trades") is taken
    assert list_methods() == before


def test_a_broken_module_is_listed_and_harms_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., str]
) -> None:
    assert broken_methods() == {}
    before = list_methods()
    write("raise RuntimeError('not today,\\nsorry')\n", "aaa_broken.py")
    for name, module in (
        ("sound", "zzz_sound"),
        ("plugged", "plugin_sound"),
        ("madry", "plugin_rival"),
    ):
        write(method(name), f"{module}.py")
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    monkeypatch.syspath_prepend(str(tmp_path))
    points = [
        EntryPoint(name=name, value=name, group=registry.ENTRY_POINTS)
        for name in ("plugin_sound", "plugin_rival", "plugin_absent")
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    monkeypatch.setattr(registry, "_discovered", False)
    assert set(list_methods()) >= {*before, "sound", "plugged"}
    broken = broken_methods()
    assert broken["methods.aaa_broken"] == "RuntimeError: not today, sorry"
    assert broken["plugin_rival"].startswith("ConfigError: two methods are called 'madry'")
    assert broken["plugin_absent"] == "ModuleNotFoundError: No module named 'plugin_absent'"
    assert get_method("madry") == method_class("madry")()
    assert get_method("sound", scale=3).__class__.__module__ == "methods.zzz_sound"


def test_every_parameter_has_a_default_that_its_check_accepts() -> None:
    for name in list_methods():
        made = method_class(name)()
        values = {key: getattr(made, key) for key in registry.parameters(type(made))}
        assert get_method(name, **values) == get_method(name) == made
