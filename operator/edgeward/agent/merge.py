"""How a podTemplate is laid over the generated pod, and how a wanted object is compared with what is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeward.api.common import QuantityError, parse_quantity


def overlay(base: Any, over: Any) -> Any:
    """`over` on `base`: maps merge, lists of named items merge by name (mounts by their path), all else is replaced."""
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        merged = dict(base)
        for key, value in over.items():
            merged[key] = overlay(base[key], value) if key in base else value
        return merged
    if _named(base) and _named(over):
        by_name = {_key(item): item for item in base}
        for item in over:
            name = _key(item)
            by_name[name] = overlay(by_name[name], item) if name in by_name else item
        return list(by_name.values())
    return over


def contains(actual: Any, wanted: Any) -> bool:
    """Whether everything in `wanted` is in `actual`, which may hold more: defaults, and what others have set.

    Quantities are compared by value, since the API server rewrites `1000m` as `1`.
    """
    if isinstance(wanted, Mapping):
        return isinstance(actual, Mapping) and all(
            contains(actual.get(key), value) for key, value in wanted.items() if not _empty(value)
        )
    if isinstance(wanted, list):
        return (
            isinstance(actual, list)
            and len(actual) == len(wanted)
            and all(contains(one, other) for one, other in zip(actual, wanted, strict=True))
        )
    return actual == wanted or _same_quantity(actual, wanted)


def _empty(value: Any) -> bool:
    """The API server leaves out empty maps and lists; not finding them is no difference."""
    return value is None or value == {} or value == []


def _named(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) and "name" in item for item in value)
    )


def _key(item: Mapping[str, Any]) -> tuple[str, Any]:
    """A mount's name is its volume's, and one volume may be mounted twice; Kubernetes merges mounts by path as well."""
    return ("mountPath", str(item["mountPath"])) if "mountPath" in item else ("name", str(item["name"]))


def _same_quantity(actual: Any, wanted: Any) -> bool:
    if isinstance(actual, bool) or isinstance(wanted, bool):
        return False
    if not isinstance(actual, str | int) or not isinstance(wanted, str | int):
        return False
    try:
        return parse_quantity(str(actual)) == parse_quantity(str(wanted))
    except QuantityError:
        return False
