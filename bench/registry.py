"""Methods by name: of the package `methods`, of other packages' entry points, and of single files.

`bench` never imports `methods` itself: `discover` does, by name.
"""

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from bench.eps import parse_number
from bench.errors import BenchError, ConfigError, one_line, refuse_unknown
from bench.method import Method
from bench.param import check_ranges
from bench.storage import sha256_file

ENTRY_POINTS = "atbench.methods"
"""Group under which another package names modules that register methods."""
ENDS = 'ends the program: put what reads a command line below `if __name__ == "__main__":`'
"""What is wrong with a file that exits when it is imported."""

_METHODS: dict[str, type[Method]] = {}
_BROKEN: dict[str, str] = {}
_FILES: dict[Path, str] = {}
_discovered = False

M = TypeVar("M", bound=type[Method])


def register(name: str) -> Callable[[M], M]:
    """Register the decorated method class as `name`; refuses a second class of that name."""

    def add(cls: M) -> M:
        known = _METHODS.get(name, cls)
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(
                f"two methods are called '{name}': {known.__module__} and {cls.__module__}; "
                "rename one"
            )
        if not is_dataclass(cls):
            raise ConfigError(f"method '{name}' must be a dataclass: @dataclass(frozen=True)")
        _METHODS[name] = cls
        return cls

    return add


def discover() -> None:
    """Import every module of the package `methods` and of the entry points, once.

    A module that fails to import is listed by `broken_methods` and does not affect the others.
    """
    global _discovered
    if _discovered:
        return
    _discovered = True
    package = importlib.import_module("methods")
    modules = [f"methods.{module.name}" for module in pkgutil.iter_modules(package.__path__)]
    modules += [point.value for point in entry_points(group=ENTRY_POINTS)]
    for module in modules:
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:  # shown by `bench list methods`
            _BROKEN[module] = one_line(error)


def list_methods() -> list[str]:
    discover()
    return sorted(_METHODS)


def broken_methods() -> dict[str, str]:
    discover()
    return dict(_BROKEN)


def method_class(name: str) -> type[Method]:
    """Return the class registered as `name`, or the one method in a file such as `./mine.py`."""
    discover()
    if name.endswith(".py"):
        return _METHODS[_load_file(Path(name))]
    refuse_unknown("method", [name], _METHODS)
    return _METHODS[name]


def get_method(name: str, /, **params: Any) -> Method:
    """Return the method with these parameters; the others have their paper's values.

    Raises ConfigError for an unknown name or parameter, and for a value of the wrong type or out
    of range.
    """
    cls = method_class(name)
    known, shown = parameters(cls), method_name(name)
    refuse_unknown(f"parameter of {shown}", params, known)
    needed = [f.name for f in known.values() if f.default is MISSING and f.name not in params]
    if needed:
        raise ConfigError(
            f"{shown} needs {', '.join(needed)}: give each with "
            f"--param {shown}.{needed[0]}=VALUE, or a default in its file"
        )
    kinds = get_type_hints(cls)
    values = {key: _typed(name, key, kinds[key], value) for key, value in params.items()}
    method = cls(**values)
    check_ranges(method)  # also where a plug-in's own __post_init__ does not
    return method


def method_name(name: str) -> str:
    return _load_file(Path(name)) if name.endswith(".py") else name


def method_sha256(name: str) -> str | None:
    """Return the hash of a method's file; None for a method that was named."""
    return sha256_file(Path(name)) if name.endswith(".py") else None


def source_file(method: Method) -> Path | None:
    """Return the file that defines a method; None if there is none, as in a notebook."""
    path = getattr(sys.modules.get(type(method).__module__), "__file__", None)
    return Path(path) if path else None


def parameters(cls: type[Method]) -> dict[str, Field[Any]]:
    return {f.name: f for f in fields(cls) if f.init}  # type: ignore[arg-type]


def _load_file(path: Path) -> str:
    discover()  # first, so that methods which the file imports do not count as its own
    path = path.resolve()
    if path in _FILES:
        return _FILES[path]
    if not path.is_file():
        raise ConfigError(f"method file {path} does not exist; give the path of a .py file")
    before = dict(_METHODS)
    try:
        import_file(path, f"_method_{path.stem}_{abs(hash(path))}")
        new = [name for name in _METHODS if name not in before]
        if len(new) != 1:
            raise ConfigError(
                f"method file {path} registers {', '.join(new) or 'none'}; it must register "
                "exactly one, with @register('name')"
            )
    except (Exception, SystemExit) as error:
        _METHODS.clear()
        _METHODS.update(before)
        if isinstance(error, BenchError):
            raise
        fault = ENDS if isinstance(error, SystemExit) else f"does not import: {one_line(error)}"
        raise ConfigError(f"method file {path} {fault}") from None
    _FILES[path] = new[0]
    return new[0]


def import_file(path: Path, module_name: str) -> ModuleType:
    """Run a Python file as a module of this name."""
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


def _typed(method: str, name: str, kind: Any, value: Any) -> Any:
    """Return `value` as the field's type: parse text, check anything else."""
    if get_origin(kind) is Literal:
        if value in get_args(kind):
            return value
        allowed = " or ".join(str(arg) for arg in get_args(kind))
        raise ConfigError(f"{method}.{name} = {value}: use {allowed}")
    kinds = [arg for arg in get_args(kind) if arg is not type(None)] or [kind]
    if value is None and type(None) in get_args(kind):
        return None
    for one in kinds:
        read = _read(one, value)
        if read is not None:
            return read
    wanted = {bool: "true or false", int: "a whole number", float: "a number"}
    raise ConfigError(f"{method}.{name} = {value}: must be {wanted.get(kinds[0], kinds[0])}")


def _read(kind: Any, value: Any) -> Any:
    """Return `value` as `kind`, or None if it is not one."""
    if kind is bool:
        named = {"true": True, "false": False}
        return value if isinstance(value, bool) else named.get(str(value).lower())
    if isinstance(value, bool):
        return None
    if kind in (int, float):
        try:
            number = parse_number(str(value))
        except ValueError:
            return None
        return None if kind is int and number != int(number) else kind(number)
    return value if isinstance(value, kind) else None
