"""A record through an artifact's chain into the model's feeds."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

from edgeward_runtime.errors import bad_request
from edgeward_runtime.preprocess import records, steps
from edgeward_runtime.preprocess.spec import (
    IMAGE,
    Denoise,
    DropNearDuplicates,
    Fuse,
    Normalise,
    Resize,
    Spec,
    SpecError,
    parse,
)
from edgeward_runtime.tensors import NUMPY_OF, Array, TensorSpec

# The input that stands for a whole record in a request of the Open Inference Protocol: its bytes.
RECORD = TensorSpec("record", "UINT8", (-1,))
RECORDS = {RECORD.name: RECORD}
_SOURCES = 256  # whose last record is remembered
_THUMBNAIL = 32  # pixels a side at most, of what near duplicates of images are told by


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """What the last record of a source that was run came to."""

    values: records.Values
    at: float  # seconds of the caller's clock
    id: str
    tensors: Mapping[str, Array]
    notes: Mapping[str, object] | None = None  # what its parameters told the client
    answered_by: str = ""  # as in Call


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """feeds for the model, or `again`: the answer that this near duplicate gets once more. `missing` names channels
    that a fusion did without. `look` is what the next record of the source is compared with."""

    feeds: dict[str, Array] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    again: Answered | None = None
    look: records.Values | None = None


class Chain:
    """Of one model version. `prepare` and `answered` may be called by any thread."""

    def __init__(self, spec: Spec, target: TensorSpec) -> None:
        self.spec = spec
        self._datatype = NUMPY_OF[target.datatype]
        shape = _shape(spec)
        # Of what it makes, 0 where that hangs on the record.
        self.feed_bytes = math.prod(shape) * self._datatype.itemsize if -1 not in shape else 0
        self.prepare_ns = 0.0  # that a record took lately, 0 = none was prepared yet
        self._last: OrderedDict[str, Answered] = OrderedDict()
        self._lock = Lock()

    def prepare(self, body: bytes, *, source: str, now: float, compare: bool = True) -> Prepared:
        """ProtocolError 400 for a record that cannot be read, lacks a value that no fusion replaces or comes to a value
        that its type cannot hold. compare=False: a near duplicate is prepared like any other."""
        # What overflows is found at the end, in whichever step it did.
        with np.errstate(over="ignore", invalid="ignore"):
            return self._prepare(body, source, now, compare)

    def _prepare(self, body: bytes, source: str, now: float, compare: bool) -> Prepared:
        spec = self.spec
        todo = list(spec.steps)
        if spec.record.kind == IMAGE:
            first = todo.pop(0) if todo and isinstance(todo[0], Resize) else None
            values = records.image(body, spec.record, first if isinstance(first, Resize) else None)
        else:
            values = records.table(body, spec.record)
        channels, look = spec.record.channels, None
        missing: set[str] = set()
        for step in todo:
            match step:
                case Resize():
                    image = values.ndim == 3
                    values = records.refitted(values, step) if image else steps.resampled(values, step)
                case Normalise():
                    values = steps.normalised(values, step)
                case Denoise():
                    values = steps.denoised(values, step)
                case Fuse():
                    values, absent = steps.fused(values, step)
                    missing.update(channels[index] for index in absent)
                    channels = (*(one.name for one in step.into), *(channels[index] for index in step.kept))
                case DropNearDuplicates():
                    look = _thumbnail(values)
                    before = self._last.get(source)
                    if (
                        compare
                        and before is not None
                        and 0 <= now - before.at <= step.max_age
                        and steps.distance(look, before.values) <= step.distance
                    ):
                        return Prepared(again=before)
        unknown = np.flatnonzero(np.isnan(values).reshape(-1, len(channels)).any(axis=0))
        if len(unknown):
            names = [channels[index] for index in unknown]
            raise bad_request(f"the record lacks values of {names}, and no fusion stands in for them")
        tensor = self._laid_out(values)
        if not np.isfinite(values).all() or not np.isfinite(tensor).all():
            raise bad_request("the record comes to values that are too large")
        return Prepared(feeds={spec.input: tensor}, missing=tuple(sorted(missing)), look=look)

    def answered(
        self,
        source: str,
        prepared: Prepared,
        *,
        now: float,
        id: str,
        tensors: Mapping[str, Array],
        notes: Mapping[str, object] | None = None,
        answered_by: str = "",
    ) -> None:
        """Remembers what a record that was run came to, if near duplicates are to be dropped."""
        if prepared.look is None:
            return
        answer = Answered(values=prepared.look, at=now, id=id, tensors=tensors, notes=notes, answered_by=answered_by)
        with self._lock:
            self._last[source] = answer
            self._last.move_to_end(source)
            while len(self._last) > _SOURCES:
                self._last.popitem(last=False)

    def _laid_out(self, values: records.Values) -> Array:
        match self.spec.layout:
            case "NCHW":
                values = values.transpose(2, 0, 1)[np.newaxis]
            case "NHWC" | "Sequence":
                values = values[np.newaxis]
            case "Flat":
                values = values.reshape(1, -1)
        if self._datatype.kind in "iu":
            limits = np.iinfo(np.dtype(self._datatype.name))
            most = np.float32(limits.max)
            if int(most) > limits.max:  # as the nearest float32 of 2^31-1 is, which would come round to the least
                most = np.nextafter(most, np.float32(0))
            values = np.clip(np.rint(values), np.float32(limits.min), most)
        return np.ascontiguousarray(values, self._datatype)


def _thumbnail(values: records.Values) -> records.Values:
    """Means over blocks of an image, so that one pixel's noise makes no record another; a table as it is."""
    if values.ndim == 2:
        return values
    height, width, channels = values.shape
    rows, columns = -(-height // _THUMBNAIL), -(-width // _THUMBNAIL)
    whole = values[: height // rows * rows, : width // columns * columns]
    blocks = whole.reshape(height // rows, rows, width // columns, columns, channels)
    means: records.Values = blocks.mean(axis=(1, 3), dtype=np.float32)
    return means


def load(text: bytes, inputs: Mapping[str, TensorSpec]) -> Chain:
    """The chain for a model with these inputs. SpecError says what is wrong, or what does not fit the model."""
    spec = parse(text)
    target = inputs.get(spec.input)
    if target is None or len(inputs) != 1:
        raise SpecError(f"output.input is {spec.input!r}, the model takes {sorted(inputs)}; it must be its only one")
    if target.datatype in ("BYTES", "BOOL", "BF16"):
        raise SpecError(f"output.input: '{spec.input}' takes {target.datatype}, not numbers of a usual type")
    shape = _shape(spec)
    fits = len(shape) == len(target.shape) and all(
        here == there or -1 in (here, there) for here, there in zip(shape, target.shape, strict=True)
    )
    if not fits:
        raise SpecError(f"the chain makes {list(shape)}, input '{spec.input}' takes {list(target.shape)}")
    if RECORD.name in inputs:
        raise SpecError(f"a model with preprocessing cannot have an input named '{RECORD.name}'")
    return Chain(spec, target)


def _shape(spec: Spec) -> tuple[int, ...]:
    """Of what the chain makes, -1 where that hangs on the record."""
    height = width = -1
    for step in spec.steps:
        if isinstance(step, Resize):
            height, width = step.height, step.width
    channels = len(spec.channels)
    match spec.layout:
        case "NCHW":
            return (1, channels, height, width)
        case "NHWC":
            return (1, height, width, channels)
        case "Rows":
            return (height, channels)
        case "Sequence":
            return (1, height, channels)
    return (1, height * channels if height > 0 else -1)
