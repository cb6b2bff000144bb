"""What an ONNX file says of itself before anything loads it: its operator sets, and the files that it would open.

An ONNX file may keep tensors in other files (TensorProto.external_data) and names them by a path, which onnxruntime would
open. So every such path is looked at first. The file is a protobuf message (github.com/onnx/onnx, onnx/onnx.proto); this
walks the few kinds of message that can hold a tensor and skips everything else, weights included, without reading it. It
takes more for an external tensor than a parser would: whatever names a location counts, since fields that are there twice
are merged by some rules that need not matter here.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeward_runtime.artifact.manifest import safe_path
from edgeward_runtime.errors import Refusal

# kind of message -> number of a field -> kind of the message in it. Numbers from onnx.proto.
_FIELDS: Mapping[str, Mapping[int, str]] = {
    "Model": {7: "Graph", 8: "OperatorSet", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 9: "OperatorSet", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
    "OperatorSet": {},
    "Entry": {},
}
_MAX_DEPTH = 64  # messages within messages; graphs within graphs take three each
_MAX_FIELDS = 4_000_000  # of messages that are walked: some seconds
_MAX_LOCATIONS = 4096
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types; groups (3, 4) are in no ONNX file


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    ir_version: int  # of the file format, 0 if it does not say
    opsets: Mapping[str, int]  # domain -> version; the domain of ONNX itself is ""
    external: frozenset[str]  # locations of external data, as they are written


def scan(path: Path) -> Scan:
    """Refusal NotOnnx (step Load, permanent) if the file is no protobuf message, or one that nobody would make."""
    if path.stat().st_size == 0:
        raise Refusal(step="Load", reason="Empty", message="the file has 0 bytes", permanent=True)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _Walk(data).scan()


def check_external(path: Path, *, root: Path | None) -> Scan:
    """Returns what `scan` does, if every file that the model would open lies below `root`, also after symbolic links
    are followed, and is there. `root` None: the model is a single file and may open none. Refusal, permanent, step
    Load: UnsafePath, ExternalDataMissing."""
    found = scan(path)
    if found.external and root is None:
        message = f"the model keeps weights in {_named(found.external)}; publish it as an artifact with those files"
        raise _refusal("ExternalDataMissing", message)
    for location in sorted(found.external):
        assert root is not None
        _check_location(path.parent, location, root)
    return found


def _check_location(folder: Path, location: str, root: Path) -> None:
    plain = "/".join(part for part in location.split("/") if part != ".")
    # onnxruntime takes some locations for something else than a path, an address in memory for one: those do not
    # look like the names that pass here.
    if location.startswith("/") or not safe_path(plain):
        raise _refusal(
            "UnsafePath", f"the model would open {location!r:.200}, which is no relative path of plain names"
        )
    target = (folder / plain).resolve()
    if not target.is_relative_to(root.resolve()):
        raise _refusal("UnsafePath", f"the model would open {location!r:.200}, which leads out of its folder")
    if not target.is_file():
        raise _refusal("ExternalDataMissing", f"the model keeps weights in {location!r:.200}, which is not there")


class _Walk:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._left = _MAX_FIELDS
        self._ir_version = 0
        self._opsets: dict[str, int] = {}
        self._external: set[str] = set()

    def scan(self) -> Scan:
        self._message("Model", 0, len(self._data), _MAX_DEPTH)
        return Scan(ir_version=self._ir_version, opsets=self._opsets, external=frozenset(self._external))

    def _message(self, kind: str, start: int, end: int, depth: int) -> None:
        if depth == 0:
            raise _not_onnx(f"messages are nested deeper than {_MAX_DEPTH}")
        if kind == "OperatorSet":
            self._operator_set(start, end)
        elif kind == "Entry":
            self._entry(start, end)
        else:
            inner = _FIELDS[kind]
            for number, wire, low, high in self._fields(start, end):
                if wire == _BYTES and number in inner:
                    self._message(inner[number], low, high, depth - 1)
                elif wire == _VARINT and number == 1 and kind == "Model":
                    self._ir_version = low

    def _operator_set(self, start: int, end: int) -> None:
        domain, version = "", 0
        for number, wire, low, high in self._fields(start, end):
            if number == 1 and wire == _BYTES:
                domain = self._text(low, high)
            elif number == 2 and wire == _VARINT:
                version = low
        # That a function brings along never exceeds the model's own in a file that loads.
        self._opsets[domain] = max(version, self._opsets.get(domain, 0))

    def _entry(self, start: int, end: int) -> None:
        keys: list[str] = []
        values: list[str] = []
        for number, wire, low, high in self._fields(start, end):
            if wire == _BYTES and number in (1, 2):
                (keys if number == 1 else values).append(self._text(low, high))
        if "location" in keys:
            self._external.update(values or [""])
            if len(self._external) > _MAX_LOCATIONS:
                raise _not_onnx(f"more than {_MAX_LOCATIONS} files of external data")

    def _text(self, start: int, end: int) -> str:
        return self._data[start:end].decode("utf-8", "replace")

    def _fields(self, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Number, wire type and, for bytes, where they begin and end; for a varint its value and 0."""
        while position < end:
            self._left -= 1
            if self._left < 0:
                raise _not_onnx(f"more than {_MAX_FIELDS} fields")
            tag, position = self._varint(position, end)
            wire = tag & 7
            if wire == _BYTES:
                length, position = self._varint(position, end)
                stop = position + length
                if stop > end:
                    raise _not_onnx("a field goes beyond the end of what it is in")
                yield tag >> 3, wire, position, stop
                position = stop
            elif wire == _VARINT:
                value, position = self._varint(position, end)
                yield tag >> 3, wire, value, 0
            elif wire in (_FIXED64, _FIXED32):
                position += 8 if wire == _FIXED64 else 4
                if position > end:
                    raise _not_onnx("a field goes beyond the end of what it is in")
            else:
                raise _not_onnx(f"wire type {wire}")

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        data = self._data
        value = shift = 0
        while position < end and shift < 70:
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
            shift += 7
        raise _not_onnx("a number without an end")


def _named(locations: frozenset[str]) -> str:
    first = sorted(locations)[0]
    return f"{first!r:.200}" + (f" and {len(locations) - 1} more files" if len(locations) > 1 else "")


def _not_onnx(text: str) -> Refusal:
    return Refusal(step="Load", reason="NotOnnx", message=f"not an ONNX file: {text}", permanent=True)


def _refusal(reason: str, message: str) -> Refusal:
    return Refusal(step="Load", reason=reason, message=message, permanent=True)
