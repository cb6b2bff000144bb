"""Reading objects that people write and whose status is our own memory; each version of an object once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from edgeward.api.common import ApiError, Model, parse, parse_time
from edgeward.api.features import Features, Spec, unavailable

from .model import Problem

M = TypeVar("M", bound=Model)
Raw = Mapping[str, Any]


class Reader:
    """Parses objects and remembers what it made of them by uid and resource version: a plan reads a thousand objects of
    which one has changed. Objects are frozen, so what is remembered is as good as new."""

    def __init__(self, *, most: int = 100_000) -> None:
        self._most = most
        self._read: dict[tuple[str, str, str], tuple[str, Model | ApiError]] = {}
        self._features: dict[tuple[str, str], tuple[str, Features]] = {}

    def parse(self, model: type[M], raw: Raw) -> M:
        """The object. Raises ApiError when any of it cannot be read."""
        return self._remembered(model, raw, "whole")

    def read(self, model: type[M], raw: Raw) -> M:
        """The object; without its status when only that cannot be read (another version wrote it, or a slip of the hand).

        A status is written anew by the next pass, so forgetting it costs little; refusing a good spec for it would leave
        the job stuck for good. Raises ApiError when the spec cannot be read.
        """
        return self._remembered(model, raw, "spec")

    def features(self, raw: Raw, spec: Spec) -> Features:
        """What of the spec does not work in this version."""
        uid, version = _identity(raw)
        key = (type(spec).__name__, uid)
        known = self._features.get(key)
        if known is None or known[0] != version or not uid:
            known = (version, unavailable(spec))
            self._keep(self._features, key, known)
        return known[1]

    def _remembered(self, model: type[M], raw: Raw, part: str) -> M:
        uid, version = _identity(raw)
        key = (model.__name__, uid, part)
        known = self._read.get(key)
        if known is None or known[0] != version or not uid:
            known = (version, _read(model, raw, part))
            self._keep(self._read, key, known)
        if isinstance(known[1], ApiError):
            raise known[1]
        return known[1]  # type: ignore[return-value]

    def _keep(self, memory: dict[Any, Any], key: Any, value: Any) -> None:
        if len(memory) >= self._most:
            memory.clear()
        memory[key] = value


def _identity(raw: Raw) -> tuple[str, str]:
    meta = raw["metadata"]
    return str(meta.get("uid", "")), str(meta.get("resourceVersion", ""))


def _read(model: type[M], raw: Raw, part: str) -> M | ApiError:
    try:
        return parse(model, raw)
    except ApiError as error:
        if part == "whole":
            return error
    try:
        return parse(model, {key: value for key, value in raw.items() if key != "status"})
    except ApiError as error:
        return error


def not_yet(protecting: tuple[str, ...]) -> Problem | None:
    """The Problem of an object that asks for protections which do not work yet, by the paths of their fields."""
    if not protecting:
        return None
    return Problem(
        reason="FeatureNotYetAvailable",
        message=f"{', '.join(protecting)}: this version cannot honour it; remove the field, or wait for a version that can",
        path=protecting[0],
    )


def time_of(text: str | None) -> float | None:
    try:
        return parse_time(text) if text else None
    except ValueError:
        return None
