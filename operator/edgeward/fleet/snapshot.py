"""Frozen facts as JSON and back, exactly: what a snapshot file is made of.

The codec follows the dataclasses' own fields, so a field that is added to the Fleet is in the snapshot by itself.
The text is canonical: fields in the order of their declaration, mappings and sets sorted, floats by their shortest
exact form, no spaces. The same facts give the same bytes.

JSON has neither NaN nor infinity, and samples may hold both: they are the strings "NaN", "Infinity" and "-Infinity".
A fraction is the string "4/5".
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from fractions import Fraction
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError

T = TypeVar("T")
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class SnapshotError(Exception):
    """What was read is no snapshot of this version; the message names the place and what to do."""


def text(value: object) -> str:
    """One line of canonical JSON."""
    return json.dumps(encode(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def encode(value: object) -> Any:
    """Plain data that json can write. Fields that take no part in comparison (indexes, caches) are left out."""
    if value is None or isinstance(value, bool | str):
        # A StrEnum is its value.
        return str(value) if isinstance(value, str) else value
    if isinstance(value, float):
        return value if math.isfinite(value) else _name(value)
    if isinstance(value, int):
        return value
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: encode(getattr(value, item.name)) for item in _told(type(value))}
    if isinstance(value, Mapping):
        return {str(key): encode(value[key]) for key in sorted(value)}
    if isinstance(value, frozenset | set):
        return [encode(item) for item in sorted(value)]
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    raise TypeError(f"a snapshot cannot hold a {type(value).__name__}")


def decode(kind: type[T], data: object, path: str = "") -> T:
    """The facts again. `path` is where in the file they stand. Raises SnapshotError."""
    found: T = _decode(kind, data, path or kind.__name__.lower())
    return found


def _name(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


@cache
def _told(kind: type) -> tuple[Field[Any], ...]:
    return tuple(item for item in fields(kind) if item.compare)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _decode(kind: Any, data: object, path: str) -> Any:
    if kind is object or kind is Any:
        return data
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _union(kind, data, path)
    if origin is tuple:
        return _tuple(get_args(kind), _list(data, path), path)
    if origin in (frozenset, set):
        return frozenset(_decode(get_args(kind)[0], item, f"{path}[{at}]") for at, item in enumerate(_list(data, path)))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        inner = get_args(kind)[1]
        return {key: _decode(inner, item, f"{path}.{key}") for key, item in _object(data, path).items()}
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        try:
            return kind.model_validate(_object(data, path))
        except ValidationError as error:
            raise SnapshotError(f"{path}: {error.errors()[0]['msg']}") from error
    if isinstance(kind, type) and is_dataclass(kind):
        return _dataclass(kind, _object(data, path), path)
    return _plain(kind, data, path)


def _union(kind: Any, data: object, path: str) -> Any:
    if data is None and type(None) in get_args(kind):
        return None
    others = [item for item in get_args(kind) if item is not type(None)]
    if len(others) > 1:
        raise TypeError(f"{path}: a snapshot cannot tell apart the kinds of {kind}")
    return _decode(others[0], data, path)


def _tuple(kinds: tuple[Any, ...], items: list[object], path: str) -> tuple[Any, ...]:
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_decode(kinds[0], item, f"{path}[{at}]") for at, item in enumerate(items))
    if len(kinds) != len(items):
        raise SnapshotError(f"{path}: must have {len(kinds)} entries, has {len(items)}")
    return tuple(_decode(kind, item, f"{path}[{at}]") for at, (kind, item) in enumerate(zip(kinds, items, strict=True)))


def _dataclass(kind: type, data: Mapping[str, object], path: str) -> Any:
    told, hints = {item.name: item for item in _told(kind)}, _hints(kind)
    unknown = sorted(data.keys() - told.keys())
    if unknown:
        raise SnapshotError(f"{path}: unknown field {unknown[0]}; replay it with the version that wrote it")
    lacking = [
        name
        for name, item in told.items()
        if name not in data and item.default is MISSING and item.default_factory is MISSING
    ]
    if lacking:
        raise SnapshotError(f"{path}: field {lacking[0]} is missing")
    return kind(**{name: _decode(hints[name], item, f"{path}.{name}") for name, item in data.items()})


def _plain(kind: Any, data: object, path: str) -> Any:
    if kind is float:
        if isinstance(data, str) and data in _NOT_FINITE:
            return _NOT_FINITE[data]
        if isinstance(data, int | float) and not isinstance(data, bool):
            return data
    elif kind is Fraction:
        if isinstance(data, str):
            try:
                return Fraction(data)
            except (ValueError, ZeroDivisionError):
                pass
    elif type(data) is kind:
        return data
    wanted = getattr(kind, "__name__", str(kind))
    raise SnapshotError(f"{path}: must be {wanted}, is {json.dumps(data)[:40]}")


def _list(data: object, path: str) -> list[object]:
    if not isinstance(data, list):
        raise SnapshotError(f"{path}: must be a list")
    return data


def _object(data: object, path: str) -> Mapping[str, object]:
    if not isinstance(data, dict):
        raise SnapshotError(f"{path}: must be an object")
    return data
