"""preprocessing.json as plain data, checked when a version is loaded and not when its first record comes.

{"record": {"kind": "Image", "color": "RGB"},
 "steps": [{"step": "Resize", "width": 224, "height": 224, "fit": "Crop"},
           {"step": "Denoise", "filter": "Median", "size": 3},
           {"step": "Normalise", "scale": 0.003921569, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}],
 "output": {"input": "images", "layout": "NCHW"}}

{"record": {"kind": "Table", "channels": ["t1", "t2", "vibration"]},
 "steps": [{"step": "DropNearDuplicates", "distance": 0.01},
           {"step": "Denoise", "filter": "LowPass", "sigma": 2},
           {"step": "Fuse", "into": [{"name": "t", "channels": ["t1", "t2"], "weights": [0.7, 0.3]}]},
           {"step": "Normalise", "mean": [20, 0.1], "std": [5, 0.05]}],
 "output": {"input": "x", "layout": "Rows"}}
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import orjson

IMAGE, TABLE = "Image", "Table"
_COLOURS = {"RGB": ("R", "G", "B"), "Gray": ("Y",)}
_LAYOUTS = {IMAGE: ("NCHW", "NHWC"), TABLE: ("Rows", "Sequence", "Flat")}
_MAX_SIDE = 8192  # pixels or rows of a result
_MAX_STEPS = 32
_MAX_CHANNELS = 4096


class SpecError(ValueError):
    """Says which key of preprocessing.json is wrong, and how."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    kind: str  # Image | Table
    channels: tuple[str, ...]
    max_pixels: int  # of an image as it comes
    max_rows: int  # of a table as it comes


@dataclass(frozen=True, kw_only=True, slots=True)
class Resize:
    """An image to width x height pixels, or a table to `height` rows, evenly spaced in time (width is 0)."""

    width: int
    height: int
    fit: str  # Stretch | Crop | Pad


@dataclass(frozen=True, kw_only=True, slots=True)
class Normalise:
    """(x * scale - mean) / std, each channel with its own."""

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Denoise:
    filter: str  # Median | LowPass
    size: int  # of the median's window, odd
    sigma: float  # of the low-pass's Gaussian, in pixels or rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Fused:
    name: str
    sources: tuple[int, ...]  # positions among the channels before
    weights: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fuse:
    """The weighted mean of several channels becomes one; channels that no `into` names pass as they are, behind the
    fused ones. A missing value takes no part and the other weights are made to add up to 1 again."""

    into: tuple[Fused, ...]
    kept: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class DropNearDuplicates:
    """A record that differs from the last one of its source that was run by `distance` or less in the mean of absolute
    differences (in the units of this point of the chain) gets that one's answer again, for `max_age` seconds."""

    distance: float
    max_age: float


Step = Resize | Normalise | Denoise | Fuse | DropNearDuplicates


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    record: Record
    steps: tuple[Step, ...]
    channels: tuple[str, ...]  # after the last step
    input: str  # the model's input that the result goes to
    layout: str


def parse(text: bytes) -> Spec:
    """SpecError for anything that is not understood to the last key: a chain that is half done would feed the model
    something else than what it was trained on."""
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise SpecError(f"not JSON: {error}") from None
    top = _Keys(document, "preprocessing")
    record = _record(top.take("record"))
    raw = top.take("steps", [])
    if not isinstance(raw, list) or len(raw) > _MAX_STEPS:
        raise SpecError(f"steps must be a list of at most {_MAX_STEPS}")
    channels = record.channels
    steps: list[Step] = []
    for index, one in enumerate(raw):
        step, channels = _step(_Keys(one, f"steps[{index}]"), record.kind, channels)
        steps.append(step)
    if sum(isinstance(step, DropNearDuplicates) for step in steps) > 1:
        raise SpecError("steps: DropNearDuplicates may stand there once")
    output = _Keys(top.take("output"), "output")
    spec = Spec(
        record=record,
        steps=tuple(steps),
        channels=channels,
        input=output.text("input"),
        layout=output.choice("layout", _LAYOUTS[record.kind]),
    )
    output.end()
    top.end()
    return spec


def _record(raw: object) -> Record:
    keys = _Keys(raw, "record")
    kind = keys.choice("kind", (IMAGE, TABLE))
    channels = _COLOURS[keys.choice("color", tuple(_COLOURS), "RGB")] if kind == IMAGE else keys.names("channels")
    record = Record(
        kind=kind,
        channels=channels,
        max_pixels=keys.integer("maxPixels", 1, 2**28, 2**23) if kind == IMAGE else 0,
        max_rows=keys.integer("maxRows", 1, 2**20, 2**16) if kind == TABLE else 0,
    )
    keys.end()
    return record


def _step(keys: _Keys, kind: str, channels: tuple[str, ...]) -> tuple[Step, tuple[str, ...]]:
    step: Step
    match keys.choice("step", ("Resize", "Normalise", "Denoise", "Fuse", "DropNearDuplicates")):
        case "Resize" if kind == IMAGE:
            step = Resize(
                width=keys.integer("width", 1, _MAX_SIDE),
                height=keys.integer("height", 1, _MAX_SIDE),
                fit=keys.choice("fit", ("Stretch", "Crop", "Pad"), "Stretch"),
            )
        case "Resize":
            step = Resize(width=0, height=keys.integer("rows", 1, _MAX_SIDE), fit="Stretch")
        case "Normalise":
            step = Normalise(
                scale=keys.number("scale", default=1.0),
                mean=keys.per_channel("mean", len(channels), 0.0),
                std=keys.per_channel("std", len(channels), 1.0),
            )
            if not all(step.std):
                raise SpecError(f"{keys.where}.std: 0 cannot be divided by")
        case "Denoise":
            chosen = keys.choice("filter", ("Median", "LowPass"))
            median = chosen == "Median"
            step = Denoise(
                filter=chosen,
                size=keys.integer("size", 3, 15, 3) if median else 0,
                sigma=0.0 if median else keys.number("sigma", low=0.1, high=100.0, default=1.0),
            )
            if median and step.size % 2 == 0:
                raise SpecError(f"{keys.where}.size: {step.size} is even, a window needs a middle")
        case "Fuse":
            step = _fuse(keys, channels)
            channels = (*(one.name for one in step.into), *(channels[index] for index in step.kept))
            if len(set(channels)) < len(channels):
                raise SpecError(f"{keys.where}.into: {sorted(channels)} holds a name twice")
        case _:
            step = DropNearDuplicates(
                distance=keys.number("distance", low=0.0), max_age=keys.number("maxAge", low=0.0, default=60.0)
            )
    keys.end()
    return step, channels


def _fuse(keys: _Keys, channels: tuple[str, ...]) -> Fuse:
    raw = keys.take("into")
    if not isinstance(raw, list) or not raw:
        raise SpecError(f"{keys.where}.into must be a non-empty list")
    into: list[Fused] = []
    used: set[int] = set()
    for index, one in enumerate(raw):
        inner = _Keys(one, f"{keys.where}.into[{index}]")
        names = inner.names("channels")
        unknown = [name for name in names if name not in channels]
        if unknown:
            raise SpecError(f"{inner.where}.channels: {unknown} are not among {list(channels)}")
        sources = tuple(channels.index(name) for name in names)
        if used.intersection(sources):
            raise SpecError(f"{inner.where}.channels: {list(names)} hold a channel that is fused already")
        used.update(sources)
        weights = inner.per_channel("weights", len(names), 1.0)
        if any(weight <= 0 for weight in weights):
            raise SpecError(f"{inner.where}.weights must be above 0")
        into.append(Fused(name=inner.text("name"), sources=sources, weights=weights))
        inner.end()
    return Fuse(into=tuple(into), kept=tuple(index for index in range(len(channels)) if index not in used))


class _Keys:
    """An object of the document that is taken apart key by key, so that what is left over is unknown."""

    def __init__(self, raw: object, where: str) -> None:
        if not isinstance(raw, dict):
            raise SpecError(f"{where} must be an object")
        self._left: dict[str, Any] = dict(raw)
        self.where = where

    def take(self, key: str, default: object = None) -> Any:
        value = self._left.pop(key, default)
        if value is None:
            raise SpecError(f"{self.where}.{key} is missing")
        return value

    def end(self) -> None:
        if self._left:
            raise SpecError(f"{self.where}: unknown keys {sorted(self._left)}")

    def text(self, key: str) -> str:
        value = self.take(key)
        if not isinstance(value, str) or not 1 <= len(value) <= 253:
            raise SpecError(f"{self.where}.{key} must be a name")
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: str | None = None) -> str:
        value = self.take(key, default)
        if value not in choices:
            raise SpecError(f"{self.where}.{key}: {value!r:.50} is not one of {', '.join(choices)}")
        return str(value)

    def names(self, key: str) -> tuple[str, ...]:
        value = self.take(key)
        if (
            not isinstance(value, list)
            or not 1 <= len(value) <= _MAX_CHANNELS
            or not all(isinstance(name, str) and name for name in value)
            or len(set(value)) < len(value)
        ):
            raise SpecError(f"{self.where}.{key} must be a list of different names")
        return tuple(value)

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        value = self.take(key, default)
        if type(value) is not int or not low <= value <= high:
            raise SpecError(f"{self.where}.{key}: {value!r:.50} is not an integer between {low} and {high}")
        return value

    def number(
        self, key: str, *, low: float = -math.inf, high: float = math.inf, default: float | None = None
    ) -> float:
        return _number(self.take(key, default), f"{self.where}.{key}", low, high)

    def per_channel(self, key: str, count: int, default: float) -> tuple[float, ...]:
        """One number for each channel, or one for all."""
        value = self.take(key, default)
        where = f"{self.where}.{key}"
        if not isinstance(value, list):
            return (_number(value, where),) * count
        if len(value) != count:
            raise SpecError(f"{where}: {len(value)} numbers for {count} channels")
        return tuple(_number(one, where) for one in value)


def _number(value: object, where: str, low: float = -math.inf, high: float = math.inf) -> float:
    # By exact type: true is a number to isinstance.
    number = float(value) if type(value) in (int, float) else math.nan  # type: ignore[arg-type]
    if not math.isfinite(number) or not low <= number <= high:
        raise SpecError(f"{where}: {value!r:.50} is not a number that fits here")
    return number
