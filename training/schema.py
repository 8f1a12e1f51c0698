"""Plain data (from YAML) into dataclasses, by their type hints: every key and every value is checked."""

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Any, Literal

from keras_resnets.assembly import nearest


@dataclasses.dataclass(frozen=True)
class Between:
    """The range of a number, ends included: `Annotated[float, Between(0, 1)]`."""

    low: float
    high: float = math.inf

    def __str__(self) -> str:
        return f"at least {self.low:g}" if math.isinf(self.high) else f"between {self.low:g} and {self.high:g}"


def convert(value: Any, hint: Any, key: str = "") -> Any:
    """`value` as the type that `hint` names.

    Args:
        value: numbers, text, lists and mappings, as a YAML file holds them.
        hint: a dataclass, int, float, bool, str, `Literal`, `Annotated` with `Between`, `dict[str, Any]`, `tuple[TYPE, ...]`.
        key: where `value` stands, such as "optimizer.lr"; for the messages.

    Raises:
        ValueError: a key is unknown or missing, or a value has the wrong type or is out of range.
    """
    if dataclasses.is_dataclass(hint):
        return _convert_mapping(value, hint, key)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        number = convert(value, arguments[0], key)
        if not arguments[1].low <= number <= arguments[1].high:  # false for NaN as well
            raise ValueError(f"{key} must be {arguments[1]}, not {value!r}")
        return number
    if origin is Literal:
        if value not in arguments or isinstance(value, bool):
            raise ValueError(f"{key}: unknown value {value!r}: {nearest(value, arguments)}")
        return value
    if origin is dict:
        return dict(_require_mapping(value, key))
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{key} must be a list, not {value!r}")
        return tuple(convert(item, arguments[0], f"{key}[{place}]") for place, item in enumerate(value))
    if not _is_a(value, hint):
        raise ValueError(
            f"{key} must be {_NAMES[hint]}, not {value!r} ({_NAMES.get(type(value), type(value).__name__)})"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key} must be a finite number, not {value!r}")
    return hint(value)


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "nothing",
          list: "a list", dict: "a mapping"}  # fmt: skip


def _is_a(value: Any, hint: type) -> bool:
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _require_mapping(value: Any, key: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{key or 'the recipe'} must be a mapping of keys to values, not {value!r}")
    return value


def _convert_mapping(value: Any, cls: Any, key: str) -> Any:
    given = _require_mapping(value, key)
    prefix = f"{key}." if key else ""
    hints = typing.get_type_hints(cls, include_extras=True)
    for name in given:
        if name not in hints:
            raise ValueError(f"unknown key '{prefix}{name}': {nearest(name, hints)}")
    required = [field.name for field in dataclasses.fields(cls)
                if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING]  # fmt: skip
    for name in required:
        if name not in given:
            raise ValueError(f"key '{prefix}{name}' is missing")
    return cls(**{name: convert(item, hints[name], prefix + name) for name, item in given.items()})
