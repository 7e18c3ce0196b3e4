"""Dataclasses from tables of TOML files: they declare types and ranges, which pydantic checks."""

import json
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from functools import cache
from importlib.resources.abc import Traversable
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from bench.errors import ConfigError, one_line, refuse_unknown

T = TypeVar("T")
Count = Annotated[int, Field(ge=1)]


def one_of(kind: str, known: Collection[str]) -> AfterValidator:
    """Return the mark of a field that holds one of these names."""

    def checked(name: str) -> str:
        refuse_unknown(kind, [name], known)
        return name

    return AfterValidator(checked)


def read_table(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """Return the dataclass `kind` with the values of a table.

    where: file and table, such as `suite digits, [checks]`, for the one line of the ConfigError
    that an unknown key, a missing one, a wrong type and a value out of range raise.
    """
    refuse_unknown(f"key ({where})", table, [f.name for f in fields(kind)])  # type: ignore[arg-type]
    try:
        # JSON is strict about numbers and texts, and has lists for tuples.
        text = json.dumps(table, default=str, allow_nan=False)
        made: T = _adapter(kind).validate_json(text, strict=True)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except ValidationError as error:
        fault = max(error.errors(), key=lambda found: len(found["loc"]))  # the nearest of a union
        key = str(fault["loc"][0])
        if key not in table:
            raise ConfigError(f"{where}: {key} is missing") from None
        wanted = fault["msg"].removeprefix("Input ")
        raise ConfigError(f"{where}: {key} = {table[key]!r} {wanted}") from None
    except ValueError:  # of json
        raise ConfigError(f"{where}: a number is nan or inf; every number must be finite") from None
    return made


def load_toml(file: Traversable) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except ValueError as error:
        raise ConfigError(f"{file}: {one_line(error)}") from None


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)
