"""Chunks in fewer bytes, for links on which that saves time; pure. docs/artifact.md describes the blob of them.

A packed chunk is a byte and its content: 0, the bytes as they are; 1, 2 or 4: zlib (RFC 1950) over the bytes by turns,
first those at 0, s, 2s..., then those at 1, s+1, 2s+1...; s is the first byte, and what is left at the end follows. Weights
are numbers of two or four bytes: their signs and exponents, side by side, are alike, and their low bits are noise.
"""

from __future__ import annotations

import zlib

import numpy as np

_STRIDES = (1, 2, 4)
_SAMPLE = 64 * 1024  # bytes that tell which stride is best
_LEVEL = 6

# A form of the files that is not smaller than this is not published: it costs the registry as much as the files again.
WORTH = 0.9


def pack(data: bytes | memoryview) -> bytes:
    """At most a byte longer than the data."""
    sample = bytes(data[:_SAMPLE])
    stride = min(_STRIDES, key=lambda one: len(zlib.compress(_turned(sample, one), _LEVEL)))
    best = zlib.compress(_turned(data, stride), _LEVEL)
    return bytes([stride]) + best if len(best) < len(data) else b"\0" + bytes(data)


def unpack(packed: bytes | bytearray | memoryview, length: int) -> bytes:
    """The chunk's `length` bytes, never more. ValueError for what does not give that many."""
    stride, rest = (packed[0], packed[1:]) if packed else (-1, b"")
    if stride == 0:
        data = bytes(rest)
    elif stride in _STRIDES:
        try:
            data = _back(zlib.decompressobj().decompress(rest, length + 1), stride)
        except zlib.error as error:
            raise ValueError(str(error)) from None
    else:
        raise ValueError(f"packed in a way that is not known: {stride}")
    if len(data) != length:
        raise ValueError(f"{length} bytes wanted, {len(data)} found")
    return data


def _turned(data: bytes | memoryview, stride: int) -> bytes:
    even = len(data) - len(data) % stride
    return np.frombuffer(data, np.uint8, even).reshape(-1, stride).T.tobytes() + bytes(data[even:])


def _back(data: bytes, stride: int) -> bytes:
    even = len(data) - len(data) % stride
    return np.frombuffer(data, np.uint8, even).reshape(stride, -1).T.tobytes() + data[even:]


def pays(*, size: int, packed: int, bandwidth: float, unpack_rate: float) -> bool:
    """Whether T_d = bytes z/bandwidth + bytes/unpack rate, in seconds, is less than without packing: bytes/bandwidth.
    `bandwidth` and `unpack_rate` in bytes/s, 0 for not known yet: then the smaller form is tried, which measures both."""
    if packed >= size:
        return False
    if bandwidth <= 0 or unpack_rate <= 0:
        return True
    return packed / bandwidth + size / unpack_rate < size / bandwidth
